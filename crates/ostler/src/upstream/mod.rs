//! Other HTTP servers that requests go on to: which of several, whether it is well, and a connection to it.
//!
//! Knows no HTTP but for the question how a server is (`check`). Reading order: [`group`] (one of several is chosen,
//! or waited for), `choice`, `health` and `budget` (what that is decided by; pure), [`one`] (one address, its
//! connections), [`stream`], `care` (names and health, from time to time).

mod budget;
mod care;
mod check;
mod choice;
mod group;
mod health;
mod one;
mod stream;

pub use care::{Caretaker, LOOK_UPS};
pub use group::{Group, Lease, Refused};
pub use one::{Link, One};
pub use stream::{Stream, Trouble};
