//! The names of one certificate, checked once.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};

use crate::config::serve::is_public;

/// Most names of one certificate: what Let's Encrypt takes.
const MOST_NAMES: usize = 100;

/// Host names that one certificate is for: lower case, sorted, none twice, at least one. `*` stands
/// only for a whole first label.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct Names(Vec<String>);

/// What is wrong with a set of names. The operator must act.
#[derive(Debug, PartialEq, Eq)]
pub enum NameError {
    None,
    TooMany(usize),
    /// Not a host name that a certificate can be for.
    Bad(String),
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("a certificate needs at least one name"),
            Self::TooMany(count) => write!(
                f,
                "{count} names for one certificate; hint: {MOST_NAMES} are the most, share them out"
            ),
            Self::Bad(name) => write!(
                f,
                "`{name}` is no host name a certificate can be for; hint: write letters, digits and `-`, \
                 at most 63 in each part (names in other scripts as xn--…)"
            ),
        }
    }
}

impl std::error::Error for NameError {}

impl Names {
    /// Checks and sorts them.
    pub fn new<I: IntoIterator<Item = S>, S: AsRef<str>>(names: I) -> Result<Self, NameError> {
        let mut checked = Vec::new();
        for name in names {
            let name = name.as_ref();
            let lower = name.to_ascii_lowercase();
            if !is_public(lower.strip_prefix("*.").unwrap_or(&lower)) {
                return Err(NameError::Bad(name.to_owned()));
            }
            checked.push(lower);
        }
        checked.sort();
        checked.dedup();
        match checked.len() {
            0 => Err(NameError::None),
            count if count > MOST_NAMES => Err(NameError::TooMany(count)),
            _ => Ok(Self(checked)),
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    pub fn first(&self) -> &str {
        &self.0[0]
    }

    /// Whether one of them is a wildcard.
    pub fn wild(&self) -> bool {
        self.iter().any(|name| name.starts_with("*."))
    }

    /// The name of their folder: readable, safe in a path, different for different sets.
    pub fn folder(&self) -> String {
        let hash = digest::digest(&digest::SHA256, self.0.join("\n").as_bytes());
        let hash = hash.as_ref()[..6].iter().map(|byte| format!("{byte:02x}"));
        let first = self.first().replace('*', "_");
        format!("{first}-{}", hash.collect::<String>())
    }
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(", "))
    }
}

impl FromStr for Names {
    type Err = NameError;

    /// Names with commas or spaces between them.
    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::new(
            text.split([',', ' '])
                .map(str::trim)
                .filter(|name| !name.is_empty()),
        )
    }
}

impl TryFrom<Vec<String>> for Names {
    type Error = NameError;

    fn try_from(names: Vec<String>) -> Result<Self, NameError> {
        Self::new(names)
    }
}

impl From<Names> for Vec<String> {
    fn from(names: Names) -> Self {
        names.0
    }
}

/// Whether `pattern` (a name of a certificate, maybe with `*.`) is for the host `name`; both lower
/// case. A wildcard is for exactly one label (RFC 9525 section 6.3).
pub fn covers(pattern: &str, name: &str) -> bool {
    match pattern.strip_prefix("*.") {
        None => pattern == name,
        Some(parent) => {
            pattern == name
                || name
                    .split_once('.')
                    .is_some_and(|(label, rest)| !label.is_empty() && rest == parent)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_and_sorted() {
        let good = |text: &str| text.parse::<Names>().unwrap().to_string();
        assert_eq!(
            good("b.example, A.example a.example"),
            "a.example, b.example"
        );
        assert_eq!(good("*.example.com"), "*.example.com");
        assert_eq!("".parse::<Names>(), Err(NameError::None));
        for bad in [
            "localhost",
            "a..b",
            ".a.b",
            "a.b.",
            "-a.b",
            "a_b.c",
            "a.*.b",
            "*",
            "*.com.",
            "1.2.3.4",
            "a/b.c",
            "../x.y",
            "ä.example",
            "**.a.b",
        ] {
            assert_eq!(
                Names::new([bad]),
                Err(NameError::Bad(bad.to_owned())),
                "{bad}"
            );
        }
        assert!(Names::new([format!("{}.example", "a".repeat(64))]).is_err());
        let many = (0..101).map(|number| format!("n{number}.example"));
        assert_eq!(Names::new(many), Err(NameError::TooMany(101)));
    }

    #[test]
    fn a_wildcard_is_for_one_label() {
        assert!(covers("a.b", "a.b") && covers("*.b.c", "x.b.c") && covers("*.b.c", "*.b.c"));
        assert!(!covers("*.b.c", "b.c") && !covers("*.b.c", "x.y.b.c") && !covers("a.b", "x.a.b"));
        assert!(!covers("*.b.c", ".b.c"));
    }

    #[test]
    fn folders_are_apart_and_safe() {
        let folder = |text: &str| text.parse::<Names>().unwrap().folder();
        assert!(folder("*.a.b").starts_with("_.a.b-"));
        assert_ne!(folder("a.b"), folder("a.b, c.d"));
        assert_eq!(folder("c.d a.b"), folder("a.b, c.d"));
    }
}
