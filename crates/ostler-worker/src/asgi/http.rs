//! The HTTP conversation of one stream: which message may come when, and the frames it becomes.
//!
//! Pure but for the Python bytes that pass through. A response's head waits for its first body
//! message, so that a response that is not streamed is one frame.

use std::fs::File;
use std::io::{self, Read};
use std::mem;

use ostler_wire::{END, FileHead, HEAD_LEN, Kind, ResponseEncoder, begin, finish};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::event::Event;
use super::message::{Fields, Message};
use super::outflow::{Consumed, Form, Outflow};
use super::socket::Outbox;

/// Body bytes that travel inside `RespHead`; they need no credit.
const INLINE: usize = 64 * 1024;

/// Bytes of a spooled request body given to the app at once.
const FILE_PIECE: usize = 64 * 1024;

/// A message came that the conversation does not allow now; the text is for the app's author.
pub struct Misplaced(pub String);

/// What the app still owes.
enum Expect {
    Start,
    /// The head is there, as a frame without body; it leaves with the first body message.
    FirstBody {
        head: Vec<u8>,
        trailers: bool,
    },
    Body {
        trailers: bool,
    },
    Trailers(Fields),
    Nothing,
}

/// A response in the making.
pub struct Response {
    expect: Expect,
    /// It denies a WebSocket handshake, with messages that have names of their own.
    denial: bool,
}

impl Response {
    pub fn new() -> Self {
        Self {
            expect: Expect::Start,
            denial: false,
        }
    }

    /// The answer to a WebSocket handshake that the app does not accept.
    pub fn denial() -> Self {
        Self {
            denial: true,
            ..Self::new()
        }
    }

    pub fn is_complete(&self) -> bool {
        matches!(self.expect, Expect::Nothing)
    }

    /// No message of the response has come.
    pub fn is_untouched(&self) -> bool {
        matches!(self.expect, Expect::Start)
    }

    /// Takes the app's next message.
    pub fn send(
        &mut self,
        py: Python<'_>,
        message: Message,
        id: u32,
        flow: &mut Outflow,
        out: &mut Outbox,
    ) -> Result<(), Misplaced> {
        let name = message.name();
        if message.is_denial() != self.denial {
            return Err(Misplaced(misplaced(&self.expect, name)));
        }
        let expect = mem::replace(&mut self.expect, Expect::Nothing);
        self.expect = match (expect, message) {
            (Expect::Start, Message::Start { head, trailers, .. }) => {
                Expect::FirstBody { head, trailers }
            }
            (before @ (Expect::Start | Expect::FirstBody { .. }), Message::EarlyHint(frame)) => {
                out.bytes().extend_from_slice(&frame);
                before
            }
            (Expect::FirstBody { head, trailers }, Message::Body { body, more, .. }) => {
                let end = !more && !trailers;
                first_body(py, &head, &body, end, id, flow, out);
                after_body(more, trailers)
            }
            (Expect::Body { trailers }, Message::Body { body, more, .. }) => {
                let end = !more && !trailers;
                if end || !body.as_bytes(py).is_empty() {
                    flow.bytes(py, &body, 0, Form::Body { end }, id, out.bytes());
                }
                after_body(more, trailers)
            }
            (Expect::FirstBody { head, trailers }, Message::File(file)) => {
                out.bytes().extend_from_slice(&head);
                out.attach(file);
                let whole = FileHead {
                    offset: 0,
                    len: u64::MAX,
                };
                whole.encode(out.bytes(), if trailers { 0 } else { END }, id);
                after_body(false, trailers)
            }
            (Expect::Trailers(mut all), Message::Trailers { fields, more }) => {
                all.extend(fields);
                match more {
                    true => Expect::Trailers(all),
                    false => {
                        flow.frame(out.bytes(), |out| encode_trailers(&all, id, out));
                        Expect::Nothing
                    }
                }
            }
            (expect, _) => {
                let text = misplaced(&expect, name);
                self.expect = expect;
                return Err(Misplaced(text));
            }
        };
        Ok(())
    }

    /// The app is done, one way or the other: completes what it left open. An app that answered
    /// nothing, or not enough to be sent, is answered for with 500.
    pub fn abandon(&mut self, id: u32, flow: &mut Outflow, out: &mut Outbox) {
        match mem::replace(&mut self.expect, Expect::Nothing) {
            Expect::Start | Expect::FirstBody { .. } => {
                let mut encoder =
                    ResponseEncoder::new(out.bytes(), Kind::RespHead, END, id, 500, b"");
                encoder.field(b"x-ostler-error", b"app");
                encoder.finish(0);
            }
            Expect::Body { .. } | Expect::Trailers(_) => {
                flow.clear();
                abort(b"the app did not finish its response", id, out);
            }
            Expect::Nothing => {}
        }
    }

    /// Nobody waits for the response any more; tells the server that the stream is over.
    pub fn cancel(&mut self, id: u32, out: &mut Outbox) {
        if !self.is_complete() {
            self.expect = Expect::Nothing;
            abort(b"", id, out);
        }
    }
}

/// `why` is for the server; empty when the client left.
fn abort(why: &[u8], id: u32, out: &mut Outbox) {
    let start = begin(out.bytes(), Kind::RespAbort, END, id);
    out.bytes().extend_from_slice(why);
    finish(out.bytes(), start, 0);
}

fn after_body(more: bool, trailers: bool) -> Expect {
    match (more, trailers) {
        (true, trailers) => Expect::Body { trailers },
        (false, true) => Expect::Trailers(Fields::new()),
        (false, false) => Expect::Nothing,
    }
}

/// Sends the head with as much of the body as fits into its frame, and the rest behind it.
fn first_body(
    py: Python<'_>,
    head: &[u8],
    body: &Py<PyBytes>,
    end: bool,
    id: u32,
    flow: &mut Outflow,
    out: &mut Outbox,
) {
    let bytes = body.as_bytes(py);
    let inline = bytes.len().min(INLINE);
    let is_whole = inline == bytes.len();
    let out = out.bytes();
    let flags = if end && is_whole { END } else { 0 };
    let start = begin(out, Kind::RespHead, flags, id);
    out.extend_from_slice(&head[HEAD_LEN..]);
    out.extend_from_slice(&bytes[..inline]);
    finish(out, start, 0);
    if !is_whole {
        flow.bytes(py, body, inline, Form::Body { end }, id, out);
    }
}

fn encode_trailers(fields: &Fields, id: u32, out: &mut Vec<u8>) {
    let mut encoder = ResponseEncoder::new(out, Kind::RespTrailers, END, id, 0, b"");
    for (name, value) in fields {
        encoder.field(name, value);
    }
    encoder.finish(0);
}

/// The texts are uvicorn's, which people have searched for before.
fn misplaced(expect: &Expect, name: &str) -> String {
    let wanted = match expect {
        Expect::Start => "http.response.start",
        Expect::FirstBody { .. } | Expect::Body { .. } => "http.response.body",
        Expect::Trailers(_) => "http.response.trailers",
        Expect::Nothing => {
            return format!(
                "Unexpected ASGI message {name:?} sent, after response already completed."
            );
        }
    };
    format!("Expected ASGI message {wanted:?}, but got {name:?}.")
}

/// The request body on its way to the app.
pub enum Body {
    /// The whole body, not taken yet.
    Whole(Vec<u8>),
    /// A spooled file, with this many bytes still to read.
    File(File, u64),
    /// It arrives in pieces.
    Stream(Arriving),
    /// The app has all of it.
    Taken,
}

/// A streamed request body.
#[derive(Default)]
pub struct Arriving {
    buffer: Vec<u8>,
    ended: bool,
    consumed: Consumed,
}

impl Body {
    /// A piece of a streamed body came.
    pub fn push(&mut self, piece: &[u8], end: bool) {
        if let Self::Stream(arriving) = self {
            arriving.buffer.extend_from_slice(piece);
            arriving.ended |= end;
        }
    }

    /// The body can only be completed by frames that have not come yet.
    pub fn is_open(&self) -> bool {
        matches!(self, Self::Stream(arriving) if !arriving.ended)
    }

    /// The next `http.request` event and the credit to give back for it; `None` when the app must
    /// wait, be it for a piece or, after the last one, for the disconnect.
    pub fn next(&mut self) -> io::Result<Option<(Event, u32)>> {
        let (body, more, credit) = match self {
            Self::Whole(body) => (mem::take(body), false, 0),
            Self::File(file, left) => {
                let piece = read_piece(file, left)?;
                (piece, *left > 0, 0)
            }
            Self::Stream(arriving) if arriving.buffer.is_empty() && !arriving.ended => {
                return Ok(None);
            }
            Self::Stream(arriving) => {
                let body = mem::take(&mut arriving.buffer);
                let more = !arriving.ended;
                let credit = if more {
                    arriving.consumed.add(body.len())
                } else {
                    0
                };
                (body, more, credit)
            }
            Self::Taken => return Ok(None),
        };
        if !more {
            *self = Self::Taken;
        }
        Ok(Some((Event::Request { body, more }, credit)))
    }
}

/// Reads the next piece of a spooled body. It lies in the page cache nearly always: the server has
/// just written it.
fn read_piece(file: &mut File, left: &mut u64) -> io::Result<Vec<u8>> {
    let want = (*left).min(FILE_PIECE as u64);
    let mut piece = Vec::with_capacity(want as usize);
    let got = file.take(want).read_to_end(&mut piece)?;
    *left -= got as u64;
    if got == 0 && want > 0 {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the spooled request body is shorter than it should be",
        ));
    }
    Ok(piece)
}
