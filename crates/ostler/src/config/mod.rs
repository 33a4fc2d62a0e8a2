//! Text → what was written → checked settings. Knows no sockets and starts nothing.
//!
//! [`table::TABLE`] is the one list of settings. [`Written`] holds what the command line, `GUNICORN_CMD_ARGS` and the
//! environment say; the config file is Python, is evaluated in the zygote, and arrives here as JSON. [`finish`] lays
//! the sources over each other (defaults, environment, file, `GUNICORN_CMD_ARGS`, command line: as gunicorn does),
//! checks everything and yields [`Settings`], or every error at once.

pub mod bind;
pub mod dotenv;
pub mod flags;
pub mod network;
pub mod serve;
pub mod settings;
pub mod table;
pub mod units;
pub mod words;
pub mod written;

mod assemble;
mod error;
mod layers;
mod report;
mod unknown;
pub mod value;
mod worker_class;

pub use assemble::{callable, finish, machine};
pub use bind::Bind;
pub use error::{Complaint, ConfigError};
pub use layers::check_early;
pub use network::{Network, Trust};
pub use report::{effective, print};
pub use settings::*;
pub use unknown::{changed_at_start, file_names, hook_warnings, machines, not_reloaded};
#[cfg(test)]
pub use worker_class::WorkerClass;
#[cfg(test)]
pub use written::Origin;
pub use written::Written;
