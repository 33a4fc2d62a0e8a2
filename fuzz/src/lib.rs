//! The parsers of the edge, compiled here from their own files, and the account that each target gives.

#![allow(dead_code, reason = "a target uses a part of what the files hold")]

use std::sync::atomic::{AtomicU64, Ordering};

#[path = "../../crates/ostler/src/config/mod.rs"]
pub mod config;
pub mod edge;
#[path = "../../crates/ostler/src/edge/h1/invariants.rs"]
pub mod invariants;

#[path = "../../crates/ostler-wire/tests/invariants/mod.rs"]
pub mod wire;

/// Counts what a target was given and what of it was good: a fuzzer that never gets past the first
/// check has tested nothing behind it.
pub struct Account {
    name: &'static str,
    inputs: AtomicU64,
    accepted: AtomicU64,
}

impl Account {
    pub const fn new(name: &'static str) -> Self {
        Self {
            name,
            inputs: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
        }
    }

    /// Books one input; tells the sums whenever the number of inputs is a power of two.
    pub fn book(&self, accepted: bool) {
        let accepted = self.accepted.fetch_add(accepted.into(), Ordering::Relaxed) + u64::from(accepted);
        let inputs = self.inputs.fetch_add(1, Ordering::Relaxed) + 1;
        if inputs.is_power_of_two() {
            eprintln!("{}: {accepted} of {inputs} inputs accepted", self.name);
        }
    }
}
