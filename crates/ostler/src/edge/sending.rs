//! A response body on its way out, in the coding and the framing that the client was told: what may still
//! come and what its end means for the connection. Knows no worker and no upstream.

use std::io::Write as _;

use super::compress::Encoder;
use super::connection::Connection;
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
    /// Bytes that are still to come of a body whose length the app has said.
    left: Option<u64>,
    /// Codes the body on its way.
    encoder: Option<Encoder>,
    /// The encoder has failed: what was sent ends here.
    failed: bool,
    close: bool,
    /// The last chunk was written.
    ended: bool,
}

impl Sending {
    pub fn new(encoded: &Encoded, encoder: Option<Encoder>) -> Self {
        Self {
            framing: encoded.framing,
            left: match encoded.framing {
                BodyFraming::None => None,
                BodyFraming::Length(length) => Some(length),
                BodyFraming::Chunked | BodyFraming::UntilClose | BodyFraming::UntilEnd => {
                    encoded.promised
                }
            },
            encoder,
            failed: false,
            close: encoded.close,
            ended: false,
        }
    }

    /// The client gets no body: HEAD, 204, 304.
    pub fn is_bodiless(&self) -> bool {
        self.framing == BodyFraming::None
    }

    /// Bytes take time here.
    pub fn is_coded(&self) -> bool {
        self.encoder.is_some()
    }

    /// Some of what was appended would wait here for what follows.
    pub fn holds(&self) -> bool {
        self.encoder.as_ref().is_some_and(Encoder::holds)
    }

    /// Appends body bytes in the client's coding and framing; gives how many the client gets of it.
    pub fn append(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> usize {
        let bytes = self.within_length(bytes);
        self.coded(out, |encoder| match encoder {
            Some(encoder) => encoder.write(bytes).ok(),
            None => Some(bytes),
        })
    }

    /// Appends what waits here.
    pub fn flush(&mut self, out: &mut Vec<u8>) -> usize {
        self.coded(out, |encoder| match encoder {
            Some(encoder) => encoder.flush().ok(),
            None => Some(b""),
        })
    }

    /// Appends the last bytes of the body: nothing is appended after it. To be called before [`Sending::trailers`].
    pub fn finish(&mut self, out: &mut Vec<u8>) -> usize {
        // What is short has no good end.
        if self.left.is_some_and(|left| left > 0) {
            return 0;
        }
        let last = self.coded(out, |encoder| match encoder {
            Some(encoder) => encoder.finish().ok(),
            None => Some(b""),
        });
        self.encoder = None;
        last
    }

    /// Frames what `work` gives, which is nothing when the encoder fails.
    fn coded<'b>(
        &'b mut self,
        out: &mut Vec<u8>,
        work: impl FnOnce(Option<&'b mut Encoder>) -> Option<&'b [u8]>,
    ) -> usize {
        if self.failed {
            return 0;
        }
        match work(self.encoder.as_mut()) {
            Some(bytes) => frame(self.framing, bytes, out),
            None => {
                self.failed = true;
                0
            }
        }
    }

    /// What of `bytes` the app's own length has room for.
    fn within_length<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let Some(left) = &mut self.left else {
            return bytes;
        };
        let room = usize::try_from(*left).unwrap_or(usize::MAX);
        let take = bytes.len().min(room);
        if take < bytes.len() {
            tracing::warn!(
                extra = bytes.len() - take,
                "the app sent more than its Content-Length; the rest is dropped"
            );
        }
        *left -= take as u64;
        &bytes[..take]
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
        self.finish(out);
        if self.failed {
            return Err(Reason::Internal);
        }
        if let Some(missing @ 1..) = self.left {
            tracing::error!(
                missing,
                "the app sent less than its Content-Length; the connection is closed uncleanly"
            );
            return Err(Reason::ResponseShort);
        }
        if self.framing == BodyFraming::Chunked && !self.ended {
            out.extend_from_slice(b"0\r\n\r\n");
            self.ended = true;
        }
        let close = self.close || self.framing == BodyFraming::UntilClose;
        Ok(if close {
            After::Close
        } else {
            After::KeepAlive
        })
    }
}

impl Connection {
    /// Whether more of an answer may be read: what the client has not taken is kept in memory, and in a file when the
    /// answer may wait there.
    pub fn may_take_more(&mut self, unbuffered: bool) -> bool {
        match self.out.has_room() {
            true => !unbuffered || self.out.note_held(),
            false => !unbuffered && self.edge.spool.has_room() && !self.out.should_wait(),
        }
    }

    /// Nothing more of an answer is there now: what was said already must not wait in an encoder for what is said next.
    /// While there is more, the encoder has it together, which makes less of it. True when there is more to send.
    pub fn flush_coded(&mut self, sending: Option<&mut Sending>) -> bool {
        let Some(sending) = sending.filter(|sending| sending.holds() && self.out.has_room()) else {
            return false;
        };
        self.row.sent += sending.flush(self.out.bytes()) as u64;
        true
    }
}

/// Appends bytes in a framing; gives how many of them the client gets.
fn frame(framing: BodyFraming, bytes: &[u8], out: &mut Vec<u8>) -> usize {
    match framing {
        BodyFraming::None => return 0,
        BodyFraming::Length(_) | BodyFraming::UntilClose | BodyFraming::UntilEnd => {
            out.extend_from_slice(bytes);
        }
        BodyFraming::Chunked if bytes.is_empty() => {}
        BodyFraming::Chunked => {
            let _ = write!(out, "{:x}\r\n", bytes.len());
            out.extend_from_slice(bytes);
            out.extend_from_slice(b"\r\n");
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::h1::response::Private;
    use ostler_wire::{Kind, ResponseEncoder, frame};

    fn sending(framing: BodyFraming) -> Sending {
        Sending::new(
            &Encoded {
                framing,
                promised: None,
                close: false,
                private: Private::default(),
            },
            None,
        )
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
