//! The server process: what it holds, built in order, stopped in reverse.
