//! What one stream sends, held to the byte credit that the server gave it; and the count of what
//! it gives back.
//!
//! Pure but for the Python bytes it keeps alive: it writes frames into a buffer and never blocks.

use std::collections::VecDeque;
use std::mem;

use ostler_wire::{END, HEAD_LEN, Kind, Opcode, begin, finish};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// Payload bytes that each direction of a stream may send before the first `Credit` comes. The
/// server counts with the same number.
pub const CREDIT: u32 = 256 * 1024;

/// Payload bytes of one body or message frame. Small enough that the frames of several streams
/// interleave, large enough that the 12-byte head does not matter.
const PIECE: usize = 64 * 1024;

/// Consumed bytes after which the sender is told. A quarter of the credit: rare enough to cost
/// nothing, early enough that a sender hardly ever stops while the app keeps up.
const CREDIT_STEP: u32 = CREDIT / 4;

/// Bytes that were consumed and that the sender has not been told of.
#[derive(Default)]
pub struct Consumed(u32);

impl Consumed {
    /// Adds `bytes`; gives the credit to return now, mostly none.
    pub fn add(&mut self, bytes: usize) -> u32 {
        self.0 = self.0.saturating_add(bytes as u32);
        match self.0 {
            enough if enough >= CREDIT_STEP => mem::take(&mut self.0),
            _ => 0,
        }
    }
}

/// Frames that wait for credit, in order.
pub struct Outflow {
    credit: u64,
    waiting: VecDeque<Waiting>,
}

enum Waiting {
    /// The rest of a body or message from `at` on.
    Bytes {
        bytes: Py<PyBytes>,
        at: usize,
        form: Form,
    },
    /// A whole frame that needs no credit but must not overtake what is before it.
    Frame(Vec<u8>),
}

/// How bytes are put into frames.
#[derive(Clone, Copy)]
pub enum Form {
    /// `RespBody`; `end` is set on the last frame.
    Body { end: bool },
    /// `WsMessage`; `END` closes the message.
    Message(Opcode),
}

impl Outflow {
    pub fn new() -> Self {
        Self {
            credit: CREDIT.into(),
            waiting: VecDeque::new(),
        }
    }

    /// Everything handed over is in the channel's buffer.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Forgets what waits, because the receiver is gone.
    pub fn clear(&mut self) {
        self.waiting.clear();
    }

    pub fn add_credit(&mut self, bytes: u32) {
        self.credit = self.credit.saturating_add(bytes.into());
    }

    /// Sends `bytes` from `at` on, now as far as the credit reaches.
    pub fn bytes(
        &mut self,
        py: Python<'_>,
        bytes: &Py<PyBytes>,
        mut at: usize,
        form: Form,
        id: u32,
        out: &mut Vec<u8>,
    ) {
        if self.waiting.is_empty()
            && put(bytes.as_bytes(py), &mut at, form, &mut self.credit, id, out)
        {
            return;
        }
        let bytes = bytes.clone_ref(py);
        self.waiting.push_back(Waiting::Bytes { bytes, at, form });
    }

    /// Sends a whole frame, written by `frame`, behind everything that waits.
    pub fn frame(&mut self, out: &mut Vec<u8>, frame: impl FnOnce(&mut Vec<u8>)) {
        if self.waiting.is_empty() {
            return frame(out);
        }
        let mut later = Vec::new();
        frame(&mut later);
        self.waiting.push_back(Waiting::Frame(later));
    }

    /// Sends what waits as far as the credit reaches now.
    pub fn resume(&mut self, py: Python<'_>, id: u32, out: &mut Vec<u8>) {
        while let Some(first) = self.waiting.front_mut() {
            match first {
                Waiting::Bytes { bytes, at, form } => {
                    if !put(bytes.as_bytes(py), at, *form, &mut self.credit, id, out) {
                        return;
                    }
                }
                Waiting::Frame(frame) => out.extend_from_slice(frame),
            }
            self.waiting.pop_front();
        }
    }
}

/// Writes frames while bytes and credit last; true when everything is written.
fn put(
    bytes: &[u8],
    at: &mut usize,
    form: Form,
    credit: &mut u64,
    id: u32,
    out: &mut Vec<u8>,
) -> bool {
    // A message frame carries its opcode, which the receiver counts too.
    let extra = match form {
        Form::Body { .. } => 0,
        Form::Message(_) => 1,
    };
    loop {
        let left = bytes.len() - *at;
        let room = credit.saturating_sub(extra).min(PIECE as u64) as usize;
        let piece = left.min(room);
        let is_last = piece == left;
        // Without credit only an empty last frame can go, which is the end of a body.
        if (piece == 0 && !is_last) || *credit < extra {
            return false;
        }
        write(&bytes[*at..*at + piece], is_last, form, id, out);
        *credit -= piece as u64 + extra;
        *at += piece;
        if is_last {
            return true;
        }
    }
}

fn write(piece: &[u8], is_last: bool, form: Form, id: u32, out: &mut Vec<u8>) {
    let (kind, end) = match form {
        Form::Body { end } => (Kind::RespBody, end && is_last),
        Form::Message(_) => (Kind::WsMessage, is_last),
    };
    out.reserve(HEAD_LEN + 1 + piece.len());
    let start = begin(out, kind, if end { END } else { 0 }, id);
    if let Form::Message(opcode) = form {
        out.push(opcode as u8);
    }
    out.extend_from_slice(piece);
    finish(out, start, 0);
}
