//! The response head of an upstream, strictly: bytes in, where its body ends and a worker's form of the rest out, so that the
//! same rules hold for both ([`response`](crate::edge::h1::response)). Pure.
//!
//! A head that two readers could take for different messages is not guessed at (RFC 9112 section 6.3; threats E-01 to
//! E-04): what follows it on the connection would go to the next client.

use ostler_wire::{HEAD_LEN, Kind, ResponseEncoder, ResponseHead};

use crate::edge::h1::bytes::{decimal, find_control, is_token, trim};

/// Bytes of a head: twice what usual servers send at most.
pub const MOST: usize = 64 * 1024;

/// Fields of a head.
const FIELDS: usize = 200;

/// Options of `Connection` that name no field that would go on, but for the length, which is the framing's affair.
const STANDARD: [&[u8]; 5] = [b"close", b"keep-alive", b"upgrade", b"content-length", b""];

/// Where the body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    None,
    /// Bytes.
    Length(u64),
    Chunked,
    UntilClose,
}

/// A checked head.
#[derive(Debug)]
pub struct AnswerHead {
    pub status: u16,
    pub framing: Framing,
    /// The connection may carry another request.
    pub keep_alive: bool,
    /// It switches to a WebSocket.
    pub websocket: bool,
    /// A frame as a worker sends it.
    frame: Vec<u8>,
}

impl AnswerHead {
    /// As a worker would say it.
    pub fn said(&self) -> Option<ResponseHead<'_>> {
        ResponseHead::decode(&self.frame[HEAD_LEN..]).ok()
    }
}

/// Why a head is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wrong(pub &'static str);

/// Where the head at the start of `bytes` ends, behind its empty line; `None` while it does not. The first `searched`
/// bytes hold no end.
///
/// # Errors
/// It is too long, or it ends as no head may.
pub fn end(bytes: &[u8], searched: usize) -> Result<Option<usize>, Wrong> {
    let from = searched.min(bytes.len()).saturating_sub(3);
    match memchr::memmem::find(&bytes[from..], b"\r\n\r\n") {
        Some(at) if from + at + 4 <= MOST => Ok(Some(from + at + 4)),
        None if bytes.len() < MOST => match memchr::memmem::find(&bytes[from..], b"\n\n") {
            // It would be waited for until its time is over.
            Some(_) => Err(Wrong("a line of its head ends in LF without CR")),
            None => Ok(None),
        },
        _ => Err(Wrong("its head is too long")),
    }
}

/// Reads a whole head with its empty line. `head_only`: the request was HEAD.
///
/// # Errors
/// What is wrong with it.
pub fn parse(head: &[u8], head_only: bool) -> Result<AnswerHead, Wrong> {
    let mut named = Vec::new();
    let read = parse_without(head, head_only, &[], &mut named)?;
    // Hardly ever: what belongs to its connection alone does not go on (RFC 9110 section 7.6.1).
    match named.is_empty() {
        true => Ok(read),
        false => parse_without(head, head_only, &named, &mut Vec::new()),
    }
}

/// As [`parse`], without the fields that are `left_out`. Gives what is `named` as belonging to its connection.
fn parse_without<'h>(
    head: &'h [u8],
    head_only: bool,
    left_out: &[&[u8]],
    named: &mut Vec<&'h [u8]>,
) -> Result<AnswerHead, Wrong> {
    let mut lines = Lines(head);
    let line = lines.next().unwrap_or(Err(Wrong("it has no head")))?;
    let (version, status, phrase) = status_line(line)?;
    let mut frame = Vec::with_capacity(head.len() + 64);
    let mut encoder = ResponseEncoder::new(&mut frame, Kind::RespHead, 0, 0, status, phrase);
    let mut length: Option<u64> = None;
    let (mut chunked, mut close, mut keep, mut upgrade, mut websocket) =
        (false, false, false, false, false);
    for (count, line) in lines.enumerate() {
        let line = line?;
        if line.is_empty() {
            break;
        }
        if count >= FIELDS {
            return Err(Wrong("it has too many header fields"));
        }
        let (name, value) = field(line)?;
        match name.len() {
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                let value = decimal(value).ok_or(Wrong("its Content-Length is no number"))?;
                if length.is_some_and(|before| before != value) {
                    return Err(Wrong("it has two different lengths"));
                }
                length = Some(value);
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                if chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Wrong("its Transfer-Encoding is not `chunked`"));
                }
                chunked = true;
                continue;
            }
            10 if name.eq_ignore_ascii_case(b"connection") => {
                for option in value.split(|&byte| byte == b',').map(trim) {
                    close |= option.eq_ignore_ascii_case(b"close");
                    keep |= option.eq_ignore_ascii_case(b"keep-alive");
                    upgrade |= option.eq_ignore_ascii_case(b"upgrade");
                    if !STANDARD
                        .iter()
                        .any(|known| option.eq_ignore_ascii_case(known))
                    {
                        named.push(option);
                    }
                }
                // What it says about its connection is not about ours.
                continue;
            }
            7 if name.eq_ignore_ascii_case(b"upgrade") => {
                websocket = value.eq_ignore_ascii_case(b"websocket");
            }
            _ if left_out.iter().any(|left| name.eq_ignore_ascii_case(left)) => continue,
            _ => {}
        }
        encoder.field(name, value);
    }
    encoder.finish(0);
    let bodiless = head_only || status < 200 || matches!(status, 204 | 304);
    let framing = match (chunked, length) {
        (true, Some(_)) => {
            return Err(Wrong("it has both Content-Length and Transfer-Encoding"));
        }
        (true, None) if version < 11 => {
            return Err(Wrong("an answer of HTTP/1.0 has a Transfer-Encoding"));
        }
        _ if bodiless => Framing::None,
        (true, None) => Framing::Chunked,
        (false, Some(length)) => Framing::Length(length),
        (false, None) => Framing::UntilClose,
    };
    // Whoever writes a body where none may be has it behind the head.
    let odd = status == 204 && (chunked || length.is_some_and(|length| length > 0));
    let kept = !close && (version >= 11 || keep);
    Ok(AnswerHead {
        status,
        framing,
        keep_alive: kept && !odd && framing != Framing::UntilClose,
        websocket: status == 101 && upgrade && websocket,
        frame,
    })
}

/// The lines of a head without their CRLF.
struct Lines<'h>(&'h [u8]);

impl<'h> Iterator for Lines<'h> {
    type Item = Result<&'h [u8], Wrong>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let at = find_control(self.0);
        Some(match at.map(|at| (at, &self.0[at..])) {
            Some((at, [b'\r', b'\n', rest @ ..])) => {
                let line = &self.0[..at];
                self.0 = rest;
                Ok(line)
            }
            Some((_, [b'\r', ..])) => Err(Wrong("its head holds a CR without LF")),
            Some((_, [b'\n', ..])) => Err(Wrong("a line of its head ends in LF without CR")),
            _ => Err(Wrong("its head holds a control byte")),
        })
    }
}

/// Version, status and phrase. Servers that leave the space before an empty phrase out are many.
fn status_line(line: &[u8]) -> Result<(u8, u16, &[u8]), Wrong> {
    let wrong = Wrong("it does not begin with HTTP/1.1 and a status");
    let (version, rest) = match line {
        [
            b'H',
            b'T',
            b'T',
            b'P',
            b'/',
            b'1',
            b'.',
            minor @ b'0'..=b'9',
            b' ',
            rest @ ..,
        ] => (if *minor == b'0' { 10 } else { 11 }, rest),
        _ => return Err(wrong),
    };
    let (code, phrase) = match rest {
        [a, b, c] => ([*a, *b, *c], &b""[..]),
        [a, b, c, b' ', phrase @ ..] => ([*a, *b, *c], phrase),
        _ => return Err(wrong),
    };
    match decimal(&code) {
        Some(status @ 100..=599) => Ok((version, status as u16, phrase)),
        _ => Err(wrong),
    }
}

fn field(line: &[u8]) -> Result<(&[u8], &[u8]), Wrong> {
    if matches!(line, [b' ' | b'\t', ..]) {
        return Err(Wrong("a field of its head is folded over two lines"));
    }
    let colon = memchr::memchr(b':', line).ok_or(Wrong("a line of its head has no colon"))?;
    let name = &line[..colon];
    match is_token(name) {
        true => Ok((name, trim(&line[colon + 1..]))),
        false => Err(Wrong("a name in its head holds what it may not")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(head: &str) -> Result<(u16, Framing, bool), Wrong> {
        let head = parse(head.as_bytes(), false)?;
        Ok((head.status, head.framing, head.keep_alive))
    }

    #[test]
    fn framing_is_what_the_head_says_once() {
        for (head, expected) in [
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
                (200, Framing::Length(5), true),
            ),
            (
                "HTTP/1.1 200\r\ncontent-length:5\r\nContent-Length: 5\r\n\r\n",
                (200, Framing::Length(5), true),
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                (200, Framing::Chunked, true),
            ),
            ("HTTP/1.1 200 OK\r\n\r\n", (200, Framing::UntilClose, false)),
            ("HTTP/1.1 204 No\r\n\r\n", (204, Framing::None, true)),
            (
                "HTTP/1.1 204 No\r\nContent-Length: 5\r\n\r\n",
                (204, Framing::None, false),
            ),
            (
                "HTTP/1.1 304 Not\r\nContent-Length: 5\r\n\r\n",
                (304, Framing::None, true),
            ),
            (
                "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
                (200, Framing::Length(0), false),
            ),
            (
                "HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 0\r\n\r\n",
                (200, Framing::Length(0), true),
            ),
            (
                "HTTP/1.1 200 OK\r\nConnection: x, close\r\nContent-Length: 0\r\n\r\n",
                (200, Framing::Length(0), false),
            ),
        ] {
            assert_eq!(read(head), Ok(expected), "{head}");
        }
        let head = parse(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", true).expect("good");
        assert_eq!((head.framing, head.keep_alive), (Framing::None, true));
    }

    #[test]
    fn what_belongs_to_its_connection_does_not_go_on() {
        let head = b"HTTP/1.1 200 OK\r\nX-Y: 1\r\nConnection: x-y, Content-Length, close\r\nX-Z: 2\r\nContent-Length: 3\r\n\r\n";
        let head = parse(head, false).expect("good");
        assert_eq!((head.framing, head.keep_alive), (Framing::Length(3), false));
        let said = head.said().expect("readable");
        let names: Vec<&[u8]> = said.fields().map(|(name, _)| name).collect();
        assert!(
            !names.iter().any(|name| name.eq_ignore_ascii_case(b"x-y")),
            "{names:?}"
        );
        assert!(
            names.iter().any(|name| name.eq_ignore_ascii_case(b"x-z")),
            "{names:?}"
        );
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_not_read() {
        for head in [
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA b\r\n\r\n",
            "HTTP/1.1 200 OK\r\n: b\r\n\r\n",
            "HTTP/1.1 200 OK\nA: b\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA: b\rc\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA: b\0c\r\n\r\n",
            "HTTP/1.1 2000 OK\r\n\r\n",
            "HTTP/1.1 099 OK\r\n\r\n",
            "HTTP/1.1  200 OK\r\n\r\n",
            "HTTP/2.0 200 OK\r\n\r\n",
            "ICY 200 OK\r\n\r\n",
            "\r\n\r\n",
        ] {
            assert!(read(head).is_err(), "{head:?}");
        }
    }

    #[test]
    fn the_end_is_found_once_and_not_waited_for_without_end() {
        let head = b"HTTP/1.1 200 OK\r\nA: b\r\n\r\nbody\r\n\r\n";
        for at in 0..=25 {
            let found = end(&head[..at], at.saturating_sub(1)).expect("no mistake");
            assert_eq!(found, (at >= 25).then_some(25), "{at}");
        }
        assert!(end(b"HTTP/1.1 200 OK\n\n", 0).is_err());
        assert!(end(&[b'x'; MOST], 0).is_err());
        assert_eq!(end(&[b'x'; MOST - 1], 0), Ok(None));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), head_only in any::<bool>()) {
            let mut head = b"HTTP/1.1 200 ".to_vec();
            head.extend_from_slice(&bytes);
            if let Ok(head) = parse(&head, head_only) {
                prop_assert!(head.said().is_some());
            }
            let _ = parse(&bytes, head_only);
            let _ = end(&bytes, 7);
        }
    }
}
