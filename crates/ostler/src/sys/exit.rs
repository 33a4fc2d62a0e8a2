//! How a process ended, in words an operator knows: `exit 1`, `SIGSEGV`. Pure.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::signal;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// It returned this exit code (0 to 255).
    Code(i32),
    /// A signal with this number ended it.
    Signal { number: i32, core_dumped: bool },
    /// Its parent was gone before it could tell.
    Unknown,
}

impl Exit {
    /// Reads a wait status as `waitpid(2)` gives it; stopped or continued is not an end.
    pub fn from_wait_status(status: i32) -> Option<Self> {
        if libc::WIFEXITED(status) {
            Some(Self::Code(libc::WEXITSTATUS(status)))
        } else if libc::WIFSIGNALED(status) {
            let core_dumped = libc::WCOREDUMP(status);
            Some(Self::Signal {
                number: libc::WTERMSIG(status),
                core_dumped,
            })
        } else {
            None
        }
    }

    /// The end came by a signal that a program brings on itself (SIGSEGV, SIGABRT …). SIGKILL and
    /// SIGTERM come from somebody else, so the request at hand is not to blame.
    pub fn is_crash(self) -> bool {
        matches!(self, Self::Signal { number, .. } if number != libc::SIGKILL && number != libc::SIGTERM)
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit {code}"),
            Self::Signal {
                number,
                core_dumped: false,
            } => f.write_str(&signal::name(*number)),
            Self::Signal {
                number,
                core_dumped: true,
            } => {
                write!(f, "{} (core dumped)", signal::name(*number))
            }
            Self::Unknown => f.write_str("unknown exit"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exits_are_named_in_the_operators_words() {
        let cases = [
            (0x0000, Some("exit 0")),
            (0x0300, Some("exit 3")),
            (0xff00, Some("exit 255")),
            (0x0009, Some("SIGKILL")),
            (0x008b, Some("SIGSEGV (core dumped)")),
            (0x0022, Some("SIGRTMIN")),
            (0x0026, Some("SIGRTMIN+4")),
            (0x137f, None),
            (0xffff, None),
        ];
        for (status, name) in cases {
            let seen = Exit::from_wait_status(status).map(|exit| exit.to_string());
            assert_eq!(seen.as_deref(), name, "wait status {status:#x}");
        }
    }
}
