//! The fields of an HTTP/2 request → the head that both protocols share.
//!
//! The `h2` crate refuses what breaks its framing: names in upper case, unknown, repeated or late
//! pseudo-header fields, controls in values, DATA that differs from `content-length`. What is left is
//! written down as a head of HTTP/1.1 and read by [`crate::edge::h1`], so that a rule about hosts,
//! paths, names or lengths holds for both or for neither (threats E-14).

use h2::ext::Protocol;
use http::request::Parts;

use crate::edge::h1::bytes::{line, trim};
use crate::edge::h1::head::{Head, Limits, from_http2};
use crate::edge::reason::Reason;

/// RFC 8441 has no key. The edge itself checks what a WSGI app makes of this one.
const KEY: &[u8] = b"b3N0bGVyIG92ZXIgaHR0cA==";

/// Why a head is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It is no request of HTTP/2: a stream error (RFC 9113 section 8.1.1).
    Malformed(Reason),
    /// It is a bad request, which is answered.
    Bad(Reason),
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        Self::Bad(reason)
    }
}

/// Reads the head of a stream; `ends` when no body follows.
///
/// # Errors
/// The reason to refuse.
pub fn read(parts: &Parts, ends: bool, limits: &Limits) -> Result<Head, Refusal> {
    let websocket = match parts.extensions.get::<Protocol>() {
        None => false,
        Some(protocol) if protocol.as_str() == "websocket" => true,
        Some(_) => return Err(Reason::Protocol.into()),
    };
    if websocket && parts.headers.contains_key(http::header::CONTENT_LENGTH) {
        // It has a body, so it is no handshake, and the answer 200 would open a tunnel that nobody serves
        // (RFC 8441 section 5).
        return Err(Reason::UpgradeInvalid.into());
    }
    let mut text = Vec::with_capacity(1024);
    request_line(parts, websocket, &mut text)?;
    host(parts, &mut text)?;
    if websocket {
        line(b"connection", b"upgrade", &mut text);
        line(b"upgrade", b"websocket", &mut text);
        line(b"sec-websocket-key", KEY, &mut text);
    }
    let mut cookies = Vec::new();
    for (name, value) in &parts.headers {
        let (name, value) = (name.as_str().as_bytes(), value.as_bytes());
        check(name, value).map_err(Refusal::Malformed)?;
        match name {
            // Written already.
            b"host" => {}
            // One of each name is one of RFC 6455: its own is of no use here.
            b"sec-websocket-key" if websocket => {}
            // Cut apart for the sake of compression (RFC 9113 section 8.2.3).
            b"cookie" if cookies.is_empty() => cookies.extend_from_slice(value),
            b"cookie" => {
                cookies.extend_from_slice(b"; ");
                cookies.extend_from_slice(value);
            }
            _ => line(name, value, &mut text),
        }
    }
    if !cookies.is_empty() {
        line(b"cookie", &cookies, &mut text);
    }
    text.extend_from_slice(b"\r\n");
    Ok(from_http2(text, ends, limits)?)
}

/// `:method` and `:path`. The scheme is what the transport says (RFC 9113 section 8.3.1 lets a client
/// write any).
fn request_line(parts: &Parts, websocket: bool, text: &mut Vec<u8>) -> Result<(), Refusal> {
    let scheme = parts.uri.scheme_str().unwrap_or("https");
    let path = parts.uri.path_and_query().map_or("", |path| path.as_str());
    if parts.method == http::Method::CONNECT && !websocket {
        // A tunnel to nowhere is none (RFC 9113 section 8.5).
        return Err(match parts.uri.authority() {
            Some(_) => Refusal::Bad(Reason::Method),
            None => Refusal::Malformed(Reason::HostMissing),
        });
    }
    if !matches!(scheme, "https" | "http") || !(path.starts_with('/') || path == "*") {
        return Err(Reason::Target.into());
    }
    // What an extended CONNECT asks for is what GET asks for in HTTP/1.1 (RFC 8441 section 5).
    let method = if websocket {
        "GET"
    } else {
        parts.method.as_str()
    };
    for part in [method, " ", path, " HTTP/1.1\r\n"] {
        text.extend_from_slice(part.as_bytes());
    }
    Ok(())
}

/// One host: `:authority`, or the Host field of a request that a proxy has turned into HTTP/2. Where
/// there are both they must be equal (RFC 9113 section 8.3.1).
fn host(parts: &Parts, text: &mut Vec<u8>) -> Result<(), Refusal> {
    let authority = parts
        .uri
        .authority()
        .map(|authority| authority.as_str().as_bytes());
    let mut fields = parts.headers.get_all(http::header::HOST).iter();
    let field = fields.next().map(http::HeaderValue::as_bytes);
    if fields.next().is_some() {
        return Err(Reason::HostDuplicate.into());
    }
    match (authority, field) {
        (None, None) => {}
        (Some(host), None) | (None, Some(host)) => line(b"host", host, text),
        (Some(host), Some(field)) if host.eq_ignore_ascii_case(field) => line(b"host", host, text),
        (Some(_), Some(_)) => return Err(Refusal::Malformed(Reason::HostMismatch)),
    }
    Ok(())
}

/// What RFC 9113 sections 8.2.1 and 8.2.2 forbid, whether `h2` has looked or not.
fn check(name: &[u8], value: &[u8]) -> Result<(), Reason> {
    if trim(value).len() != value.len() {
        return Err(Reason::FieldValue);
    }
    if memchr::memchr3(b'\r', b'\n', 0, value).is_some() {
        return Err(Reason::Control);
    }
    match name {
        b"connection" | b"proxy-connection" | b"keep-alive" | b"transfer-encoding" | b"upgrade"
        | b"http2-settings" => Err(Reason::ConnectionField),
        b"te" if value != b"trailers" => Err(Reason::ConnectionField),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::edge::h1::head::{Framing, Progress, parse};
    use crate::edge::h1::invariants::rewritten;

    fn parts(method: &str, uri: &str, fields: &[(&str, &str)]) -> Parts {
        let mut request = http::Request::builder().method(method).uri(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).expect("a request").into_parts().0
    }

    fn head(method: &str, uri: &str, fields: &[(&str, &str)]) -> Result<Head, Refusal> {
        read(&parts(method, uri, fields), true, &Limits::default())
    }

    #[test]
    fn fields_become_the_head_that_http_1_would_have_given() {
        let fields = [
            ("cookie", "a=1"),
            ("accept", "*/*"),
            ("cookie", "b=2"),
            ("te", "trailers"),
        ];
        let head = head("GET", "https://A.test:8443/a%20b/../c?d=e", &fields).expect("good");
        assert_eq!(head.version(), 20);
        assert_eq!(
            (head.method(), head.path(), head.query()),
            (&b"GET"[..], &b"/c"[..], &b"d=e"[..])
        );
        assert_eq!((head.host(), head.port()), (&b"a.test"[..], Some(8443)));
        assert_eq!(head.field(b"host"), Some(&b"A.test:8443"[..]));
        assert_eq!(head.field(b"cookie"), Some(&b"a=1; b=2"[..]));
        assert!(head.fields().all(|(_, name, _)| name != b"te"));
        assert_eq!(head.framing(), Framing::None);
    }

    #[test]
    fn a_body_lasts_as_long_as_it_says_or_as_its_stream() {
        let framing = |fields: &[(&str, &str)], ends| {
            let parts = parts("POST", "https://a.test/", fields);
            read(&parts, ends, &Limits::default())
                .expect("good")
                .framing()
        };
        assert_eq!(framing(&[], true), Framing::None);
        assert_eq!(framing(&[], false), Framing::UntilEnd);
        assert_eq!(
            framing(&[("content-length", "7")], false),
            Framing::Length(7)
        );
    }

    #[test]
    fn what_http_1_refuses_is_refused() {
        let long = "x".repeat(9000);
        for (method, uri, field, reason) in [
            ("CONNECT", "a.test:443", None, Reason::Method),
            ("TRACE", "https://a.test/", None, Reason::Method),
            ("GET", "https://a.test/%00", None, Reason::EscapedNul),
            ("GET", "https://a.test/../x", None, Reason::Traversal),
            ("GET", "https://a.test/%zz", None, Reason::Escape),
            ("GET", "ftp://a.test/", None, Reason::Target),
            ("GET", "https://u@a.test/", None, Reason::HostInvalid),
            ("GET", "/", None, Reason::HostMissing),
            (
                "GET",
                "https://a.test/",
                Some(("x", &long[..])),
                Reason::FieldTooLong,
            ),
            (
                "GET",
                "https://a.test/",
                Some(("content-length", "+1")),
                Reason::ClInvalid,
            ),
            (
                "GET",
                "https://a.test/",
                Some(("expect", "x")),
                Reason::Expect,
            ),
        ] {
            let refused = head(method, uri, field.as_slice()).err();
            assert_eq!(
                refused,
                Some(Refusal::Bad(reason)),
                "{method} {uri} {field:?}"
            );
        }
        let twice = [("host", "a.test"), ("host", "a.test")];
        let refused = head("GET", "/", &twice).err();
        assert_eq!(refused, Some(Refusal::Bad(Reason::HostDuplicate)));
        let lengths = [("content-length", "1"), ("content-length", "1")];
        assert_eq!(
            head("POST", "https://a.test/", &lengths).err(),
            Some(Refusal::Bad(Reason::ClDuplicate))
        );
    }

    #[test]
    fn what_is_no_http_2_is_malformed() {
        for (name, value, reason) in [
            ("host", "b.test", Reason::HostMismatch),
            ("connection", "x", Reason::ConnectionField),
            ("transfer-encoding", "chunked", Reason::ConnectionField),
            ("upgrade", "websocket", Reason::ConnectionField),
            ("keep-alive", "1", Reason::ConnectionField),
            ("proxy-connection", "1", Reason::ConnectionField),
            ("http2-settings", "x", Reason::ConnectionField),
            ("te", "gzip", Reason::ConnectionField),
            ("x", " y", Reason::FieldValue),
            ("x", "y\t", Reason::FieldValue),
        ] {
            let refused = head("GET", "https://a.test/", &[(name, value)]).err();
            assert_eq!(refused, Some(Refusal::Malformed(reason)), "{name}: {value}");
        }
        let refused = head("CONNECT", "/", &[]).err();
        assert_eq!(refused, Some(Refusal::Malformed(Reason::HostMissing)));
    }

    #[test]
    fn an_extended_connect_is_a_websocket_handshake() {
        let mut parts = parts(
            "CONNECT",
            "https://a.test/ws",
            &[("sec-websocket-version", "13")],
        );
        parts.extensions.insert(Protocol::from_static("websocket"));
        let head = read(&parts, false, &Limits::default()).expect("good");
        assert!(head.is_websocket() && head.method() == b"GET");
        assert_eq!(head.framing(), Framing::None);
        parts
            .extensions
            .insert(Protocol::from_static("connect-udp"));
        let refused = read(&parts, false, &Limits::default()).err();
        assert_eq!(refused, Some(Refusal::Bad(Reason::Protocol)));
    }

    proptest! {
        /// What is taken is a head that HTTP/1.1 takes as well, and means the same there: no field, line or
        /// path can be smuggled through the form in which it is read.
        #[test]
        fn what_is_taken_means_the_same_in_http_1(
            method in "(GET|POST|OPTIONS|PUT|[!-~]{1,8})",
            path in "(/[ -~]{0,20}|\\*|[ -~]{0,10})",
            authority in "([a-z.]{1,10}|[!-~]{0,12})",
            names in vec("(host|cookie|content-length|te|x|x-[a-z_]{1,5}|connection|upgrade|expect)", 0..6),
            values in vec("([0-9]{1,3}|[\\x09 -~\u{80}-\u{ff}]{0,12})", 6),
            ends in any::<bool>(),
        ) {
            let mut request = http::Request::builder().method(&method[..]);
            let uri = http::Uri::builder().scheme("https").authority(&authority[..]);
            if let Ok(uri) = uri.path_and_query(&path[..]).build() {
                request = request.uri(uri);
            }
            for (name, value) in names.iter().zip(&values) {
                request = request.header(&name[..], value.as_bytes());
            }
            let Ok(request) = request.body(()) else {
                return Ok(());
            };
            let Ok(head) = read(&request.into_parts().0, ends, &Limits::default()) else {
                return Ok(());
            };
            let text = rewritten(&head);
            let mut again = Head::default();
            let parsed = parse(&text, &Limits::default(), &mut again);
            prop_assert_eq!(parsed, Ok(Progress::Complete { consumed: text.len() }));
            prop_assert_eq!(again.method(), head.method());
            prop_assert_eq!(again.path(), head.path());
            prop_assert_eq!(again.host(), head.host());
            let fields = |head: &Head| -> Vec<_> {
                head.fields().map(|(_, name, value)| (name.to_vec(), value.to_vec())).collect()
            };
            prop_assert_eq!(fields(&again), fields(&head));
        }
    }
}
