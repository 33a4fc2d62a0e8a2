//! `RespHead` and `RespFile`: what an app answered, not yet trusted.

use crate::cursor::{Cursor, put_short};
use crate::{Kind, WireError, begin, finish};

/// Status and headers of a response. The layout is checked here; whether the status, names and
/// values may go to a client is for the edge to decide.
#[derive(Debug, Clone, Copy)]
pub struct ResponseHead<'a> {
    pub status: u16,
    /// The app's reason phrase; empty when it gave none.
    pub reason: &'a [u8],
    pub field_count: u16,
    fields: &'a [u8],
    /// The body's start, or all of it when the frame has `END`.
    pub inline: &'a [u8],
}

impl<'a> ResponseHead<'a> {
    /// Decodes the payload of `RespHead`, `RespInfo`, `RespTrailers` (status 0) or `WsAccept`.
    pub fn decode(payload: &'a [u8]) -> Result<Self, WireError> {
        let mut rest = Cursor(payload);
        let status = rest.u16()?;
        let reason = rest.short()?;
        let field_count = rest.u16()?;
        let fields = rest.0;
        for _ in 0..field_count {
            rest.short()?;
            rest.short()?;
        }
        let fields = &fields[..fields.len() - rest.0.len()];
        Ok(Self {
            status,
            reason,
            field_count,
            fields,
            inline: rest.0,
        })
    }

    /// Names (in the app's case) and values, in the app's order.
    pub fn fields(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let mut rest = Cursor(self.fields);
        std::iter::from_fn(move || Some((rest.short().ok()?, rest.short().ok()?)))
    }
}

/// Writes a `RespHead` (or `RespInfo`, `RespTrailers`, `WsAccept`) frame: [`ResponseEncoder::new`],
/// [`ResponseEncoder::field`] for each header, [`ResponseEncoder::finish`].
pub struct ResponseEncoder<'b> {
    out: &'b mut Vec<u8>,
    start: usize,
    count_at: usize,
    count: u16,
}

impl<'b> ResponseEncoder<'b> {
    pub fn new(
        out: &'b mut Vec<u8>,
        kind: Kind,
        flags: u8,
        stream: u32,
        status: u16,
        reason: &[u8],
    ) -> Self {
        let start = begin(out, kind, flags, stream);
        out.extend_from_slice(&status.to_le_bytes());
        put_short(out, reason);
        let count_at = out.len();
        out.extend_from_slice(&[0, 0]);
        Self {
            out,
            start,
            count_at,
            count: 0,
        }
    }

    pub fn field(&mut self, name: &[u8], value: &[u8]) {
        put_short(self.out, name);
        put_short(self.out, value);
        self.count += 1;
    }

    /// Ends the frame. `body_len` bytes of body are part of its payload and sent by the caller right
    /// behind `out`, without a copy.
    pub fn finish(self, body_len: usize) {
        self.out[self.count_at..self.count_at + 2].copy_from_slice(&self.count.to_le_bytes());
        finish(self.out, self.start, body_len);
    }
}

/// The payload of `RespFile`: which bytes of the attached regular file are the body's next part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileHead {
    /// Bytes from the file's start.
    pub offset: u64,
    /// Bytes to send; `u64::MAX` means to the end of the file.
    pub len: u64,
}

impl FileHead {
    pub fn decode(payload: &[u8]) -> Result<Self, WireError> {
        let mut rest = Cursor(payload);
        Ok(Self {
            offset: rest.u64()?,
            len: rest.u64()?,
        })
    }

    /// Appends the whole frame; its descriptor is sent with its first byte.
    pub fn encode(self, out: &mut Vec<u8>, flags: u8, stream: u32) {
        let start = begin(out, Kind::RespFile, flags | crate::FD, stream);
        out.extend_from_slice(&self.offset.to_le_bytes());
        out.extend_from_slice(&self.len.to_le_bytes());
        finish(out, start, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{END, frame};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(
            status in any::<u16>(),
            reason in "[ -~]{0,40}",
            fields in proptest::collection::vec(("[A-Za-z-]{1,20}", "[ -~]{0,60}"), 0..20),
            body in proptest::collection::vec(any::<u8>(), 0..2000),
        ) {
            let mut out = Vec::new();
            let mut encoder = ResponseEncoder::new(&mut out, Kind::RespHead, END, 3, status, reason.as_bytes());
            for (name, value) in &fields {
                encoder.field(name.as_bytes(), value.as_bytes());
            }
            encoder.finish(body.len());
            out.extend_from_slice(&body);
            let (head, payload, _) = frame(&out).expect("a good frame").expect("a whole frame");
            prop_assert!(head.is_end() && !head.has_fd());
            let got = ResponseHead::decode(payload).expect("a good head");
            prop_assert_eq!((got.status, got.reason, got.inline), (status, reason.as_bytes(), &body[..]));
            prop_assert_eq!(got.fields().count(), fields.len());
        }

        #[test]
        fn no_bytes_make_the_decoders_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            if let Ok(head) = ResponseHead::decode(&bytes) {
                prop_assert_eq!(head.fields().count(), usize::from(head.field_count));
            }
            let _ = FileHead::decode(&bytes);
        }
    }

    #[test]
    fn a_file_frame_carries_offset_and_length() {
        let mut out = Vec::new();
        let sent = FileHead {
            offset: 5,
            len: u64::MAX,
        };
        sent.encode(&mut out, END, 0);
        let (head, payload, _) = frame(&out).expect("a good frame").expect("a whole frame");
        assert!(head.has_fd() && head.is_end());
        assert_eq!(FileHead::decode(payload), Ok(sent));
    }
}
