//! What a request and a reply say of an Engine.IO session, the transport of Socket.IO: enough to
//! bring a session's requests to the worker that holds it. Pure.

use memchr::memmem;

use crate::pool::Session;

/// Bytes of a reply in which its session id must be: an open packet has about 100.
const LOOK: usize = 512;

/// Reads a raw query (<https://socket.io/docs/v4/engine-io-protocol/>).
pub fn session(query: &[u8]) -> Session<'_> {
    if memmem::find(query, b"EIO=").is_none() {
        return Session::None;
    }
    let pairs = || query.split(|&byte| byte == b'&');
    if !pairs().any(|pair| pair.starts_with(b"EIO=")) {
        return Session::None;
    }
    match pairs().find_map(|pair| pair.strip_prefix(b"sid=")) {
        Some(sid) if !sid.is_empty() => Session::Of(sid),
        _ => Session::Opens,
    }
}

/// The id in an open packet: `0{"sid":"…",…}`, in version 3 behind its length (`97:0{…`).
pub fn opened(body: &[u8]) -> Option<&[u8]> {
    let body = &body[..body.len().min(LOOK)];
    let packet = memchr::memchr(b'{', body)?;
    let (length, json) = body.split_at(packet);
    let is_open = match length {
        b"0" => true,
        length => length
            .strip_suffix(b":0")
            .is_some_and(|digits| !digits.is_empty() && digits.iter().all(u8::is_ascii_digit)),
    };
    if !is_open {
        return None;
    }
    const KEY: &[u8] = b"\"sid\":";
    let rest = json[memmem::find(json, KEY)? + KEY.len()..].trim_ascii_start();
    let rest = rest.strip_prefix(b"\"")?;
    let sid = &rest[..memchr::memchr(b'"', rest)?];
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(byte);
    (!sid.is_empty() && sid.iter().all(is_plain)).then_some(sid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries() {
        for (query, expected) in [
            ("", Session::None),
            ("sid=a", Session::None),
            ("aEIO=4", Session::None),
            ("EIO=4&transport=polling&t=OabC", Session::Opens),
            ("EIO=4&transport=polling&sid=", Session::Opens),
            ("transport=polling&EIO=4&sid=abc-_9", Session::Of(b"abc-_9")),
            ("EIO=3&xsid=b&sid=a", Session::Of(b"a")),
        ] {
            assert_eq!(session(query.as_bytes()), expected, "{query}");
        }
    }

    #[test]
    fn open_packets() {
        for (body, expected) in [
            (
                r#"0{"sid":"lv_VI97HAXpY6yYWAAAB","upgrades":["websocket"]}"#,
                Some("lv_VI97HAXpY6yYWAAAB"),
            ),
            (r#"0{"upgrades":[], "sid": "a"}"#, Some("a")),
            (r#"97:0{"sid":"abc","pingInterval":25000}2:40"#, Some("abc")),
            (r#"{"sid":"abc"}"#, None),
            (r#"4{"sid":"abc"}"#, None),
            (r#"x:0{"sid":"abc"}"#, None),
            (r#"0{"sid":"a b"}"#, None),
            (r#"0{"sid":""}"#, None),
            (r#"0{"sid":"abc"#, None),
            ("", None),
        ] {
            assert_eq!(
                opened(body.as_bytes()),
                expected.map(str::as_bytes),
                "{body}"
            );
        }
    }
}
