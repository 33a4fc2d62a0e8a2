//! A request's head for an upstream, made anew from what was parsed: fields for one connection are gone, who is asking
//! is said in our hand, and one length says where the body ends (threats E-01, E-09, E-10).

use crate::edge::connection::Connection;
use crate::edge::forwarded::Sender;
use crate::edge::h1::bytes::{escape, hex_digit, line, push_decimal};
use crate::edge::h1::head::{Framing, Head};
use crate::edge::h1::names;

/// How the upstream learns where the body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ends {
    /// Bytes.
    Length(u64),
    Chunked,
}

impl Connection {
    /// Writes the head into `out`. `host`: the upstream's own name goes in the place of the client's.
    pub fn forward_head(&self, sender: &Sender, host: Option<&str>, ends: Ends, out: &mut Vec<u8>) {
        let head = &self.head;
        out.extend_from_slice(head.method());
        out.push(b' ');
        target(head, self.site.mount.as_bytes(), out);
        out.extend_from_slice(b" HTTP/1.1\r\n");
        let https = sender.https(self.io.is_tls());
        let fields = &self.site.policy.fields;
        let mut named = host.is_some();
        if let Some(host) = host {
            line(b"host", host.as_bytes(), out);
        }
        // A stream may spread one field over several, as it does with cookies (RFC 9113 section 8.2.3).
        let join = self.io.is_stream();
        sender.fields(
            head,
            https,
            join,
            &fields.request_drops,
            |id, name, value| match id {
                names::HOST if host.is_some() => {}
                // Written below, whatever the client says.
                names::CONNECTION | names::UPGRADE => {}
                _ => {
                    named |= id == names::HOST;
                    line(name, value, out);
                }
            },
        );
        if !named {
            // HTTP/1.0 needs none.
            line(b"host", head.authority().unwrap_or(b"localhost"), out);
        }
        fields.tell_app(|name, value| line(name, value, out));
        if !self.site.mount.is_empty() {
            line(b"x-forwarded-prefix", self.site.mount.as_bytes(), out);
        }
        self.tell_id(sender, |id| line(b"x-request-id", id, out));
        self.tell_trace(|name, value| line(name, value, out));
        self.tell_claims(|name, value| line(name, value, out));
        if let Some(user) = &self.row.user {
            line(b"x-ostler-user", user.as_bytes(), out);
        }
        match ends {
            _ if head.is_websocket() => {
                out.extend_from_slice(b"connection: Upgrade\r\nupgrade: websocket\r\n");
            }
            Ends::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
            Ends::Length(0) if head.framing() == Framing::None && !expects_body(head) => {}
            Ends::Length(length) => {
                out.extend_from_slice(b"content-length: ");
                push_decimal(out, length);
                out.extend_from_slice(b"\r\n");
            }
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// The target of a request as others are told it, without `mount`: the path as it was sent, so that escapes stay what
/// they are. But a path that leads through `.` or `..` is told as it was understood: our rules were asked about that one
/// (threats E-17).
pub fn target(head: &Head, mount: &[u8], out: &mut Vec<u8>) {
    let (raw, path) = (head.raw_path(), head.path());
    match below(raw, mount).filter(|_| means(raw, path)) {
        _ if path == b"*" => out.push(b'*'),
        Some(b"") => out.push(b'/'),
        Some(rest) => out.extend_from_slice(rest),
        None => {
            let rest = below(path, mount).unwrap_or(path);
            if !rest.starts_with(b"/") {
                out.push(b'/');
            }
            escape(rest, out);
        }
    }
    if !head.query().is_empty() {
        out.push(b'?');
        out.extend_from_slice(head.query());
    }
}

/// Methods of which a request without a body says so (RFC 9110 section 8.6).
fn expects_body(head: &Head) -> bool {
    matches!(head.method(), b"POST" | b"PUT" | b"PATCH")
}

/// What is below `mount`, when it is.
fn below<'p>(path: &'p [u8], mount: &[u8]) -> Option<&'p [u8]> {
    let rest = path.strip_prefix(mount)?;
    (rest.is_empty() || rest[0] == b'/').then_some(rest)
}

/// Whether `raw` is `path` with escapes and nothing else.
fn means(raw: &[u8], path: &[u8]) -> bool {
    if raw == path {
        return true;
    }
    let (mut raw, mut path) = (raw.iter(), path.iter());
    while let Some(&byte) = raw.next() {
        let mut digit = || raw.next().copied().and_then(hex_digit);
        let decoded = match byte {
            b'%' => match (digit(), digit()) {
                (Some(high), Some(low)) => high << 4 | low,
                _ => return false,
            },
            byte => byte,
        };
        if path.next() != Some(&decoded) {
            return false;
        }
    }
    path.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::h1::target::canonicalise;

    #[test]
    fn only_dot_segments_make_a_path_mean_something_else() {
        for (raw, path, same) in [
            ("/a%20b", "/a b", true),
            ("/a%2Fb", "/a/b", true),
            ("/a/../b", "/b", false),
            ("/a/%2e%2E/b", "/b", false),
            ("/a/./b", "/a/b", false),
            ("/a.b/..c", "/a.b/..c", true),
        ] {
            let mut canonical = Vec::new();
            canonicalise(raw.as_bytes(), &mut canonical).expect("a good path");
            assert_eq!(canonical, path.as_bytes(), "{raw}");
            assert_eq!(means(raw.as_bytes(), path.as_bytes()), same, "{raw}");
        }
    }

    #[test]
    fn what_is_escaped_decodes_to_itself() {
        let all: Vec<u8> = std::iter::once(b'/')
            .chain(1..=255)
            .filter(|byte| *byte != b'.')
            .collect();
        let (mut escaped, mut back) = (Vec::new(), Vec::new());
        escape(&all, &mut escaped);
        assert!(escaped.iter().all(u8::is_ascii_graphic));
        canonicalise(&escaped, &mut back).expect("a good path");
        assert_eq!(back, all);
    }

    #[test]
    fn a_prefix_ends_at_a_slash() {
        assert_eq!(below(b"/api/x", b"/api"), Some(&b"/x"[..]));
        assert_eq!(below(b"/api", b"/api"), Some(&b""[..]));
        assert_eq!(below(b"/apix", b"/api"), None);
        assert_eq!(below(b"/x", b""), Some(&b"/x"[..]));
    }
}
