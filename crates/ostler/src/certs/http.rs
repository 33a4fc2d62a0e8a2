//! The HTTP client that speaks to the CA: HTTPS, one connection at a time, a limit on everything.
//! Knows no ACME.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Body;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{HOST, HeaderValue, RETRY_AFTER};
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use rustls::ClientConfig;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::client::{self, BoxedError, CONNECT, Target};

/// For one request with its answer: CAs may check CAA or issue while it waits.
const ANSWER: Duration = Duration::from_secs(60);

/// An answer is a few KiB: a chain, or an order of 100 names.
const MOST_BYTES: usize = 1 << 20;

/// A client. Clones share its connection, which is used by one request at a time.
#[derive(Clone)]
pub struct Http {
    tls: Arc<ClientConfig>,
    kept: Arc<Mutex<Kept>>,
}

/// What outlives a request.
#[derive(Default)]
struct Kept {
    idle: Option<(String, SendRequest<BodyWrapper<Bytes>>)>,
    retry_after: Option<SystemTime>,
}

impl Http {
    pub fn new(tls: Arc<ClientConfig>) -> Self {
        Self {
            tls,
            kept: Arc::default(),
        }
    }

    /// When the last answer said that one may ask again.
    pub fn retry_after(&self) -> Option<SystemTime> {
        self.kept().retry_after
    }

    async fn exchange(
        self,
        mut request: Request<BodyWrapper<Bytes>>,
    ) -> Result<Response<Full<Bytes>>, BoxedError> {
        let uri = request.uri().clone();
        let authority = authority(&uri)?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        *request.uri_mut() = path.parse()?;
        let host = HeaderValue::from_str(&authority)?;
        request.headers_mut().insert(HOST, host);

        let mut sender = match self.idle(&authority).await {
            Some(sender) => sender,
            None => self.connect(&uri, &authority).await?,
        };
        let response = match sender.try_send_request(request).await {
            Ok(response) => response,
            // The connection was closed under us, and the CA has not seen the request.
            Err(mut failed) => match failed.take_message() {
                Some(request) => {
                    sender = self.connect(&uri, &authority).await?;
                    sender.send_request(request).await?
                }
                None => return Err(failed.into_error().into()),
            },
        };
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, MOST_BYTES).collect().await?.to_bytes();
        let mut kept = self.kept();
        kept.retry_after = parts.headers.get(RETRY_AFTER).and_then(retry_after);
        kept.idle = Some((authority, sender));
        Ok(Response::from_parts(parts, Full::new(body)))
    }

    /// The connection of an earlier request, if it is still open.
    async fn idle(&self, authority: &str) -> Option<SendRequest<BodyWrapper<Bytes>>> {
        let (of, mut sender) = self.kept().idle.take()?;
        (of == authority && sender.ready().await.is_ok()).then_some(sender)
    }

    async fn connect(
        &self,
        uri: &Uri,
        authority: &str,
    ) -> Result<SendRequest<BodyWrapper<Bytes>>, BoxedError> {
        let target = Target::of(uri).ok_or_else(|| format!("{uri} is no https URL"))?;
        let address = (target.host.as_str(), target.port);
        let connecting = client::connect(&target, address, Some(&self.tls));
        let connected = timeout(CONNECT, connecting).await;
        connected
            .unwrap_or_else(|_| Err("no answer within 15 s".into()))
            .map_err(|error| format!("cannot connect to {authority}: {error}").into())
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HttpClient for Http {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let exchange = self.clone().exchange(request);
        Box::pin(async move {
            match timeout(ANSWER, exchange).await {
                Ok(Ok(response)) => Ok(BytesResponse::from(response)),
                Ok(Err(error)) => Err(Error::Other(error)),
                Err(_) => Err(Error::Other("no answer within 60 s".into())),
            }
        })
    }
}

/// Host and port of a URL that must be `https`.
fn authority(uri: &Uri) -> Result<String, BoxedError> {
    match (uri.scheme_str(), uri.authority()) {
        (Some("https"), Some(authority)) => Ok(authority.to_string()),
        _ => Err(format!("{uri} is no https URL").into()),
    }
}

/// RFC 9110 section 10.2.3: seconds, or a date.
fn retry_after(value: &HeaderValue) -> Option<SystemTime> {
    let text = value.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u32>() {
        return Some(SystemTime::now() + Duration::from_secs(u64::from(seconds)));
    }
    OffsetDateTime::parse(text, &Rfc2822).ok().map(Into::into)
}

/// One plain request to `address`, as a CA would make it for HTTP-01: `GET path` for `host`, of whose
/// answer at most `most` bytes are read.
pub async fn get(
    address: SocketAddr,
    host: &str,
    path: &str,
    most: usize,
) -> Result<Response<Bytes>, BoxedError> {
    let tcp = TcpStream::connect(address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(tcp)).await?;
    // Ends with the sender.
    tokio::spawn(connection);
    let request = Request::get(path)
        .header(HOST, host)
        .body(Full::<Bytes>::default())?;
    let (parts, mut body) = sender.send_request(request).await?.into_parts();
    let mut bytes = Vec::new();
    while bytes.len() < most && !body.is_end_stream() {
        match body.frame().await {
            Some(frame) => bytes.extend_from_slice(&frame?.into_data().unwrap_or_default()),
            None => break,
        }
    }
    bytes.truncate(most);
    Ok(Response::from_parts(parts, bytes.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let read = |text: &'static str| retry_after(&HeaderValue::from_static(text));
        let in_two_minutes = SystemTime::now() + Duration::from_secs(120);
        let near = read("120").unwrap();
        assert!(near > in_two_minutes - Duration::from_secs(9));
        assert!(near < in_two_minutes + Duration::from_secs(9));
        let date = read("Fri, 31 Dec 1999 23:59:59 GMT").unwrap();
        let expected = SystemTime::UNIX_EPOCH + Duration::from_secs(946_684_799);
        assert_eq!(date, expected);
        assert_eq!(read("soon"), None);
    }

    #[test]
    fn a_ca_is_spoken_to_with_https_only() {
        assert!(authority(&"http://ca.example/dir".parse().unwrap()).is_err());
        let good = authority(&"https://ca.example:14000/dir".parse().unwrap());
        assert_eq!(good.unwrap(), "ca.example:14000");
    }
}
