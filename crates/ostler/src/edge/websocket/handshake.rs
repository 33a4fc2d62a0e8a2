//! The opening handshake (RFC 6455 section 4.2) of an HTTP/1.1 request whose head is parsed; and
//! whether a WSGI app that speaks the protocol itself has answered one.

use std::fmt;

use aws_lc_rs::digest;

use super::deflate::Deflate;

/// What a key is hashed with (section 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Why a handshake is refused. The client must act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Only GET may upgrade.
    Method,
    /// `Upgrade: websocket` and `Connection: Upgrade` must both be there.
    NotAnUpgrade,
    /// `Sec-WebSocket-Key` is missing or not 16 bytes in base64.
    Key,
    /// `Sec-WebSocket-Version` is not 13: the answer is a 426 with `Sec-WebSocket-Version: 13`
    /// (section 4.4), others get a 400.
    Version,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Method => "a WebSocket handshake is a GET",
            Self::NotAnUpgrade => "a WebSocket handshake needs \"Connection: Upgrade\"",
            Self::Key => "the WebSocket key is missing or malformed",
            Self::Version => "only version 13 of the WebSocket protocol is spoken",
        })
    }
}

/// A good handshake, and what the answer to it must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handshake {
    /// The value of `Sec-WebSocket-Accept`.
    pub accept: String,
    /// What is agreed about compression.
    pub(super) deflate: Option<Deflate>,
    protocols: Vec<u8>,
}

impl Handshake {
    /// The value of `Sec-WebSocket-Extensions`, when one was agreed to.
    pub fn extensions(&self) -> Option<String> {
        self.deflate.map(Deflate::answer)
    }

    /// Whether the client offered the subprotocol: an answer may name no other (section 4.2.2).
    pub fn offers(&self, subprotocol: &[u8]) -> bool {
        tokens(&self.protocols).any(|offered| offered == subprotocol)
    }
}

/// Whether a request asks for a WebSocket at all: `Upgrade` names it. `header` looks a header up by
/// its lower-case name; several of one name are joined by commas.
pub fn is_handshake<'h>(header: impl Fn(&str) -> Option<&'h [u8]>) -> bool {
    has_token(header("upgrade"), b"websocket")
}

/// Checks a handshake. `compression` says whether permessage-deflate may be agreed to.
pub fn handshake<'h>(
    method: &[u8],
    header: impl Fn(&str) -> Option<&'h [u8]>,
    compression: bool,
) -> Result<Handshake, Refusal> {
    if method != b"GET" {
        return Err(Refusal::Method);
    }
    if !is_handshake(&header) || !has_token(header("connection"), b"upgrade") {
        return Err(Refusal::NotAnUpgrade);
    }
    if header("sec-websocket-version").map(<[u8]>::trim_ascii) != Some(b"13") {
        return Err(Refusal::Version);
    }
    let key = header("sec-websocket-key").unwrap_or_default().trim_ascii();
    if !is_key(key) {
        return Err(Refusal::Key);
    }
    let offers = header("sec-websocket-extensions").filter(|_| compression);
    let protocols = header("sec-websocket-protocol").unwrap_or_default();
    Ok(Handshake {
        accept: accept_key(key),
        deflate: offers.and_then(Deflate::choose),
        protocols: protocols.to_vec(),
    })
}

/// The `Sec-WebSocket-Accept` value that answers a `Sec-WebSocket-Key` (section 4.2.2).
pub fn accept_key(key: &[u8]) -> String {
    // The protocol asks for SHA-1, as a marker and not as a protection.
    let mut hash = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(key);
    hash.update(GUID);
    base64(hash.finish().as_ref())
}

/// Whether an app's raw response head switches to the protocol that the client asked for.
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
            && field.value.trim_ascii() == expected.as_bytes()
    })
}

/// Base64 with padding (RFC 4648 section 4).
fn base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for position in 0..4 {
            let sextet = (bits >> (18 - 6 * position)) as usize & 63;
            text.push(match position <= chunk.len() {
                true => char::from(BASE64[sextet]),
                false => '=',
            });
        }
    }
    text
}

/// 16 bytes in base64: 22 digits and two pads.
fn is_key(key: &[u8]) -> bool {
    match key.strip_suffix(b"==") {
        Some(digits) => digits.len() == 22 && digits.iter().all(|digit| BASE64.contains(digit)),
        None => false,
    }
}

fn has_token(value: Option<&[u8]>, token: &[u8]) -> bool {
    tokens(value.unwrap_or_default()).any(|found| found.eq_ignore_ascii_case(token))
}

fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let all = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    all.filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &[(&str, &str)] = &[
        ("upgrade", "websocket"),
        ("connection", "Upgrade"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];

    fn check(method: &str, changed: &[(&str, &str)]) -> Result<Handshake, Refusal> {
        let lookup = |name: &str| {
            let of = |list: &[(&str, &'static str)]| {
                list.iter()
                    .find(|(known, _)| *known == name)
                    .map(|(_, value)| value.as_bytes())
            };
            match changed.iter().find(|(known, _)| *known == name) {
                Some((_, "")) => None,
                Some((_, value)) => Some(value.to_string().leak().as_bytes()),
                None => of(GOOD),
            }
        };
        handshake(method.as_bytes(), lookup, true)
    }

    #[test]
    fn the_key_of_the_rfc_has_the_answer_of_the_rfc() {
        let good = check("GET", &[]).expect("a good handshake");
        assert_eq!(good.accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(good.extensions(), None);
    }

    #[test]
    fn base64_pads_every_length() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }

    #[test]
    fn handshakes_are_refused_for_a_reason() {
        for (header, value, refusal) in [
            ("upgrade", "", Some(Refusal::NotAnUpgrade)),
            ("upgrade", "websockets", Some(Refusal::NotAnUpgrade)),
            ("upgrade", "h2c, WebSocket", None),
            ("connection", "", Some(Refusal::NotAnUpgrade)),
            ("connection", "close", Some(Refusal::NotAnUpgrade)),
            ("connection", "keep-alive, UPGRADE", None),
            ("sec-websocket-version", "", Some(Refusal::Version)),
            ("sec-websocket-version", "8", Some(Refusal::Version)),
            ("sec-websocket-version", "13, 8", Some(Refusal::Version)),
            ("sec-websocket-version", "013", Some(Refusal::Version)),
            ("sec-websocket-key", "", Some(Refusal::Key)),
            (
                "sec-websocket-key",
                "dGhlIHNhbXBsZSBub25jZQ",
                Some(Refusal::Key),
            ),
            (
                "sec-websocket-key",
                "dGhlIHNhbXBsZSBub25jZSE=",
                Some(Refusal::Key),
            ),
            (
                "sec-websocket-key",
                "dGhlIHNhbXBsZSBub25j!Q==",
                Some(Refusal::Key),
            ),
            (
                "sec-websocket-key",
                "dGhlIHNhbXBsZSBub25jZQ==, dGhlIHNhbXBsZSBub25jZQ==",
                Some(Refusal::Key),
            ),
        ] {
            assert_eq!(
                check("GET", &[(header, value)]).err(),
                refusal,
                "{header}: {value}"
            );
        }
        assert_eq!(check("POST", &[]).err(), Some(Refusal::Method));
    }

    #[test]
    fn only_offered_subprotocols_may_be_answered() {
        let offer = check("GET", &[("sec-websocket-protocol", "chat, superchat")]).expect("good");
        assert!(offer.offers(b"chat") && offer.offers(b"superchat"));
        assert!(!offer.offers(b"Chat") && !offer.offers(b"") && !offer.offers(b"chat, superchat"));
    }

    #[test]
    fn compression_is_agreed_to_when_it_is_wanted() {
        let offer = [(
            "sec-websocket-extensions",
            "permessage-deflate; client_max_window_bits",
        )];
        let answer = check("GET", &offer).expect("good").extensions();
        assert!(answer.is_some_and(|answer| answer.starts_with("permessage-deflate; ")));
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
        let good = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
        assert!(is_switch(&head("101 Switching Protocols", good), key));
        assert!(!is_switch(&head("200 OK", good), key));
        assert!(!is_switch(&head("101 Switching Protocols", "AAAA"), key));
        assert!(!is_switch(b"nonsense\r\n\r\n", key));
    }
}
