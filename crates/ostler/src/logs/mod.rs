//! What ostler writes down: one row per request, and its own lines.
//!
//! Rows and lines leave through a [`Sink`]: bounded, drops counted, never blocking who writes. Nothing in this
//! folder knows a connection, a worker or the configuration's names.

mod access;
mod clock;
mod decimal;
mod error;
mod escape;
mod format;
mod json;
mod output;
#[cfg(test)]
pub mod scratch;
mod sink;

use std::fmt;

pub use self::access::{AccessLog, AccessWriter, Row, base64};
pub use self::clock::local_offset;
pub use self::error::{Level, error_sink, start, wants_colours};
pub use self::format::Format;
pub use self::output::{Target, prepare};
pub use self::sink::Sink;

/// A request's number as people see it: 16 hexadecimal digits, the same in answers and in every log.
pub fn request_id(id: u64) -> RequestId {
    let mut text = [0u8; 16];
    for (index, digit) in text.iter_mut().enumerate() {
        let nibble = (id >> (60 - 4 * index)) & 15;
        *digit = b"0123456789abcdef"[usize::try_from(nibble).expect("four bits fit")];
    }
    RequestId(text)
}

/// The text of a request's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestId([u8; 16]);

impl RequestId {
    /// The digits.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("hexadecimal digits are ASCII")
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_id_has_sixteen_digits() {
        assert_eq!(request_id(0).as_str(), "0000000000000000");
        assert_eq!(
            request_id(0x0123_4567_89ab_cdef).as_str(),
            "0123456789abcdef"
        );
        assert_eq!(request_id(u64::MAX).to_string(), "ffffffffffffffff");
    }
}
