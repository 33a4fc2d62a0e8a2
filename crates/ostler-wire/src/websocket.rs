//! Payloads of `WsMessage` and `WsClose`. The edge speaks RFC 6455 to the client; a worker sees
//! whole messages only, in as many frames as their length needs.

use crate::cursor::Cursor;
use crate::{END, Kind, WireError, begin, finish};

/// Bytes of a message that travel in one frame; well under [`crate::MAX_PAYLOAD`].
const PIECE: usize = 256 * 1024;

/// The first byte of a `WsMessage` payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    Text = 1,
    Binary = 2,
}

impl Opcode {
    /// Splits a `WsMessage` payload into its type and the message.
    pub fn decode(payload: &[u8]) -> Result<(Self, &[u8]), WireError> {
        match payload.split_first() {
            Some((1, message)) => Ok((Self::Text, message)),
            Some((2, message)) => Ok((Self::Binary, message)),
            Some(_) => Err(WireError::Invalid("opcode")),
            None => Err(WireError::Truncated),
        }
    }

    /// Appends a whole message as `WsMessage` frames; the last one has `END`.
    pub fn encode(self, out: &mut Vec<u8>, stream: u32, message: &[u8]) {
        let mut rest = message;
        loop {
            let (piece, after) = rest.split_at(rest.len().min(PIECE));
            let start = begin(
                out,
                Kind::WsMessage,
                if after.is_empty() { END } else { 0 },
                stream,
            );
            out.push(self as u8);
            out.extend_from_slice(piece);
            finish(out, start, 0);
            rest = after;
            if rest.is_empty() {
                return;
            }
        }
    }
}

/// The payload of `WsClose`: a status code (RFC 6455 section 7.4) and a UTF-8 reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CloseFrame<'a> {
    pub code: u16,
    pub reason: &'a [u8],
}

impl<'a> CloseFrame<'a> {
    pub fn decode(payload: &'a [u8]) -> Result<Self, WireError> {
        let mut rest = Cursor(payload);
        Ok(Self {
            code: rest.u16()?,
            reason: rest.0,
        })
    }

    /// Appends a whole `WsClose` frame.
    pub fn encode(self, out: &mut Vec<u8>, stream: u32) {
        let start = begin(out, Kind::WsClose, 0, stream);
        out.extend_from_slice(&self.code.to_le_bytes());
        out.extend_from_slice(self.reason);
        finish(out, start, 0);
    }
}
