//! The WebSocket opening handshake (RFC 6455 section 4), as far as both sides of it are checked here.

use super::h1::bytes::trim;

/// The GUID of RFC 6455 section 1.3.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The value of `Sec-WebSocket-Accept` that answers a client's key.
pub fn accept_key(key: &[u8]) -> String {
    let mut digest = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY);
    digest.update(key);
    digest.update(GUID);
    base64(digest.finish().as_ref())
}

/// Whether an app's raw response head switches to the protocol the client asked for.
pub fn is_switch(head: &[u8], key: &[u8]) -> bool {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut fields);
    if !matches!(response.parse(head), Ok(httparse::Status::Complete(_)))
        || response.code != Some(101)
    {
        return false;
    }
    let expected = accept_key(key);
    response.headers.iter().any(|field| {
        field.name.eq_ignore_ascii_case("sec-websocket-accept")
            && trim(field.value) == expected.as_bytes()
    })
}

/// RFC 4648 section 4.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let byte = |index: usize| u32::from(three.get(index).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            let value = (bits >> (18 - 6 * digit)) as usize & 63;
            text.push(if digit <= three.len() {
                DIGITS[value] as char
            } else {
                '='
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rfcs_own_example() {
        assert_eq!(
            accept_key(b"dGhlIHNhbXBsZSBub25jZQ=="),
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
    }

    #[test]
    fn only_the_right_answer_switches() {
        let head = |status: &str, accept: &str| {
            format!(
                "HTTP/1.1 {status}\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
            )
            .into_bytes()
        };
        let key = b"dGhlIHNhbXBsZSBub25jZQ==";
        assert!(is_switch(
            &head("101 Switching Protocols", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
            key
        ));
        assert!(!is_switch(
            &head("200 OK", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
            key
        ));
        assert!(!is_switch(&head("101 Switching Protocols", "AAAA"), key));
        assert!(!is_switch(b"nonsense\r\n\r\n", key));
    }
}
