//! The request log: one row for each request, in SQLite, to ask questions of.
//!
//! An edge thread puts a row into a buffer of its own ([`Inbox`]) and goes on; one thread takes what is there a few
//! times a second and writes it in one transaction ([`log`]). Without room a row is lost and counted: a request
//! never waits for a disk. This folder knows no connection and no worker.

pub mod find;
mod inbox;
mod log;
mod record;
mod route;
mod table;

pub use inbox::Inbox;
pub use log::{Bounds, Log};
pub use record::Record;
