//! TLS for a certificate and key that were read. One provider (aws-lc-rs), TLS 1.2 and 1.3.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use aws_lc_rs::digest;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};

use crate::certs::{ACME_TLS, Served};
use crate::config::serve::Clients;
use crate::routes::{Host, Table};

/// A PEM file as it was read, and from where.
pub struct Pem {
    pub path: PathBuf,
    pub text: String,
}

/// The certificate, and who must show one.
pub struct Files {
    /// The certificate, then its chain.
    pub certificate: Pem,
    /// PKCS#8, PKCS#1 or SEC1.
    pub key: Pem,
    /// The authorities that client certificates must come from; `None` asks for none.
    pub client_ca: Option<Pem>,
    /// A client without a certificate is refused.
    pub client_required: bool,
}

/// Why TLS cannot be served. The operator must act.
#[derive(Debug)]
pub enum TlsError {
    /// A file could not be read or holds no PEM of the wanted kind.
    Pem {
        what: &'static str,
        path: PathBuf,
        error: rustls::pki_types::pem::Error,
    },
    /// rustls refuses what the files say (a key that does not fit, an unknown algorithm).
    Config { path: PathBuf, error: String },
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pem { what, path, error } => write!(
                f,
                "cannot read the {what}: {}: {error}; hint: a PEM file is needed",
                path.display()
            ),
            Self::Config { path, error } => write!(
                f,
                "cannot use the certificate {}: {error}; hint: check that certificate and key belong together",
                path.display()
            ),
        }
    }
}

impl std::error::Error for TlsError {}

/// Reads the files into a configuration that speaks HTTP/2 and HTTP/1.1.
pub fn config(files: &Files) -> Result<Arc<ServerConfig>, TlsError> {
    let chain = certificates("certificate", &files.certificate)?;
    let key = PrivateKeyDer::from_pem_slice(files.key.text.as_bytes());
    let key = key.map_err(|error| TlsError::Pem {
        what: "private key",
        path: files.key.path.clone(),
        error,
    })?;
    let refuse = |error: String| TlsError::Config {
        path: files.certificate.path.clone(),
        error,
    };

    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| refuse(error.to_string()))?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(authorities) => {
            let verifier = verifier(authorities, files.client_required, provider)?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(|error| refuse(error.to_string()))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.ignore_client_order = true;
    if let Ok(ticketer) = rustls::crypto::aws_lc_rs::Ticketer::new() {
        config.ticketer = ticketer;
    }
    Ok(Arc::new(config))
}

/// Which clients a handshake lets in: those of some hosts show certificates.
#[derive(Debug)]
pub struct Policy {
    /// A request for a host is answered on connections with the number of its policy; [`OPEN`] without any.
    pub number: u32,
    config: Arc<ServerConfig>,
}

/// The policy of hosts whose clients need no certificate, and of connections without TLS.
pub use super::peer::OPEN;

/// What handshakes are made with.
#[derive(Debug)]
pub struct Tls {
    by_host: Table<Arc<Policy>>,
    /// There is only the one that is open.
    one: bool,
}

impl Tls {
    /// The same for every host.
    pub fn one(config: Arc<ServerConfig>) -> Self {
        let number = OPEN;
        Self {
            by_host: Table::new(Arc::new(Policy { number, config })),
            one: true,
        }
    }

    /// Each handshake gets the certificate of the host it names, and lets in the clients of that host. Policies that
    /// `before` has too stay as they are, so that its tickets are good.
    ///
    /// # Errors
    /// Authorities that cannot be used.
    pub fn by_host<'a>(
        certs: &Arc<Served>,
        hosts: impl IntoIterator<Item = (&'a Host, Option<&'a Clients>)>,
        default_host: Option<&str>,
        before: Option<&Self>,
    ) -> Result<Self, TlsError> {
        let mut known: Vec<Arc<Policy>> = before.map(Self::policies).unwrap_or_default();
        let open = policy(certs, None, &mut known)?;
        let mut tls = Self {
            by_host: Table::new(open),
            one: true,
        };
        // The open ones too: one may lie below a wildcard that is not.
        for (host, clients) in hosts {
            let policy = policy(certs, clients, &mut known)?;
            // A host that is there twice belongs to one project, with one policy.
            let _ = tls.by_host.add(host.clone(), "/", policy);
            tls.one &= clients.is_none();
        }
        if let Some(host) = default_host {
            tls.by_host.set_default(host);
        }
        Ok(tls)
    }

    /// Each once, however many hosts have it.
    fn policies(&self) -> Vec<Arc<Policy>> {
        let by_number = self.by_host.targets().map(|policy| (policy.number, policy));
        let each: HashMap<u32, &Arc<Policy>> = by_number.collect();
        each.into_values().map(Arc::clone).collect()
    }

    /// The one there is, when a handshake need not be looked into.
    pub fn only(&self) -> Option<&Arc<ServerConfig>> {
        self.one.then(|| &self.by_host.nowhere().config)
    }

    /// The policy for a handshake. A CA shows no certificate (RFC 8737).
    pub fn of(&self, hello: &ClientHello<'_>) -> (u32, Arc<ServerConfig>) {
        let acme = hello
            .alpn()
            .is_some_and(|mut offered| offered.any(|protocol| protocol == ACME_TLS));
        let name = hello.server_name().unwrap_or("");
        let policy = match acme {
            true => self.by_host.nowhere(),
            false => self.by_host.find(name.as_bytes(), b"/"),
        };
        (policy.number, Arc::clone(&policy.config))
    }
}

/// The number of the policy that `clients` ask for: the same for the same authorities. Short, because every
/// connection keeps it; those of one machine differ.
pub fn number(clients: Option<&Clients>) -> u32 {
    let Some(clients) = clients else {
        return OPEN;
    };
    let text = [
        &[u8::from(clients.required)],
        clients.authorities.as_bytes(),
    ]
    .concat();
    let hash = digest::digest(&digest::SHA256, &text);
    let mut number = [0; 4];
    number.copy_from_slice(&hash.as_ref()[..4]);
    u32::from_be_bytes(number).max(OPEN + 1)
}

/// The policy that is there, or a new one with tickets of its own.
fn policy(
    certs: &Arc<Served>,
    clients: Option<&Clients>,
    known: &mut Vec<Arc<Policy>>,
) -> Result<Arc<Policy>, TlsError> {
    let number = number(clients);
    if let Some(same) = known.iter().find(|policy| policy.number == number) {
        return Ok(Arc::clone(same));
    }
    let refuse = |error: String| TlsError::Config {
        path: clients
            .map(|clients| clients.ca.clone())
            .unwrap_or_default(),
        error,
    };
    let config = config_by_host(certs, clients, refuse)?;
    let policy = Arc::new(Policy { number, config });
    known.push(Arc::clone(&policy));
    Ok(policy)
}

fn config_by_host(
    certs: &Arc<Served>,
    clients: Option<&Clients>,
    refuse: impl Fn(String) -> TlsError,
) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| refuse(error.to_string()))?;
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(clients) => {
            let pem = Pem {
                path: clients.ca.clone(),
                text: clients.authorities.clone(),
            };
            builder.with_client_cert_verifier(verifier(&pem, clients.required, provider)?)
        }
    };
    let resolver: Arc<Served> = Arc::clone(certs);
    let mut config = builder.with_cert_resolver(resolver);
    // Last: who offers both wants to be served.
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec(), ACME_TLS.to_vec()];
    // The best that both know, and not what a client happens to name first; all of them are good.
    config.ignore_client_order = true;
    // Its keys change every six hours; a ticket of one policy is none of another.
    let ticketer = rustls::crypto::aws_lc_rs::Ticketer::new();
    config.ticketer = ticketer.map_err(|error| refuse(error.to_string()))?;
    Ok(Arc::new(config))
}

/// Who checks the certificates that clients show.
fn verifier(
    authorities: &Pem,
    required: bool,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates("client authorities", authorities)?);
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let verifier = match required {
        true => verifier,
        false => verifier.allow_unauthenticated(),
    };
    verifier.build().map_err(|error| TlsError::Config {
        path: authorities.path.clone(),
        error: error.to_string(),
    })
}

fn certificates(what: &'static str, pem: &Pem) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let refuse = |error| TlsError::Pem {
        what,
        path: pem.path.clone(),
        error,
    };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.text.as_bytes()).collect();
    match chain.map_err(refuse)? {
        chain if chain.is_empty() => Err(refuse(rustls::pki_types::pem::Error::NoItemsFound)),
        chain => Ok(chain),
    }
}
