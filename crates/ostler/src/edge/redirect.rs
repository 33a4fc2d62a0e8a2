//! Requests that came to another place than they should: without TLS, or to another name of the site. They are
//! sent on with 308 (RFC 9110 section 15.4.9), which keeps method and body.

use super::connection::Connection;
use super::forwarded::Sender;
use super::policy::redirected;
use super::reason::Reason;
use super::sending::After;

/// Where requests for a site should come to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entrance {
    /// The port for HTTPS; `None`: plain HTTP is answered too.
    pub https: Option<u16>,
    /// The one name it should be called by.
    pub host: Option<String>,
}

impl Entrance {
    /// The address to send a request to, without its path; `None` when it came to the right one. `host` is as
    /// the client wrote it and not empty, `port` is the one it named.
    fn elsewhere(&self, https: bool, host: &[u8], port: Option<u16>) -> Option<Vec<u8>> {
        let secures = self.https.filter(|_| !https);
        let renames = self.host.as_deref().map(str::as_bytes);
        let renames = renames.filter(|name| !name.eq_ignore_ascii_case(host));
        if secures.is_none() && renames.is_none() {
            return None;
        }
        let https = https || secures.is_some();
        let port = match secures {
            Some(443) => None,
            Some(other) => Some(other),
            None => port,
        };
        let scheme: &[u8] = if https { b"https://" } else { b"http://" };
        let mut to = [scheme, renames.unwrap_or(host)].concat();
        if let Some(port) = port {
            to.extend_from_slice(format!(":{port}").as_bytes());
        }
        Some(to)
    }
}

impl Connection {
    /// Sends a request on that came to another place than it should, or for what has moved.
    pub async fn redirect(&mut self, sender: &Sender) -> Result<Option<After>, Reason> {
        let Some((to, status)) = self.entered_elsewhere(sender).or_else(|| self.moved()) else {
            return Ok(None);
        };
        self.pass_over_body().await?;
        let fields = [&b"Location: "[..], &to, b"\r\nContent-Length: 0\r\n"].concat();
        self.begin_answer(status, &[&fields], false);
        Ok(Some(After::KeepAlive))
    }

    fn entered_elsewhere(&self, sender: &Sender) -> Option<(Vec<u8>, u16)> {
        let (host, port) = (self.head.host(), self.head.port());
        if host.is_empty() {
            return None;
        }
        let https = sender.https(self.io.is_tls());
        let mut to = self.site.entrance.elsewhere(https, host, port)?;
        to.extend_from_slice(origin_form(self.head.target()));
        Some((to, 308))
    }

    /// As the rules of the site say.
    fn moved(&self) -> Option<(Vec<u8>, u16)> {
        let (rules, mount) = (&self.site.policy.redirects, &self.site.mount);
        redirected(rules, mount, self.head.path(), self.head.query())
    }
}

/// Path and query of a request target (RFC 9112 section 3.2).
fn origin_form(target: &[u8]) -> &[u8] {
    if target.starts_with(b"/") {
        return target;
    }
    let Some(scheme) = memchr::memmem::find(target, b"://") else {
        // `OPTIONS *`
        return b"/";
    };
    let rest = &target[scheme + 3..];
    match rest.iter().position(|byte| matches!(byte, b'/' | b'?')) {
        Some(at) if rest[at] == b'/' => &rest[at..],
        Some(_) | None => b"/",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_sent_on_once_and_never_back() {
        let entrance = |https, host: Option<&str>| Entrance {
            https,
            host: host.map(str::to_owned),
        };
        for (entrance, https, host, port, to) in [
            (entrance(None, None), false, "a.test", None, None),
            (entrance(Some(443), None), true, "a.test", None, None),
            (
                entrance(Some(443), None),
                false,
                "a.test",
                Some(80),
                Some("https://a.test"),
            ),
            (
                entrance(Some(8443), None),
                false,
                "a.test",
                Some(8000),
                Some("https://a.test:8443"),
            ),
            (
                entrance(None, Some("a.test")),
                false,
                "A.test",
                Some(8000),
                None,
            ),
            (
                entrance(None, Some("a.test")),
                false,
                "www.a.test",
                Some(8000),
                Some("http://a.test:8000"),
            ),
            (
                entrance(None, Some("a.test")),
                true,
                "www.a.test",
                None,
                Some("https://a.test"),
            ),
            (
                entrance(Some(443), Some("a.test")),
                false,
                "www.a.test",
                None,
                Some("https://a.test"),
            ),
            (
                entrance(Some(443), Some("a.test")),
                true,
                "www.a.test",
                Some(8443),
                Some("https://a.test:8443"),
            ),
        ] {
            let found = entrance.elsewhere(https, host.as_bytes(), port);
            let found = found.map(|to| String::from_utf8(to).expect("text"));
            assert_eq!(found.as_deref(), to, "{entrance:?} {https} {host} {port:?}");
        }
    }

    #[test]
    fn a_target_of_any_form_keeps_its_path() {
        for (target, path) in [
            ("/a?b=c", "/a?b=c"),
            ("http://x.test/a?b", "/a?b"),
            ("http://x.test", "/"),
            ("http://x.test?q=/a", "/"),
            ("*", "/"),
        ] {
            assert_eq!(origin_form(target.as_bytes()), path.as_bytes());
        }
    }
}
