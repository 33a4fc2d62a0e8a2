//! The Python extension as bytes. It must not know how the bytes reach a worker.

/// The abi3 shared object that `build.rs` made of `crates/ostler-worker`.
pub const WORKER_SO: &[u8] = include_bytes!(env!("OSTLER_WORKER_SO"));
