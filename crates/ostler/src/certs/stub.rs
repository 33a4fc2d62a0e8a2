//! A CA for what pebble does not have: renewal information, profiles, and limits. It believes
//! everything, issues at once, and keeps what it was asked.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use rcgen::{CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateSigningRequestDer, PrivateKeyDer};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::testing::own_address;

const PORT: u16 = 14100;

/// A running one.
pub struct Stub {
    pub root: String,
    pub directory: String,
    pub book: Arc<Book>,
    task: JoinHandle<()>,
}

/// What it was asked, and what it is to do.
#[derive(Default)]
pub struct Book {
    /// The payloads of new orders.
    pub orders: Mutex<Vec<Value>>,
    /// Start and end of the window, in seconds from now, and for how many certificates.
    pub window: Mutex<(i64, i64)>,
    /// `Retry-After` of the one order that is refused for asking too much.
    pub limited: Mutex<Option<u32>>,
    /// Renewal information was asked for this often.
    pub asked: Mutex<u32>,
    chain: Mutex<String>,
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Stub {
    pub async fn start() -> Self {
        let address: Ipv4Addr = own_address();
        let mut params = CertificateParams::new(vec![address.to_string()]).unwrap();
        let tls_key = KeyPair::generate().unwrap();
        let tls = params.self_signed(&tls_key).unwrap();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![tls.der().clone()],
                PrivateKeyDer::Pkcs8(tls_key.serialize_der().into()),
            )
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let at = SocketAddr::from((address, PORT));
        let listener = TcpListener::bind(at).await.unwrap();
        let book = Arc::new(Book::default());
        let (kept, issuer) = (Arc::clone(&book), Arc::new(issuer));
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, book) = (acceptor.clone(), Arc::clone(&kept));
                let issuer = Arc::clone(&issuer);
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let mut stream = BufReader::new(stream);
                    while let Some((path, body)) = request(&mut stream).await {
                        let answer = answer(&book, &issuer, at, &path, &body);
                        if stream.write_all(answer.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self {
            root: tls.pem(),
            directory: format!("https://{at}/dir"),
            book,
            task,
        }
    }
}

async fn request(
    stream: &mut BufReader<tokio_rustls::server::TlsStream<tokio::net::TcpStream>>,
) -> Option<(String, Vec<u8>)> {
    let mut path = None;
    let mut length = 0;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        let line = line.trim_end().to_ascii_lowercase();
        if path.is_none() {
            path = Some(line.split(' ').nth(1)?.to_owned());
        } else if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        } else if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some((path?, body))
}

fn answer(
    book: &Book,
    issuer: &CertifiedIssuer<'static, KeyPair>,
    at: SocketAddr,
    path: &str,
    body: &[u8],
) -> String {
    let url = |path: &str| format!("https://{at}/{path}");
    let jws: Value = serde_json::from_slice(body).unwrap_or_default();
    let payload = jws["payload"].as_str().unwrap_or_default();
    let payload = BASE64_URL_SAFE_NO_PAD.decode(payload).unwrap();
    let payload: Value = serde_json::from_slice(&payload).unwrap_or_default();
    let order = |status: &str| {
        let mut order = json!({
            "status": status,
            "authorizations": [],
            "finalize": url("finalize"),
            "certificate": url("cert"),
        });
        if let Some(asked) = book.orders.lock().unwrap().last() {
            for name in ["identifiers", "replaces", "profile"] {
                if !asked[name].is_null() {
                    order[name] = asked[name].clone();
                }
            }
        }
        order
    };
    let issued = !book.chain.lock().unwrap().is_empty();
    match path.trim_start_matches('/') {
        "dir" => reply(
            200,
            "",
            &json!({
                "newNonce": url("nonce"),
                "newAccount": url("account"),
                "newOrder": url("order"),
                "renewalInfo": url("ari"),
                "meta": { "profiles": { "shortlived": "six days" } },
            }),
        ),
        "account" => reply(
            201,
            &format!("location: {}\r\n", url("account/1")),
            &json!({ "status": "valid" }),
        ),
        "order" => {
            if let Some(seconds) = book.limited.lock().unwrap().take() {
                let problem = json!({
                    "type": "urn:ietf:params:acme:error:rateLimited",
                    "detail": "too many new orders",
                    "status": 429,
                });
                return reply(429, &format!("retry-after: {seconds}\r\n"), &problem);
            }
            book.chain.lock().unwrap().clear();
            book.orders.lock().unwrap().push(payload);
            let place = format!("location: {}\r\n", url("order/1"));
            reply(201, &place, &order("ready"))
        }
        "order/1" => reply(200, "", &order(if issued { "valid" } else { "ready" })),
        "finalize" => {
            let csr = payload["csr"].as_str().unwrap();
            let csr = BASE64_URL_SAFE_NO_PAD.decode(csr).unwrap();
            let csr = CertificateSigningRequestDer::from(csr);
            let mut csr = CertificateSigningRequestParams::from_der(&csr).unwrap();
            let now = OffsetDateTime::now_utc();
            csr.params.not_before = now - time::Duration::days(1);
            csr.params.not_after = now + time::Duration::days(89);
            csr.params.use_authority_key_identifier_extension = true;
            *book.chain.lock().unwrap() = csr.signed_by(issuer).unwrap().pem();
            reply(200, "", &order("valid"))
        }
        "cert" => plain(200, "", &book.chain.lock().unwrap()),
        path if path.starts_with("ari/") => {
            *book.asked.lock().unwrap() += 1;
            let (start, end) = *book.window.lock().unwrap();
            let at = |seconds: i64| {
                let time = OffsetDateTime::now_utc() + time::Duration::seconds(seconds);
                time.format(&Rfc3339).unwrap()
            };
            let window = json!({ "suggestedWindow": { "start": at(start), "end": at(end) } });
            reply(200, "retry-after: 3600\r\n", &window)
        }
        _ => plain(200, "", ""),
    }
}

fn reply(status: u16, headers: &str, body: &Value) -> String {
    plain(status, headers, &body.to_string())
}

fn plain(status: u16, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status} X\r\nreplay-nonce: nonce\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
    )
}
