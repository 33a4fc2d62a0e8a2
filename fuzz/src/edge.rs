//! The part of the edge that is bytes in, values out.

#[path = "../../crates/ostler/src/edge/h1/mod.rs"]
pub mod h1;
#[path = "../../crates/ostler/src/edge/reason.rs"]
pub mod reason;
