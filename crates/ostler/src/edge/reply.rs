//! Answers that ostler makes itself.
