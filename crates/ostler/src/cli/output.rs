//! What commands write: to a person, coloured where that can be seen, or to a program.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

/// Colours are for terminals, and can be turned off (<https://no-color.org>).
pub fn colours(out: &impl IsTerminal) -> bool {
    let plain = std::env::var_os("NO_COLOR").is_some_and(|set| !set.is_empty());
    out.is_terminal() && !plain
}

/// Writes to standard output.
///
/// # Errors
/// The exit code when that is closed.
pub fn written(text: &str) -> Result<(), ExitCode> {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(|_| ExitCode::FAILURE)
}
