//! What the operator asks for: the CA, and which names.

use std::fmt;
use std::path::PathBuf;

use crate::config::serve::{Acme, Challenge};

use super::names::{NameError, Names};

/// The CA, and where what it gives is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub acme: Acme,
    /// Our folder: accounts, orders, certificates.
    pub state: PathBuf,
}

/// Names that are to be had from the CA with one certificate.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Wanted {
    pub names: Names,
    pub challenge: Challenge,
}

/// What cannot be had. The operator must act.
#[derive(Debug, PartialEq, Eq)]
pub enum WantedError {
    Names(NameError),
    /// CAs prove wildcards through DNS only (RFC 8555 section 8.4).
    Wildcard(String),
}

impl fmt::Display for WantedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Names(error) => error.fmt(f),
            Self::Wildcard(names) => write!(
                f,
                "a CA proves a wildcard through DNS only: {names}; hint: use the challenge dns-01 and a hook program"
            ),
        }
    }
}

impl std::error::Error for WantedError {}

impl Wanted {
    /// A certificate from the CA.
    pub fn acme<I: IntoIterator<Item = S>, S: AsRef<str>>(
        names: I,
        challenge: Challenge,
    ) -> Result<Self, WantedError> {
        let names = Names::new(names).map_err(WantedError::Names)?;
        if names.wild() && challenge != Challenge::Dns01 {
            return Err(WantedError::Wildcard(names.to_string()));
        }
        Ok(Self { names, challenge })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_need_dns() {
        assert!(Wanted::acme(["*.a.example"], Challenge::Dns01).is_ok());
        let error = Wanted::acme(["*.a.example"], Challenge::Http01).unwrap_err();
        assert!(error.to_string().contains("dns-01"), "{error}");
    }
}
