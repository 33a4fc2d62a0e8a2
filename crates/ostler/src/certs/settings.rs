//! What the operator asks for: the CA, the challenges, and which names.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::names::{NameError, Names};

/// Let's Encrypt, whose certificates browsers trust.
pub const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";

/// Let's Encrypt's staging environment: generous limits, and nobody trusts it.
pub const STAGING: &str = "https://acme-staging-v02.api.letsencrypt.org/directory";

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

/// The kind of a certificate's private key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KeyKind {
    #[default]
    P256,
    P384,
}

/// An account that the operator has at the CA (RFC 8555 section 7.3.4).
#[derive(Clone, PartialEq, Eq)]
pub struct Eab {
    pub id: String,
    /// As the CA hands it out: base64url.
    pub key: String,
}

impl fmt::Debug for Eab {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Eab")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// How a name is proved to be ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Challenge {
    Http01,
    TlsAlpn01,
    Dns01,
}

/// Names that are to be served with one certificate.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Wanted {
    pub names: Names,
    pub source: Source,
}

/// Where their certificate comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Source {
    Acme(Challenge),
    /// PEM files of the operator, read again when they change.
    Files {
        certificate: PathBuf,
        key: PathBuf,
    },
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
        let source = Source::Acme(challenge);
        Ok(Self { names, source })
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

    #[test]
    fn the_key_of_an_account_is_not_shown() {
        let eab = Eab {
            id: "kid".to_owned(),
            key: "c2VjcmV0".to_owned(),
        };
        assert!(!format!("{eab:?}").contains("c2VjcmV0"));
    }
}
