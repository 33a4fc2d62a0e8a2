//! A response head as text → fields of HTTP/2.
//!
//! Files keep their heads as text, the encoder checks an app's fields while it writes them, the access
//! log reads them there: one form for all, and it is cut into fields at the last moment.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};

/// Where the status stands in `HTTP/1.1 200 OK`.
const STATUS: std::ops::Range<usize> = 9..12;

/// Fields that are for one connection (RFC 9113 section 8.2.2), and those by which HTTP/1.1 alone
/// answers a WebSocket handshake (RFC 8441 section 5).
const LEFT_OUT: [&str; 6] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "transfer-encoding",
    "upgrade",
    "sec-websocket-accept",
];

/// A status line and its fields. What switches protocols in HTTP/1.1 is a success here.
pub fn response(text: Vec<u8>) -> Response<()> {
    let status = match text.get(STATUS) {
        Some(b"101") => StatusCode::OK,
        digits => digits
            .and_then(|digits| StatusCode::from_bytes(digits).ok())
            .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
    };
    let first = memchr::memchr(b'\n', &text).map_or(text.len(), |at| at + 1);
    let text = Bytes::from(text).slice(first..);
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.headers_mut() = fields(&text);
    response
}

/// Lines of fields.
pub fn fields(text: &Bytes) -> HeaderMap {
    let mut fields = HeaderMap::with_capacity(16);
    let mut from = 0;
    while let Some(length) = memchr::memchr(b'\n', &text[from..]) {
        let line = &text[from..from + length];
        if let Some(colon) = memchr::memchr(b':', line) {
            let value = line[colon + 1..].trim_ascii();
            let name = HeaderName::from_bytes(&line[..colon]);
            let value = HeaderValue::from_maybe_shared(text.slice_ref(value));
            match (name, value) {
                (Ok(name), Ok(value)) if !LEFT_OUT.contains(&name.as_str()) => {
                    // Full at 32,768 fields, which no frame of a worker holds.
                    let _ = fields.try_append(name, value);
                }
                (Ok(_), Ok(_)) => {}
                (name, _) => tracing::error!(
                    ?name,
                    "a field of the app's response holds a byte that HTTP/2 cannot send; it is left out"
                ),
            }
        }
        from += length + 1;
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, status: u16, expected: &[(&str, &str)]) {
        let response = response(text.as_bytes().to_vec());
        let fields: Vec<_> = response.headers().iter().collect();
        let fields: Vec<_> = fields
            .iter()
            .map(|(name, value)| (name.as_str(), value.to_str().expect("text")))
            .collect();
        assert_eq!(
            (response.status().as_u16(), &fields[..]),
            (status, expected)
        );
    }

    #[test]
    fn lines_become_fields() {
        check("HTTP/1.1 204 No Content\r\n\r\n", 204, &[]);
        check(
            "HTTP/1.1 200 OK\r\nDate: now\r\nX-A:b \r\nSet-Cookie: a\r\nset-cookie: b\r\n\r\n",
            200,
            &[
                ("date", "now"),
                ("x-a", "b"),
                ("set-cookie", "a"),
                ("set-cookie", "b"),
            ],
        );
        check(
            "HTTP/1.1 200 OK\r\nX-A: a\u{1}b\r\nb: c\r\n\r\n",
            200,
            &[("b", "c")],
        );
    }

    #[test]
    fn a_switch_is_a_success_without_the_words_of_http_1() {
        check(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: x\r\nSec-WebSocket-Protocol: chat\r\n\r\n",
            200,
            &[("sec-websocket-protocol", "chat")],
        );
    }
}
