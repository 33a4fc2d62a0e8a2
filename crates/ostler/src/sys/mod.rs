//! The only unsafe code of the binary: descriptors, users, signals, processes, and the one door
//! through which every program is started. Knows nothing of zygotes, workers or HTTP.

#![allow(unsafe_code)]

pub mod anew;
pub mod boot;
pub mod channel;
pub mod exit;
pub mod fds;
pub mod memory;
pub mod peer;
pub mod process;
pub mod program;
pub mod signal;
pub mod spawn;
pub mod users;
mod worker_so;

pub use channel::{Channel, Message};
pub use exit::Exit;
pub use process::Pidfd;
pub use signal::Signal;
pub use spawn::{Child, Spawn};
pub use users::User;
