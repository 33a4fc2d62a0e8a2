//! Other HTTP servers that requests go on to, and how. Values that were checked; looks no name up.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::schema::Section;
use super::shape::DraftRules;
use super::source::clean;
use crate::config::error::Complaint;
use crate::config::table::Preset;

/// The upstreams of one route, and how requests go to them. Two that are equal are the same upstreams over a reload.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Upstreams {
    /// At least one; no address twice.
    pub targets: Vec<Target>,
    /// `Host` is that of the upstream, not the client's.
    pub own_host: bool,
    /// The name in the certificates, where it is not the host.
    pub tls_name: Option<String>,
    /// Authorities of the certificates (PEM); absolute.
    pub ca: Option<PathBuf>,
    /// The cookie by which a client stays with an upstream.
    pub sticky: Option<String>,
    /// How often a request may be sent again.
    pub retries: u32,
    pub connect: Duration,
    /// Until the response head.
    pub response: Duration,
    /// Within a body, either way.
    pub silence: Duration,
    /// Idle connections of one upstream in one edge thread.
    pub keepalive: usize,
    pub keepalive_time: Duration,
    /// Requests that one upstream gets at a time.
    pub most: u32,
    pub line_length: usize,
    pub line_time: Duration,
    /// Failures within `fail_time` that put an upstream out; 0 never does.
    pub fails: u32,
    pub fail_time: Duration,
    pub health: Option<Health>,
    pub request_buffering: bool,
    pub response_buffering: bool,
}

/// How upstreams are asked whether they are well.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Health {
    /// With a query, maybe.
    pub path: String,
    pub interval: Duration,
    pub timeout: Duration,
    /// `None`: 200 to 399.
    pub status: Option<u16>,
}

/// One address as it is written.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Target {
    pub address: Address,
    /// At least 1.
    pub weight: u32,
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Address {
    Tcp {
        tls: bool,
        /// A name in lower case, or an address, without the brackets of IPv6.
        host: String,
        port: u16,
    },
    Unix(PathBuf),
}

/// What a time that is off is set to.
const FOREVER: Duration = Duration::from_secs(365 * 86_400);

/// Longest host, in bytes (RFC 1035 section 2.3.4).
const LONGEST_HOST: usize = 253;

/// Longest path of a UNIX socket, in bytes (`sun_path` in unix(7), with its NUL).
const LONGEST_PATH: usize = 107;

impl Upstreams {
    /// `None` when there are none. `source` is the project's folder.
    pub fn of(draft: &DraftRules, source: &Path) -> Option<Self> {
        let targets: Vec<Target> = draft
            .get("", "upstreams")?
            .as_array()?
            .iter()
            .filter_map(|item| {
                let address = Address::parse(item.get(0)?.as_str()?).ok()?;
                let weight = u32::try_from(item.get(1)?.as_u64()?).ok()?;
                Some(Target { address, weight })
            })
            .collect();
        let said = Said(draft);
        Some(Self {
            targets,
            own_host: draft.text("proxy", "host") == Some("upstream"),
            tls_name: draft.text("proxy", "tls_name").map(str::to_owned),
            ca: draft.text("proxy", "ca").map(|ca| clean(&source.join(ca))),
            sticky: draft
                .is("proxy", "sticky")
                .then(|| said.word("sticky_cookie")),
            retries: said.count("retries"),
            connect: said.limit("connect_timeout"),
            response: said.limit("timeout"),
            silence: said.limit("silence_timeout"),
            keepalive: said.count("keepalive") as usize,
            keepalive_time: said.time("keepalive_timeout"),
            most: said.count("max_connections"),
            line_length: said.count("line_length") as usize,
            line_time: said.limit("line_timeout"),
            fails: said.count("max_fails"),
            fail_time: said.time("fail_timeout"),
            health: draft.text("proxy", "health_path").map(|path| Health {
                path: path.to_owned(),
                interval: said.time("health_interval").max(SHORTEST_INTERVAL),
                timeout: said.limit("health_timeout"),
                status: draft
                    .get("proxy", "health_status")
                    .and_then(Json::as_u64)
                    .and_then(|status| u16::try_from(status).ok()),
            }),
            request_buffering: said.switch("request_buffering"),
            response_buffering: said.switch("response_buffering"),
        })
    }
}

/// Upstreams are not asked how they are more often than this.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);

/// What is said in `proxy`, else what the list of keys has.
struct Said<'d>(&'d DraftRules);

impl Said<'_> {
    fn preset(name: &str) -> Preset {
        let key = Section::Proxy.key(name);
        key.map_or(Preset::Unset, |key| key.preset)
    }

    fn word(&self, name: &'static str) -> String {
        let preset = match Self::preset(name) {
            Preset::Word(word) => word,
            _ => "",
        };
        self.0.text("proxy", name).unwrap_or(preset).to_owned()
    }

    fn switch(&self, name: &'static str) -> bool {
        let said = self.0.get("proxy", name).and_then(Json::as_bool);
        said.unwrap_or_else(|| matches!(Self::preset(name), Preset::Yes))
    }

    fn number(&self, name: &'static str) -> f64 {
        let preset = match Self::preset(name) {
            Preset::Int(number) => number as f64,
            _ => 0.0,
        };
        let said = self.0.get("proxy", name).and_then(Json::as_f64);
        said.unwrap_or(preset)
    }

    fn count(&self, name: &'static str) -> u32 {
        self.number(name) as u32
    }

    fn time(&self, name: &'static str) -> Duration {
        Duration::try_from_secs_f64(self.number(name)).unwrap_or(FOREVER)
    }

    /// 0 is none.
    fn limit(&self, name: &'static str) -> Duration {
        match self.time(name) {
            Duration::ZERO => FOREVER,
            time => time.min(FOREVER),
        }
    }
}

impl Address {
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, Complaint> {
        let example = "write http://127.0.0.1:9000, https://host:8443 or unix:/run/app.sock";
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return match path {
                _ if !path.starts_with('/') => {
                    Err(Complaint::new("needs an absolute path", example))
                }
                _ if path.len() > LONGEST_PATH || path.contains('\0') => Err(Complaint::new(
                    "is no path of a socket",
                    "107 bytes at most",
                )),
                _ => Ok(Self::Unix(path.into())),
            };
        }
        let (tls, rest) = match text.split_once("://") {
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            Some(_) => return Err(Complaint::new("has a scheme that is not spoken", example)),
            None => return Err(Complaint::new("says not how it is spoken to", example)),
        };
        if rest.contains('@') {
            let hint = "write passwords into headers.request_set, as Authorization";
            return Err(Complaint::new("has a user or a password", hint));
        }
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains(['/', '?', '#']) {
            let hint = "paths go on as they are; `strip` of a route takes its prefix off";
            return Err(Complaint::new("has a path", hint));
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => match rest.split_once(']') {
                Some((host, "")) => (host, None),
                Some((host, port)) => (host, port.strip_prefix(':')),
                None => return Err(Complaint::new("has a [ without ]", example)),
            },
            None => match authority.rsplit_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        let port = match port {
            None => Some(if tls { 443 } else { 80 }),
            Some(port) => port.parse().ok().filter(|port| *port > 0),
        };
        let port = port.ok_or_else(|| Complaint::new("has no port from 1 to 65535", example))?;
        let bracketed = authority.starts_with('[');
        if !is_host(host, bracketed) {
            return Err(Complaint::new("names no host", example));
        }
        let host = host.to_ascii_lowercase();
        Ok(Self::Tcp { tls, host, port })
    }

    /// As `Host` has it: without the port that the scheme has anyway; `localhost` for a socket.
    pub fn authority(&self) -> String {
        match self {
            Self::Unix(_) => "localhost".to_owned(),
            Self::Tcp { tls, host, port } => {
                let host = match host.contains(':') {
                    true => format!("[{host}]"),
                    false => host.clone(),
                };
                match (tls, port) {
                    (true, 443) | (false, 80) => host,
                    (_, port) => format!("{host}:{port}"),
                }
            }
        }
    }
}

/// A name as resolvers take it, `_` of compose files too, or an address.
fn is_host(host: &str, bracketed: bool) -> bool {
    if bracketed {
        return host.parse::<std::net::Ipv6Addr>().is_ok();
    }
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    let labels = host.strip_suffix('.').unwrap_or(host).split('.');
    (1..=LONGEST_HOST).contains(&host.len())
        && host.bytes().all(good)
        && labels
            .into_iter()
            .all(|label| !label.is_empty() && label.len() <= 63 && !label.starts_with('-'))
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp { tls, .. } => {
                let scheme = if *tls { "https" } else { "http" };
                write!(f, "{scheme}://{}", self.authority())
            }
        }
    }
}

/// A path that upstreams are asked for.
pub fn health_path(text: &str) -> Result<(), Complaint> {
    let good = text.starts_with('/') && text.bytes().all(|byte| (b'!'..=b'~').contains(&byte));
    match good && !text.contains('#') {
        true => Ok(()),
        false => Err(Complaint::new("is no path", "write it as /health")),
    }
}

/// The name of a cookie (RFC 6265 section 4.1.1).
pub fn cookie(text: &str) -> Result<(), Complaint> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    match (1..=64).contains(&text.len()) && text.bytes().all(good) {
        true => Ok(()),
        false => Err(Complaint::new(
            "is no name of a cookie",
            "use letters, digits, - _ and ., 64 of them at most",
        )),
    }
}

/// A name that a certificate may have.
pub fn tls_name(text: &str) -> Result<(), Complaint> {
    let address = text.parse::<std::net::IpAddr>().is_ok();
    match address || is_host(text, false) {
        true => Ok(()),
        false => Err(Complaint::new("names no host", "write it as app.internal")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_as_it_was_meant() {
        for (written, shown) in [
            ("http://127.0.0.1:9000", "http://127.0.0.1:9000"),
            ("http://App_1", "http://app_1"),
            ("http://app:80/", "http://app"),
            ("https://[::1]:8443", "https://[::1]:8443"),
            ("https://a.example.", "https://a.example."),
            ("unix:/run/app.sock", "unix:/run/app.sock"),
            ("unix:///run/app.sock", "unix:/run/app.sock"),
        ] {
            let shows = Address::parse(written).map(|address| address.to_string());
            assert_eq!(shows, Ok(shown.to_owned()), "{written}");
        }
    }

    #[test]
    fn what_is_no_address_is_named() {
        for (written, what) in [
            ("127.0.0.1:9000", "says not how it is spoken to"),
            ("ftp://a", "has a scheme that is not spoken"),
            ("http://a:0", "has no port from 1 to 65535"),
            ("http://a:x", "has no port from 1 to 65535"),
            ("http://a:70000", "has no port from 1 to 65535"),
            ("http://", "names no host"),
            ("http://a b", "names no host"),
            ("http://::1", "names no host"),
            ("http://[::1", "has a [ without ]"),
            ("http://[a]", "names no host"),
            ("http://-a", "names no host"),
            ("http://a/path", "has a path"),
            ("http://a?x", "has a path"),
            ("http://u:p@a", "has a user or a password"),
            ("unix:run/app.sock", "needs an absolute path"),
        ] {
            let wrong = Address::parse(written).map_err(|complaint| complaint.what);
            assert_eq!(wrong, Err(what.to_owned()), "{written}");
        }
    }
}
