//! Which streams a client has opened of late, and which of them it has ended itself.
//!
//! What it sends on one that it has ended is its fault alone, whatever we have done meanwhile: `STREAM_CLOSED`
//! (RFC 9113 section 5.1), where `h2` says PROTOCOL_ERROR. Streams are numbered upwards, so two bits for each of
//! the latest are all there is to keep; of older ones `h2` decides.

/// The latest streams of a client.
#[derive(Debug, Default)]
pub struct Opened {
    /// The number behind the highest that was opened, counting its odd identifiers from 0.
    next: u32,
    /// The lowest bit is the highest stream's.
    opened: u128,
    ended: u128,
}

/// What HEADERS are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    /// Those of a request, or of a stream that is not known here.
    Request,
    /// Behind a body.
    Trailers,
    /// Behind the client's own end of the stream.
    Late,
}

impl Opened {
    /// HEADERS came; `ends` when the client sends nothing behind them.
    pub fn head(&mut self, stream: u32, ends: bool) -> Head {
        if stream.is_multiple_of(2) {
            return Head::Request;
        }
        let number = stream / 2;
        let head = match number.checked_sub(self.next) {
            Some(passed) => {
                self.opened = self.opened.checked_shl(passed + 1).unwrap_or(0) | 1;
                self.ended = self.ended.checked_shl(passed + 1).unwrap_or(0);
                self.next = number + 1;
                Head::Request
            }
            None if self.opened & self.bit(stream) == 0 => Head::Request,
            None if self.has_ended(stream) => Head::Late,
            None => Head::Trailers,
        };
        if ends {
            self.end(stream);
        }
        head
    }

    /// The client ends a stream.
    pub fn end(&mut self, stream: u32) {
        self.ended |= self.bit(stream) & self.opened;
    }

    /// The client has ended it.
    pub fn has_ended(&self, stream: u32) -> bool {
        self.ended & self.bit(stream) != 0
    }

    /// That of a stream; none when it is too old, too new, or not a client's.
    fn bit(&self, stream: u32) -> u128 {
        let age = self.next.checked_sub(stream / 2 + 1);
        match age {
            Some(age) if stream % 2 == 1 => 1u128.checked_shl(age).unwrap_or(0),
            Some(_) | None => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_a_request_then_trailers_then_over() {
        let mut opened = Opened::default();
        assert_eq!(opened.head(1, false), Head::Request);
        assert!(!opened.has_ended(1));
        assert_eq!(opened.head(1, true), Head::Trailers);
        assert!(opened.has_ended(1));
        assert_eq!(opened.head(1, true), Head::Late);
        assert_eq!(opened.head(3, true), Head::Request);
        assert_eq!(opened.head(3, true), Head::Late);
        assert_eq!(opened.head(1, true), Head::Late);
    }

    #[test]
    fn what_was_never_opened_is_not_over() {
        let mut opened = Opened::default();
        opened.end(1);
        assert_eq!(opened.head(9, true), Head::Request);
        for stream in [0, 1, 2, 7, 10, 11, u32::MAX] {
            opened.end(stream);
            assert!(!opened.has_ended(stream), "{stream}");
        }
        assert_eq!(opened.head(5, true), Head::Request);
        assert!(!opened.has_ended(5));
        assert_eq!(opened.head(10, true), Head::Request);
        assert!(opened.has_ended(9));
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let mut opened = Opened::default();
        for stream in (1..=255).step_by(2) {
            assert_eq!(opened.head(stream, stream % 4 == 1), Head::Request);
        }
        for stream in (1..=255).step_by(2) {
            assert_eq!(opened.has_ended(stream), stream % 4 == 1, "{stream}");
        }
        assert_eq!(opened.head(257, false), Head::Request);
        assert!(!opened.has_ended(1) && opened.has_ended(5));
        assert_eq!(opened.head(0x7fff_ffff, true), Head::Request);
        assert!(opened.has_ended(0x7fff_ffff) && !opened.has_ended(253));
    }
}
