//! Servers that we ask ourselves: who signs tokens, and who says who may come. Values that were checked; asks nobody.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::error::Complaint;

/// Where the public keys of tokens are.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TokenKeys {
    /// Absolute.
    File(PathBuf),
    Url(String),
}

/// Somebody who is asked about each request (`forward_auth`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authority {
    pub url: String,
    /// The field of its answer that names the user.
    pub user: Option<String>,
    /// Fields of its answer that the app gets, in the place of what the client says.
    pub copy: Vec<String>,
    /// For one answer.
    pub timeout: Duration,
}

/// Seconds for the answer of an authority when none are said.
pub const TIMEOUT: i64 = 5;

/// Longest time for it, in seconds: everybody waits for it.
pub const LONGEST_TIMEOUT: f64 = 60.0;

/// Longest URL, in bytes.
const LONGEST: usize = 2048;

/// Something at a server, and no path.
pub fn is_url(text: &str) -> bool {
    text.contains("://")
}

/// Nobody is asked on this route, whoever the project asks.
pub const OFF: &str = "off";

/// Whom to ask: an `http` or `https` URL, or [`OFF`].
///
/// # Errors
/// It is neither.
pub fn authority(text: &str) -> Result<String, Complaint> {
    match text {
        OFF => Ok(text.to_owned()),
        _ => url(text),
    }
}

/// An `http` or `https` URL.
///
/// # Errors
/// It is none.
fn url(text: &str) -> Result<String, Complaint> {
    let hint = "write it as https://auth.example.com/verify, without a user and without #";
    match host(text) {
        Some(_) => Ok(text.to_owned()),
        None => Err(Complaint::new("is no http or https URL", hint)),
    }
}

/// A file, or a URL with TLS: who could change the answer on its way could sign tokens.
///
/// # Errors
/// It is neither.
pub fn key_set(text: &str) -> Result<String, Complaint> {
    if !is_url(text) {
        return Ok(text.to_owned());
    }
    url(text)?;
    let here = host(text).is_some_and(|host| {
        let address: Result<IpAddr, _> = host.trim_matches(['[', ']']).parse();
        host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|it| it.is_loopback())
    });
    match text.starts_with("https://") || here {
        true => Ok(text.to_owned()),
        false => Err(Complaint::new(
            "is a URL without TLS",
            "write https://, or http:// for a server of this machine: whoever changed the keys on their way could sign tokens",
        )),
    }
}

fn host(url: &str) -> Option<&str> {
    let rest = url
        .strip_prefix("https://")
        .or_else(|| url.strip_prefix("http://"))?;
    let authority = rest.split(['/', '?']).next()?;
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let plain = url
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && !b"#\\\"<>^`{|}".contains(&byte));
    let named = host
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"-_.[:]".contains(&byte));
    let port = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
    (plain && named && port && !host.is_empty() && url.len() <= LONGEST).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_servers() {
        for text in [
            "https://a.test",
            "http://auth:9091/api/verify?rd=x",
            "https://[::1]:8443/x",
        ] {
            assert!(url(text).is_ok(), "{text}");
        }
        for text in [
            "",
            "a.test",
            "ftp://a.test",
            "https://",
            "https://u:p@a.test/",
            "https://a.test:99999/",
            "https://a.test/x y",
            "https://a.test/#x",
            "https://a.test:0",
            "https://a.test/\r\nX: y",
            "HTTPS://a.test",
        ] {
            assert!(url(text).is_err(), "{text}");
        }
        for text in [
            "jwks.json",
            "https://a.test/jwks",
            "http://127.0.0.1:9/jwks",
            "http://localhost/x",
            "http://[::1]/x",
        ] {
            assert!(key_set(text).is_ok(), "{text}");
        }
        for text in [
            "http://a.test/jwks",
            "http://10.0.0.1/",
            "file:///etc/x",
            "http://localhost.evil.test/",
        ] {
            assert!(key_set(text).is_err(), "{text}");
        }
    }
}
