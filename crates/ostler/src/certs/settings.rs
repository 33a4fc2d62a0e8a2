//! What the operator asks for: the CA, and which names.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::config::serve::{Acme, Challenge, Eab, KeyKind};

use super::names::{NameError, Names};

/// The CA, and how it is to be spoken to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// URL of the CA's directory.
    pub directory: String,
    /// PEM of the roots that the CA's own server is checked with; `None` is the system's.
    pub ca_root: Option<String>,
    /// An e-mail address that the CA may write to.
    pub contact: Option<String>,
    pub key: KeyKind,
    /// The DNS server for our own look at a name; `None` is the system's way.
    pub resolver: Option<SocketAddr>,
    /// Where the CA comes to for HTTP-01: 80 but in tests.
    pub http_port: u16,
    /// Where the CA comes to for TLS-ALPN-01: 443 but in tests.
    pub tls_port: u16,
    /// The program of DNS-01: called as `PROGRAM present|cleanup NAME VALUE`.
    pub hook: Option<PathBuf>,
    pub eab: Option<Eab>,
    /// The CA's profile (`shortlived`, …).
    pub profile: Option<String>,
    /// Our folder: accounts, orders, certificates.
    pub state: PathBuf,
}

impl Settings {
    /// `state` is our folder.
    pub fn new(acme: &Acme, state: PathBuf) -> Self {
        Self {
            directory: acme.directory.clone(),
            ca_root: acme.ca_root_text.clone(),
            contact: acme.email.clone(),
            key: acme.key,
            resolver: acme.resolver,
            http_port: acme.http_port,
            tls_port: acme.tls_port,
            hook: acme.hook.clone(),
            eab: acme.eab.clone(),
            profile: acme.profile.clone(),
            state,
        }
    }
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
