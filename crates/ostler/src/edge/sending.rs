//! A response body on its way out, in the framing that the client was told: what may still come and
//! what its end means for the connection. Knows no worker and no socket.

use std::io::Write as _;

use super::h1::response::{self, BodyFraming, Encoded};
use super::reason::Reason;
use ostler_wire::ResponseHead;

/// What becomes of a connection after an exchange; of two, the later one in this list stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum After {
    /// The next request may come.
    KeepAlive,
    /// The answer says `Connection: close`, or the framing is lost.
    Close,
    /// The response could not be finished: the client must not take it for whole.
    Abort,
    /// The connection has become a tunnel, and the tunnel is over.
    Gone,
}

/// The body of one response.
#[derive(Debug)]
pub struct Sending {
    framing: BodyFraming,
    /// Bytes of a body with a length that are still to come.
    left: u64,
    close: bool,
    /// The last chunk was written.
    ended: bool,
}

impl Sending {
    pub fn new(encoded: &Encoded) -> Self {
        Self {
            framing: encoded.framing,
            left: match encoded.framing {
                BodyFraming::Length(length) => length,
                BodyFraming::None
                | BodyFraming::Chunked
                | BodyFraming::UntilClose
                | BodyFraming::UntilEnd => 0,
            },
            close: encoded.close,
            ended: false,
        }
    }

    /// The client gets no body: HEAD, 204, 304.
    pub fn is_bodiless(&self) -> bool {
        self.framing == BodyFraming::None
    }

    /// Appends body bytes in the client's framing; gives how many of them the client gets.
    pub fn append(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> usize {
        match self.framing {
            BodyFraming::None => 0,
            BodyFraming::UntilClose | BodyFraming::UntilEnd => {
                out.extend_from_slice(bytes);
                bytes.len()
            }
            BodyFraming::Length(_) => {
                let room = usize::try_from(self.left).unwrap_or(usize::MAX);
                let take = bytes.len().min(room);
                if take < bytes.len() {
                    tracing::warn!(
                        extra = bytes.len() - take,
                        "the app sent more than its Content-Length; the rest is dropped"
                    );
                }
                out.extend_from_slice(&bytes[..take]);
                self.left -= take as u64;
                take
            }
            BodyFraming::Chunked if bytes.is_empty() => 0,
            BodyFraming::Chunked => {
                let _ = write!(out, "{:x}\r\n", bytes.len());
                out.extend_from_slice(bytes);
                out.extend_from_slice(b"\r\n");
                bytes.len()
            }
        }
    }

    /// Ends a chunked body with trailers; for a stream they are lines at the end of `out`. Any other
    /// framing has no place for them (RFC 9112 section 7.1.2), and they are dropped.
    pub fn trailers(&mut self, trailers: &ResponseHead<'_>, out: &mut Vec<u8>) {
        if self.framing == BodyFraming::UntilEnd {
            response::encode_trailers(trailers, out);
        }
        if self.framing == BodyFraming::Chunked {
            out.extend_from_slice(b"0\r\n");
            response::encode_trailers(trailers, out);
            out.extend_from_slice(b"\r\n");
            self.ended = true;
        }
    }

    /// Ends the body.
    ///
    /// # Errors
    /// Bytes are missing: the client must not take the body for whole.
    pub fn end(&mut self, out: &mut Vec<u8>) -> Result<After, Reason> {
        if self.framing == BodyFraming::Chunked && !self.ended {
            out.extend_from_slice(b"0\r\n\r\n");
            self.ended = true;
        }
        if self.left > 0 {
            tracing::error!(
                missing = self.left,
                "the app sent less than its Content-Length; the connection is closed uncleanly"
            );
            return Err(Reason::ResponseShort);
        }
        let close = self.close || self.framing == BodyFraming::UntilClose;
        Ok(if close {
            After::Close
        } else {
            After::KeepAlive
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::h1::response::Private;
    use ostler_wire::{Kind, ResponseEncoder, frame};

    fn sending(framing: BodyFraming) -> Sending {
        Sending::new(&Encoded {
            framing,
            close: false,
            private: Private::default(),
        })
    }

    fn check(framing: BodyFraming, pieces: &[&str], wire: &str, end: Result<After, Reason>) {
        let (mut sending, mut out) = (sending(framing), Vec::new());
        for piece in pieces {
            sending.append(piece.as_bytes(), &mut out);
        }
        assert_eq!(sending.end(&mut out), end, "{framing:?} {pieces:?}");
        assert_eq!(String::from_utf8_lossy(&out), wire, "{framing:?}");
    }

    #[test]
    fn each_framing_has_its_form_and_its_end() {
        use BodyFraming::{Chunked, Length, None, UntilClose};
        let pieces = &["hello", "", " world"][..];
        let chunked = "5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n";
        check(Chunked, pieces, chunked, Ok(After::KeepAlive));
        check(Length(11), pieces, "hello world", Ok(After::KeepAlive));
        check(Length(7), pieces, "hello w", Ok(After::KeepAlive));
        check(
            Length(12),
            pieces,
            "hello world",
            Err(Reason::ResponseShort),
        );
        check(UntilClose, pieces, "hello world", Ok(After::Close));
        check(None, pieces, "", Ok(After::KeepAlive));
    }

    #[test]
    fn trailers_are_for_chunked_bodies_only() {
        let mut wire = Vec::new();
        let mut encoder = ResponseEncoder::new(&mut wire, Kind::RespTrailers, 0, 0, 0, b"");
        encoder.field(b"X-Sum", b"1");
        encoder.field(b"Content-Length", b"1");
        encoder.finish(0);
        let (_, payload, _) = frame(&wire).expect("a frame").expect("whole");
        let trailers = ResponseHead::decode(payload).expect("trailers");
        for (framing, expected) in [
            (BodyFraming::Chunked, "0\r\nX-Sum: 1\r\n\r\n"),
            (BodyFraming::UntilClose, ""),
            (BodyFraming::Length(0), ""),
            (BodyFraming::None, ""),
        ] {
            let (mut sending, mut out) = (sending(framing), Vec::new());
            sending.trailers(&trailers, &mut out);
            let end = sending.end(&mut out).expect("whole");
            assert_eq!(String::from_utf8_lossy(&out), expected);
            let closes = framing == BodyFraming::UntilClose;
            assert_eq!(end == After::Close, closes, "{framing:?}");
        }
    }
}
