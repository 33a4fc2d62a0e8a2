//! HTTP/1.1 requests of our own to servers that the operator names: a CA, an issuer of tokens, an authority. A limit on
//! everything; who asks sets the deadline. Knows neither what is asked nor why.

mod fetch;
mod target;

use std::sync::Arc;
use std::time::Duration;

use hyper::body::Body;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, ToSocketAddrs};
use tokio_rustls::TlsConnector;

pub use fetch::fetch;
pub use target::Target;

pub type BoxedError = Box<dyn std::error::Error + Send + Sync>;

/// For a connection and its TLS handshake, where who asks has no shorter time.
pub const CONNECT: Duration = Duration::from_secs(15);

/// Longest head of an answer, in bytes: what browsers take.
const LONGEST_HEAD: usize = 64 * 1024;

/// Most fields of an answer.
const MOST_FIELDS: usize = 100;

/// Opens a connection to `target`, which is at `addresses`; `tls` says whom to believe and is needed for HTTPS.
///
/// # Errors
/// Nobody answers, or it is not who it should be.
pub async fn connect<B>(
    target: &Target,
    addresses: impl ToSocketAddrs,
    tls: Option<&Arc<ClientConfig>>,
) -> Result<SendRequest<B>, BoxedError>
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxedError>,
{
    let tcp = TcpStream::connect(addresses).await?;
    tcp.set_nodelay(true)?;
    match (target.https, tls) {
        (false, _) => open(tcp).await,
        (true, None) => Err("there is nothing to check its certificate with".into()),
        (true, Some(tls)) => {
            let name = ServerName::try_from(target.host.clone())?;
            let connector = TlsConnector::from(Arc::clone(tls));
            open(connector.connect(name, tcp).await?).await
        }
    }
}

async fn open<S, B>(stream: S) -> Result<SendRequest<B>, BoxedError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxedError>,
{
    let mut builder = http1::Builder::new();
    builder.max_buf_size(LONGEST_HEAD).max_headers(MOST_FIELDS);
    let (sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
    // Ends with the sender, which is the caller's.
    tokio::spawn(connection);
    Ok(sender)
}

/// How servers are checked: with the roots in `pem`, or with the system's.
///
/// # Errors
/// There are no roots; for the operator.
pub fn roots(pem: Option<&str>) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    let found: Vec<CertificateDer<'static>> = match pem {
        Some(pem) => CertificateDer::pem_slice_iter(pem.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|error| format!("the CA's root is no PEM: {error}"))?,
        None => rustls_native_certs::load_native_certs().certs,
    };
    let (added, _) = roots.add_parsable_certificates(found);
    if added == 0 {
        let hint = match pem {
            Some(_) => "the file of the CA's root holds no certificate",
            None => "the system trusts no CA; hint: install ca-certificates",
        };
        return Err(hint.to_owned());
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// What went wrong, with what was below it: the outer error alone says "client error".
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut below = error.source();
    while let Some(error) = below {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        below = error.source();
    }
    text
}
