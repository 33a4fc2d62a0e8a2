//! What should run, as a pure state machine, and the shell that carries it out.
