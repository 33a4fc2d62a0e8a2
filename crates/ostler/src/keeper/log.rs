//! Where the keeper's own lines go once the settings are known: the error log, without a thread.

use std::io;
use std::path::PathBuf;

use crate::config::{LogLevel, LogTarget, Settings};
use crate::logs::{self, Sink};
use crate::sys::User;

/// Sends our lines to the error log, and gives the log files to the user who will write them.
pub fn start(settings: &Settings, user: Option<&User>) -> io::Result<Sink> {
    let own = |path: &PathBuf| {
        let (uid, gid) = (user.map(|user| user.uid), user.map(|user| user.gid));
        let named = |error: io::Error| {
            io::Error::new(
                error.kind(),
                format!(
                    "cannot write the log {}: {error}; hint: create its directory, or name another file",
                    path.display()
                ),
            )
        };
        logs::prepare(path, uid, gid).map_err(named)
    };
    for log in [&settings.logs.error_log, &settings.logs.access_log] {
        if let LogTarget::File(path) = log {
            own(path)?;
        }
    }
    let offset = logs::local_offset();
    let target = target(settings);
    let colours = logs::wants_colours(&target, std::env::var_os("NO_COLOR").as_deref());
    let sink = Sink::direct(&target)?;
    logs::start(level(settings), sink.clone(), offset, colours);
    Ok(sink)
}

/// The error log.
pub fn target(settings: &Settings) -> logs::Target {
    match error_log_path(settings) {
        Some(path) => logs::Target::Path(path.clone()),
        None => logs::Target::Stderr,
    }
}

/// The error log as a path, when it is a file.
pub fn error_log_path(settings: &Settings) -> Option<&PathBuf> {
    match &settings.logs.error_log {
        LogTarget::File(path) => Some(path),
        LogTarget::Off | LogTarget::Standard => None,
    }
}

/// How loud a line must be.
pub fn level(settings: &Settings) -> logs::Level {
    match settings.logs.log_level {
        LogLevel::Debug => logs::Level::Debug,
        LogLevel::Info => logs::Level::Info,
        LogLevel::Warning => logs::Level::Warning,
        LogLevel::Error => logs::Level::Error,
        LogLevel::Critical => logs::Level::Critical,
    }
}
