//! Asking somebody else whether a request may come in (`forward_auth`): one GET for each, with what the client says.
//! Whatever goes wrong, the request does not come in.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::header::{
    self, AUTHORIZATION, COOKIE, HOST, HeaderMap, HeaderName, HeaderValue, USER_AGENT,
};
use hyper::{Request, Response};
use rustls::ClientConfig;
use tokio::net::lookup_host;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::caller::Asked;
use crate::auth::Caller;
use crate::client::{self, BoxedError, Target};
use crate::config::serve;
use crate::edge::connection::Connection;
use crate::edge::forward;
use crate::edge::forwarded::{Sender, says_who};
use crate::edge::lock;
use crate::edge::reason::Reason;
use crate::edge::sending::After;
use crate::logs::request_id;

/// Requests about which one authority is asked at once: each may have a connection of its own. One that is slow must
/// not take all our descriptors.
const MOST_ASKED: usize = 256;

/// Connections to it that one edge thread keeps, and for how long: less than servers usually do.
const MOST_IDLE: usize = 32;
const IDLE: Duration = Duration::from_secs(30);

/// Largest body of a refusal, in bytes: a page with a form.
const LARGEST: usize = 64 * 1024;

/// Largest sum of fields for the app, in bytes: they stand in its request's head.
const MOST_GRANTED: usize = 16 * 1024;

/// Longest name of a user, in bytes.
const LONGEST_USER: usize = 256;

/// Its addresses are looked up again after this long.
const LOOKED_UP: Duration = Duration::from_secs(10);

/// Fields of clients that say what they want of the app, and not who they are: an answer about something else is none.
const NOT_ASKED: [&str; 6] = [
    "host",
    "expect",
    "range",
    "accept-encoding",
    "content-length",
    "transfer-encoding",
];

/// Fields of a refusal that the client gets.
const PASSED: [HeaderName; 8] = [
    header::CONTENT_TYPE,
    header::CONTENT_ENCODING,
    header::CONTENT_LANGUAGE,
    header::CACHE_CONTROL,
    header::LOCATION,
    header::SET_COOKIE,
    header::WWW_AUTHENTICATE,
    header::RETRY_AFTER,
];

type Ask = Request<Empty<Bytes>>;

/// Who is asked, and the connections there.
pub struct Authority {
    target: Target,
    tls: Option<Arc<ClientConfig>>,
    user: Option<HeaderName>,
    copy: Vec<(HeaderName, Arc<str>)>,
    timeout: Duration,
    /// Begins lines of the log.
    about: String,
    places: Semaphore,
    /// Guards connections that nobody uses, by the number of the edge thread whose they are.
    idle: Mutex<HashMap<usize, Vec<Idle>>>,
    addresses: Addresses,
    /// The log has said that it gives no good answers.
    told: AtomicBool,
}

struct Idle {
    sender: SendRequest<Empty<Bytes>>,
    since: Instant,
}

/// What it says.
#[derive(Debug)]
enum Verdict {
    In {
        user: Option<Arc<str>>,
        granted: Vec<(Arc<str>, Vec<u8>)>,
    },
    Refused {
        status: u16,
        /// With their CRLF.
        lines: Vec<u8>,
        body: Bytes,
    },
}

/// Why it says nothing that counts.
#[derive(Debug)]
enum Trouble {
    Full,
    Away(String),
    Late,
    Bad(String),
}

impl Authority {
    /// # Errors
    /// A value of the configuration that cannot be used.
    pub fn new(
        said: &serve::Authority,
        tls: Option<Arc<ClientConfig>>,
        about: &str,
    ) -> Result<Self, String> {
        let name = |text: &str| {
            HeaderName::try_from(text.to_ascii_lowercase())
                .map_err(|_| format!("{text} is no name of a field"))
        };
        let copy = said.copy.iter().map(|text| {
            let name = name(text)?;
            let text = Arc::from(name.as_str());
            Ok((name, text))
        });
        Ok(Self {
            target: Target::parse(&said.url)?,
            tls,
            user: said.user.as_deref().map(name).transpose()?,
            copy: copy.collect::<Result<_, String>>()?,
            timeout: said.timeout,
            about: about.to_owned(),
            places: Semaphore::new(MOST_ASKED),
            idle: Mutex::default(),
            addresses: Addresses::default(),
            told: AtomicBool::new(false),
        })
    }

    /// Fields that only it may say: the app gets none of a client under these names.
    pub fn names(&self) -> impl Iterator<Item = &str> + Clone {
        let copied = self.copy.iter().map(|(name, _)| name.as_str());
        copied.chain(self.user.as_ref().map(HeaderName::as_str))
    }

    /// Asks; `thread` is the number of the edge thread.
    async fn ask(&self, thread: usize, request: Ask) -> Result<Verdict, Trouble> {
        let Ok(_place) = self.places.try_acquire() else {
            return Err(Trouble::Full);
        };
        let asked = timeout(self.timeout, self.exchange(thread, request)).await;
        let verdict = asked.unwrap_or(Err(Trouble::Late));
        self.tell(verdict.as_ref().err());
        verdict
    }

    async fn exchange(&self, thread: usize, request: Ask) -> Result<Verdict, Trouble> {
        while let Some(mut sender) = self.idle(thread) {
            if sender.ready().await.is_err() {
                continue;
            }
            // It may be closed under us, and a GET may be sent twice (RFC 9110 section 9.2.2): then on a new one.
            match sender.send_request(request.clone()).await {
                Ok(answer) => return self.judge(answer, sender, thread).await,
                Err(_closed) => break,
            }
        }
        let addresses = self.addresses.of(&self.target).await;
        let addresses = addresses.map_err(|error| Trouble::Away(error.to_string()))?;
        let connected = client::connect(&self.target, &addresses[..], self.tls.as_ref()).await;
        let mut sender = connected.map_err(|error| Trouble::Away(client::chain(&*error)))?;
        let answer = sender.send_request(request).await;
        let answer = answer.map_err(|error| Trouble::Away(client::chain(&error)))?;
        self.judge(answer, sender, thread).await
    }

    fn idle(&self, thread: usize) -> Option<SendRequest<Empty<Bytes>>> {
        let mut idle = lock(&self.idle);
        let own = idle.get_mut(&thread)?;
        // The ones that were used last are at the end.
        let last = own.pop().filter(|last| last.since.elapsed() < IDLE);
        if last.is_none() {
            own.clear();
        }
        last.map(|last| last.sender)
    }

    async fn judge(
        &self,
        answer: Response<Incoming>,
        sender: SendRequest<Empty<Bytes>>,
        thread: usize,
    ) -> Result<Verdict, Trouble> {
        let (parts, body) = answer.into_parts();
        let status = parts.status.as_u16();
        let read = Limited::new(body, LARGEST).collect().await;
        let read = read.map(http_body_util::Collected::to_bytes);
        if read.is_ok() && !sender.is_closed() {
            let mut idle = lock(&self.idle);
            let own = idle.entry(thread).or_default();
            if own.len() < MOST_IDLE {
                let since = Instant::now();
                own.push(Idle { sender, since });
            }
        }
        match status {
            // What it shows to those whom it lets in is for nobody.
            200..=299 => self.lets_in(&parts.headers),
            // An answer to a condition that nobody has asked.
            304 | ..=299 => Err(Trouble::Bad(format!("its answer is {status}"))),
            _ => {
                let body = read.map_err(|error| refused_body(&error))?;
                let lines = passed(&parts.headers);
                Ok(Verdict::Refused {
                    status,
                    lines,
                    body,
                })
            }
        }
    }

    fn lets_in(&self, fields: &HeaderMap) -> Result<Verdict, Trouble> {
        let user = self.user.as_ref().and_then(|name| fields.get(name));
        let user = user.filter(|user| !user.is_empty()).map(user_of);
        let mut room = MOST_GRANTED;
        let mut granted = Vec::new();
        for (name, text) in &self.copy {
            let values: Vec<&[u8]> = fields
                .get_all(name)
                .iter()
                .map(HeaderValue::as_bytes)
                .collect();
            let value = values.join(&b", "[..]);
            if values.is_empty() {
                continue;
            }
            room = room
                .checked_sub(name.as_str().len() + value.len())
                .ok_or_else(|| {
                    Trouble::Bad(format!(
                        "its fields for the app have more than {MOST_GRANTED} bytes"
                    ))
                })?;
            granted.push((Arc::clone(text), value));
        }
        Ok(Verdict::In {
            user: user.transpose()?,
            granted,
        })
    }

    /// Says once that it gives no good answers, and once that it does again.
    fn tell(&self, trouble: Option<&Trouble>) {
        let what = match trouble {
            None => {
                // Looked at first: written only by the first good answer after a bad one.
                if self.told.load(Ordering::Relaxed) && self.told.swap(false, Ordering::Relaxed) {
                    tracing::info!("{}{} answers again", self.about, self.target.authority);
                }
                return;
            }
            // Counted with its reason; a line for each change of a busy minute helps nobody.
            Some(Trouble::Full) => return,
            Some(Trouble::Late) => format!("no answer within {:?}", self.timeout),
            Some(Trouble::Away(what) | Trouble::Bad(what)) => what.clone(),
        };
        if !self.told.swap(true, Ordering::Relaxed) {
            tracing::error!(
                "{}forward_auth: {}: {what}; until it answers nobody gets in",
                self.about,
                self.target.authority
            );
        }
    }

    /// What it is asked about one request.
    fn request(&self, about: &About<'_>) -> Result<Ask, BoxedError> {
        let mut request = Request::get(&self.target.path).body(Empty::new())?;
        let fields = request.headers_mut();
        for (id, name, value) in about.connection.head.fields() {
            let name = HeaderName::from_bytes(name)?;
            let conditional =
                name.as_str().starts_with("if-") || name.as_str().starts_with("content-");
            // Only these say who the client is; the others could be echoed, and would be forged then.
            let ours = self.names().any(|ours| ours == name.as_str());
            let forged = ours && name != AUTHORIZATION && name != COOKIE;
            let left_out = conditional || forged || NOT_ASKED.contains(&name.as_str());
            if !left_out && !says_who(id, name.as_str().as_bytes()) {
                fields.append(name, HeaderValue::from_bytes(value)?);
            }
        }
        fields.insert(HOST, HeaderValue::from_str(&self.target.authority)?);
        if !fields.contains_key(USER_AGENT) {
            fields.insert(USER_AGENT, HeaderValue::from_static("ostler"));
        }
        let head = &about.connection.head;
        let scheme: &[u8] = if about.https { b"https" } else { b"http" };
        let mut uri = Vec::new();
        forward::target(head, b"", &mut uri);
        for (name, value) in [
            ("x-forwarded-method", head.method()),
            ("x-forwarded-proto", scheme),
            ("x-forwarded-host", head.authority().unwrap_or_default()),
            ("x-forwarded-uri", &uri),
            ("x-forwarded-for", about.sender.address()),
        ] {
            if !value.is_empty() {
                let name = HeaderName::from_static(name);
                fields.insert(name, HeaderValue::from_bytes(value)?);
            }
        }
        let id = about.sender.request_id(head);
        let own = request_id(about.connection.row.id);
        let id = id.unwrap_or(own.as_str().as_bytes());
        fields.insert("x-request-id", HeaderValue::from_bytes(id)?);
        Ok(request)
    }
}

/// The request that it is asked about.
struct About<'c> {
    connection: &'c Connection,
    sender: &'c Sender,
    https: bool,
}

impl Connection {
    /// Lets in whom the authority lets in; anybody else gets its answer.
    pub(super) async fn ask_authority(
        &mut self,
        authority: &Authority,
        sender: &Sender,
    ) -> Result<Asked, Reason> {
        let about = About {
            connection: self,
            sender,
            https: sender.https(self.io.is_tls()),
        };
        // Nothing that a request may have is no field.
        let request = authority.request(&about).map_err(|_| Reason::Internal)?;
        let asked = authority.ask(self.thread.index, request).await;
        match asked.map_err(|trouble| trouble.reason())? {
            Verdict::In { user, granted } => {
                if !granted.is_empty() {
                    self.row.told.get_or_insert_default().granted = granted;
                }
                match user {
                    Some(user) => self.let_in(user),
                    None => Ok(Asked::In(Caller::Anyone)),
                }
            }
            Verdict::Refused {
                status,
                lines,
                body,
            } => {
                // What is left of the request's body would be read as the next request.
                let close = self.body_may_follow();
                self.row.refusal = Some("authority");
                let length = format!("Content-Length: {}\r\n", body.len());
                let length = if status == 204 { "" } else { &length };
                self.begin_answer(status, &[length.as_bytes(), &lines], close);
                if self.head.method() != b"HEAD" {
                    self.out.bytes().extend_from_slice(&body);
                    self.row.sent = body.len() as u64;
                }
                Ok(Asked::Answered(match close {
                    true => After::Close,
                    false => After::KeepAlive,
                }))
            }
        }
    }
}

impl Trouble {
    fn reason(&self) -> Reason {
        match self {
            Self::Full => Reason::AuthBusy,
            Self::Away(_) => Reason::AuthorityAway,
            Self::Late => Reason::AuthorityLate,
            Self::Bad(_) => Reason::AuthorityBad,
        }
    }
}

fn refused_body(error: &BoxedError) -> Trouble {
    match error.is::<http_body_util::LengthLimitError>() {
        true => Trouble::Bad(format!("its refusal has more than {LARGEST} bytes")),
        false => Trouble::Away(client::chain(&**error)),
    }
}

/// The lines of a refusal that the client gets.
fn passed(fields: &HeaderMap) -> Vec<u8> {
    let mut lines = Vec::new();
    for name in PASSED {
        for value in fields.get_all(&name) {
            // Its values have no line ends.
            for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                lines.extend_from_slice(part);
            }
        }
    }
    lines
}

fn user_of(value: &HeaderValue) -> Result<Arc<str>, Trouble> {
    let text = value.to_str().ok().map(str::trim);
    let text =
        text.filter(|text| !text.is_empty() && text.len() <= LONGEST_USER && !text.contains('\t'));
    text.map(Arc::from)
        .ok_or_else(|| Trouble::Bad("the user that it names is no plain text".to_owned()))
}

/// Where its server is: looked up by one at a time, and the last good ones kept.
struct Addresses {
    /// Guards the addresses alone.
    known: Mutex<Option<(Instant, Arc<[SocketAddr]>)>>,
    turn: Semaphore,
}

impl Default for Addresses {
    fn default() -> Self {
        Self {
            known: Mutex::default(),
            turn: Semaphore::new(1),
        }
    }
}

impl Addresses {
    async fn of(&self, target: &Target) -> io::Result<Arc<[SocketAddr]>> {
        if let Ok(address) = target.host.parse::<IpAddr>() {
            return Ok([SocketAddr::new(address, target.port)].into());
        }
        if let Some(known) = self.fresh() {
            return Ok(known);
        }
        // Never closed.
        let _turn = self.turn.acquire().await.map_err(io::Error::other)?;
        if let Some(known) = self.fresh() {
            return Ok(known);
        }
        let found = lookup_host((target.host.as_str(), target.port)).await;
        let found: io::Result<Arc<[SocketAddr]>> = found.map(Iterator::collect);
        let mut known = lock(&self.known);
        match (found, &*known) {
            (Ok(found), _) if !found.is_empty() => {
                *known = Some((Instant::now(), Arc::clone(&found)));
                Ok(found)
            }
            (_, Some((_, last))) => Ok(Arc::clone(last)),
            (found, None) => found.and_then(|_| Err(io::Error::other("DNS has no address for it"))),
        }
    }

    fn fresh(&self) -> Option<Arc<[SocketAddr]>> {
        let known = lock(&self.known);
        let (at, addresses) = known.as_ref()?;
        (at.elapsed() < LOOKED_UP).then(|| Arc::clone(addresses))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authority() -> Authority {
        let said = serve::Authority {
            url: "http://127.0.0.1:9/verify?x".to_owned(),
            user: Some("X-User".to_owned()),
            copy: vec!["X-Groups".to_owned()],
            timeout: Duration::from_secs(1),
        };
        Authority::new(&said, None, "shop: ").expect("good values")
    }

    fn fields(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut fields = HeaderMap::new();
        for (name, value) in pairs {
            fields.append(*name, HeaderValue::from_static(value));
        }
        fields
    }

    #[test]
    fn what_it_grants_is_bounded_and_plain() {
        let authority = authority();
        assert_eq!(
            authority.names().collect::<Vec<_>>(),
            ["x-groups", "x-user"]
        );
        let said = [
            ("x-user", " ada "),
            ("x-groups", "a"),
            ("x-groups", "b"),
            ("x-other", "c"),
        ];
        let Ok(Verdict::In { user, granted }) = authority.lets_in(&fields(&said)) else {
            panic!("it lets in");
        };
        assert_eq!(user.as_deref(), Some("ada"));
        assert_eq!(granted, [(Arc::from("x-groups"), b"a, b".to_vec())]);
        let Ok(Verdict::In { user, .. }) = authority.lets_in(&fields(&[("x-user", "")])) else {
            panic!("it lets in");
        };
        assert_eq!(user, None);
        let mut odd = HeaderMap::new();
        odd.append(
            "x-user",
            HeaderValue::from_bytes(b"ad\xe9").expect("a value"),
        );
        assert!(matches!(authority.lets_in(&odd), Err(Trouble::Bad(_))));
        let mut large = HeaderMap::new();
        let value = "x".repeat(MOST_GRANTED);
        large.append("x-groups", HeaderValue::from_str(&value).expect("a value"));
        assert!(matches!(authority.lets_in(&large), Err(Trouble::Bad(_))));
    }

    #[test]
    fn of_a_refusal_only_what_is_for_the_client_goes_on() {
        let said = [
            ("location", "/login"),
            ("set-cookie", "a=1"),
            ("set-cookie", "b=2"),
            ("x-secret", "s"),
            ("connection", "close"),
        ];
        assert_eq!(
            passed(&fields(&said)),
            b"location: /login\r\nset-cookie: a=1\r\nset-cookie: b=2\r\n"
        );
    }
}
