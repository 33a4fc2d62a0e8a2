//! What the operator is told about settings: errors that stop a start, warnings that do not.
//! Each reads *what failed: what was seen; hint: what to do*.

use std::fmt;

/// One setting that cannot be served. Exit code of the command that meets it: 2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// What failed, naming the setting: "workers needs a whole number from 1 to 1000".
    pub what: String,
    /// What was seen, and where: "`--workers 0` on the command line".
    pub seen: String,
    /// What to do about it.
    pub hint: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; hint: {}", self.what, self.seen, self.hint)
    }
}

impl std::error::Error for ConfigError {}

/// Something the operator should know that does not stop a start. One line of text, no level in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning(pub String);

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why one value is refused, said by the code that reads it, which does not know where it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// Goes behind the setting's name: "needs a whole number".
    pub what: String,
    /// What to do about it.
    pub hint: String,
}

impl Complaint {
    pub fn new(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Complaint {
            what: what.into(),
            hint: hint.into(),
        }
    }
}
