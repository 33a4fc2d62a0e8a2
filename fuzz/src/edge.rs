//! The part of the edge that is bytes in, values out.

#[path = "../../crates/ostler/src/edge/h1/mod.rs"]
pub mod h1;
#[path = "../../crates/ostler/src/edge/peer.rs"]
pub mod peer;
#[path = "../../crates/ostler/src/edge/proxy_invariants.rs"]
pub mod proxy_invariants;
#[path = "../../crates/ostler/src/edge/proxy_protocol.rs"]
pub mod proxy_protocol;
#[path = "../../crates/ostler/src/edge/files/range.rs"]
pub mod range;
#[path = "../../crates/ostler/src/edge/files/range_invariants.rs"]
pub mod range_invariants;
#[path = "../../crates/ostler/src/edge/reason.rs"]
pub mod reason;
