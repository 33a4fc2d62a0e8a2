//! TLS for a certificate and key that were read. One provider (aws-lc-rs), TLS 1.2 and 1.3.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

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
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(certificates("client authorities", authorities)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = match files.client_required {
                true => verifier,
                false => verifier.allow_unauthenticated(),
            };
            let verifier = verifier
                .build()
                .map_err(|error| refuse(error.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(|error| refuse(error.to_string()))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    if let Ok(ticketer) = rustls::crypto::aws_lc_rs::Ticketer::new() {
        config.ticketer = ticketer;
    }
    Ok(Arc::new(config))
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
