//! Reading little-endian fields out of a payload that cannot be trusted.

use std::fmt;

/// What was wrong with a frame. The sender misbehaved; the receiver drops the channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WireError {
    /// A field reaches past the end of the payload.
    Truncated,
    /// The frame kind is not one of [`crate::Kind`].
    UnknownKind(u8),
    /// The payload length is over [`crate::MAX_PAYLOAD`]; the value is in bytes.
    TooLong(u32),
    /// A field holds a value that its type does not allow; the text names the field.
    Invalid(&'static str),
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => f.write_str("a field reaches past the end of its frame"),
            Self::UnknownKind(kind) => write!(f, "unknown frame kind {kind}"),
            Self::TooLong(len) => write!(f, "a frame of {len} bytes is over the limit"),
            Self::Invalid(field) => write!(f, "the field {field} holds a value it cannot have"),
        }
    }
}

impl std::error::Error for WireError {}

/// The unread rest of a payload.
#[derive(Clone, Copy)]
pub(crate) struct Cursor<'a>(pub(crate) &'a [u8]);

impl<'a> Cursor<'a> {
    pub(crate) fn bytes(&mut self, len: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(WireError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(WireError::Truncated)?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, WireError> {
        self.array().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, WireError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, WireError> {
        self.array().map(u64::from_le_bytes)
    }

    /// A string with a 16-bit length before it.
    pub(crate) fn short(&mut self) -> Result<&'a [u8], WireError> {
        let len = self.u16()?;
        self.bytes(len.into())
    }
}

/// Appends a string with a 16-bit length before it. The caller's limits keep it under 64 KiB; what
/// would not fit is cut, so that a frame stays readable whatever was put in.
pub(crate) fn put_short(out: &mut Vec<u8>, text: &[u8]) {
    let text = &text[..text.len().min(usize::from(u16::MAX))];
    out.extend_from_slice(&(text.len() as u16).to_le_bytes());
    out.extend_from_slice(text);
}
