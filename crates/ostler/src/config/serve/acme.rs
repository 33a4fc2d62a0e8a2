//! How certificates are had from a CA, checked. Asks nobody.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::error::Complaint;

/// Let's Encrypt, whose certificates browsers trust.
const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";

/// Let's Encrypt's staging environment: generous limits, and nobody trusts it.
const STAGING: &str = "https://acme-staging-v02.api.letsencrypt.org/directory";

/// Where DNS servers listen.
const DNS_PORT: u16 = 53;

/// The CA, and how it is to be spoken to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acme {
    /// URL of the CA's directory (RFC 8555 section 7.1.1).
    pub directory: String,
    /// The roots that the CA's own server is checked with; `None` is the system's.
    pub ca_root: Option<PathBuf>,
    /// What that file holds, once the keeper has read it.
    pub ca_root_text: Option<String>,
    /// Where the CA may write to.
    pub email: Option<String>,
    pub key: KeyKind,
    pub challenge: Challenge,
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
}

impl Default for Acme {
    fn default() -> Self {
        Self {
            directory: LETS_ENCRYPT.to_owned(),
            ca_root: None,
            ca_root_text: None,
            email: None,
            key: KeyKind::P256,
            challenge: Challenge::Http01,
            resolver: None,
            http_port: 80,
            tls_port: 443,
            hook: None,
            eab: None,
            profile: None,
        }
    }
}

/// The kind of a certificate's private key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyKind {
    #[default]
    P256,
    P384,
}

/// An account that the operator has at the CA (RFC 8555 section 7.3.4).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Challenge {
    /// A file over HTTP (RFC 8555 section 8.3).
    #[serde(rename = "http-01")]
    Http01,
    /// A certificate in a TLS handshake (RFC 8737).
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn01,
    /// A TXT record (RFC 8555 section 8.4).
    #[serde(rename = "dns-01")]
    Dns01,
}

/// The URL of a CA's directory.
pub fn directory(text: &str) -> Result<String, Complaint> {
    match text {
        "letsencrypt" => Ok(LETS_ENCRYPT.to_owned()),
        "staging" => Ok(STAGING.to_owned()),
        _ => {
            let rest = text.strip_prefix("https://").unwrap_or_default();
            let host = rest.split('/').next().unwrap_or_default();
            let plain = text.bytes().all(|byte| byte.is_ascii_graphic());
            match !host.is_empty() && !host.contains('@') && plain {
                true => Ok(text.to_owned()),
                false => Err(Complaint::new(
                    "is no CA",
                    "write letsencrypt, staging, or the URL of its directory, which begins with https://",
                )),
            }
        }
    }
}

/// The address of a DNS server, with its port.
pub fn resolver(text: &str) -> Result<String, Complaint> {
    let alone = || {
        text.parse::<IpAddr>()
            .map(|address| SocketAddr::new(address, DNS_PORT))
    };
    let address: Result<SocketAddr, _> = text.parse().or_else(|_| alone());
    address.map(|address| address.to_string()).map_err(|_| {
        let hint = "write it as 9.9.9.9, 127.0.0.1:5353 or [2620:fe::fe]:53";
        Complaint::new("is no address of a DNS server", hint)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_an_account_is_not_shown() {
        let eab = Eab {
            id: "kid".to_owned(),
            key: "c2VjcmV0".to_owned(),
        };
        assert!(!format!("{eab:?}").contains("c2VjcmV0"));
    }
}
