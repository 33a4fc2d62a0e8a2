//! The chunked coding of request bodies (RFC 9112 section 7.1), strictly: CRLF only, bare digits,
//! bounded extensions, trailers checked and dropped.

use super::bytes::{find_control, is_token};
use crate::edge::reason::Reason;

/// Hex digits of a chunk size: 64 bits.
const SIZE_DIGITS: u32 = 16;

/// Bytes of chunk extensions that one body may carry (Puma GHSA-c2f4-cvqm-65w2).
const EXTENSIONS: usize = 16 * 1024;

/// Bytes of a trailer section.
const TRAILERS: usize = 8 * 1024;

/// Takes a chunked body apart as it comes in.
#[derive(Debug)]
pub struct Decoder {
    state: State,
    /// Digits of the size that is being read.
    digits: u32,
    size: u64,
    extensions: usize,
    quoted: bool,
    escaped: bool,
    trailer: Vec<u8>,
    trailers: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Size,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    Trailer,
    TrailerLf,
    Done,
}

/// How far one piece of input went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decoded {
    /// Bytes of the input that belong to the body.
    pub consumed: usize,
    /// The last chunk and the trailers were read.
    pub done: bool,
}

impl Default for Decoder {
    fn default() -> Self {
        Self {
            state: State::Size,
            digits: 0,
            size: 0,
            extensions: 0,
            quoted: false,
            escaped: false,
            trailer: Vec::new(),
            trailers: 0,
        }
    }
}

impl Decoder {
    /// Appends the body bytes in `input` to `out`.
    ///
    /// # Errors
    /// The reason to refuse the request; the connection is of no use any more.
    pub fn decode(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Decoded, Reason> {
        let mut at = 0;
        while at < input.len() && self.state != State::Done {
            if self.state == State::Data {
                let rest = &input[at..];
                let count = rest
                    .len()
                    .min(usize::try_from(self.size).unwrap_or(usize::MAX));
                out.extend_from_slice(&rest[..count]);
                at += count;
                self.size -= count as u64;
                if self.size == 0 {
                    self.state = State::DataCr;
                }
            } else {
                self.state = self.byte(input[at])?;
                at += 1;
            }
        }
        Ok(Decoded {
            consumed: at,
            done: self.state == State::Done,
        })
    }

    fn byte(&mut self, byte: u8) -> Result<State, Reason> {
        match self.state {
            State::Size => self.size_byte(byte),
            State::Extension => self.extension_byte(byte),
            State::SizeLf => match (byte, self.size) {
                (b'\n', 0) => Ok(State::Trailer),
                (b'\n', _) => Ok(State::Data),
                _ => Err(Reason::BareCr),
            },
            State::DataCr if byte == b'\r' => Ok(State::DataLf),
            State::DataLf if byte == b'\n' => {
                (self.digits, self.size) = (0, 0);
                Ok(State::Size)
            }
            State::DataCr | State::DataLf => Err(Reason::ChunkEnd),
            State::Trailer => self.trailer_byte(byte),
            State::TrailerLf if byte != b'\n' => Err(Reason::BareCr),
            State::TrailerLf if self.trailer.is_empty() => Ok(State::Done),
            State::TrailerLf => {
                check_trailer(&self.trailer)?;
                self.trailer.clear();
                Ok(State::Trailer)
            }
            State::Data | State::Done => Ok(self.state),
        }
    }

    fn size_byte(&mut self, byte: u8) -> Result<State, Reason> {
        match (byte as char).to_digit(16) {
            Some(digit) if self.digits < SIZE_DIGITS => {
                self.digits += 1;
                self.size = self.size << 4 | u64::from(digit);
                Ok(State::Size)
            }
            Some(_) => Err(Reason::ChunkSize),
            None if self.digits == 0 => Err(Reason::ChunkSize),
            None => match byte {
                b'\r' => Ok(State::SizeLf),
                b';' => Ok(State::Extension),
                b'\n' => Err(Reason::BareLf),
                _ => Err(Reason::ChunkSize),
            },
        }
    }

    /// Extensions mean nothing to us, but their end must be where others see it too.
    fn extension_byte(&mut self, byte: u8) -> Result<State, Reason> {
        self.extensions += 1;
        if self.extensions > EXTENSIONS {
            return Err(Reason::ChunkExtensionTooLong);
        }
        match byte {
            b'\r' if self.quoted => Err(Reason::ChunkExtension),
            b'\r' => Ok(State::SizeLf),
            b'\n' => Err(Reason::BareLf),
            0..=8 | 11..=31 | 127 => Err(Reason::ChunkExtension),
            _ => {
                match (byte, self.quoted, self.escaped) {
                    (_, true, true) => self.escaped = false,
                    (b'\\', true, false) => self.escaped = true,
                    (b'"', quoted, false) => self.quoted = !quoted,
                    _ => {}
                }
                Ok(State::Extension)
            }
        }
    }

    fn trailer_byte(&mut self, byte: u8) -> Result<State, Reason> {
        self.trailers += 1;
        match byte {
            b'\r' => Ok(State::TrailerLf),
            b'\n' => Err(Reason::BareLf),
            _ if self.trailers > TRAILERS => Err(Reason::TrailerTooLarge),
            _ => {
                self.trailer.push(byte);
                Ok(State::Trailer)
            }
        }
    }
}

/// Fields that change the meaning of a message may not come after its body (RFC 9110 section
/// 6.5.1). The others are dropped: no app of ours reads them.
fn check_trailer(line: &[u8]) -> Result<(), Reason> {
    const FORBIDDEN: [&[u8]; 18] = [
        b"content-length",
        b"transfer-encoding",
        b"host",
        b"trailer",
        b"authorization",
        b"content-type",
        b"content-encoding",
        b"content-range",
        b"te",
        b"cookie",
        b"set-cookie",
        b"connection",
        b"expect",
        b"upgrade",
        b"proxy-authorization",
        b"cache-control",
        b"range",
        b"max-forwards",
    ];
    let colon = memchr::memchr(b':', line).ok_or(Reason::TrailerInvalid)?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    if !is_token(name) || find_control(value).is_some() {
        return Err(Reason::TrailerInvalid);
    }
    match FORBIDDEN
        .iter()
        .any(|forbidden| name.eq_ignore_ascii_case(forbidden))
    {
        true => Err(Reason::TrailerForbidden),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Decodes `input` cut into pieces of `step` bytes: the body and what is left behind it.
    fn decode(input: &[u8], step: usize) -> Result<(Vec<u8>, Vec<u8>), Reason> {
        let (mut decoder, mut out, mut used) = (Decoder::default(), Vec::new(), 0);
        for piece in input.chunks(step) {
            let decoded = decoder.decode(piece, &mut out)?;
            used += decoded.consumed;
            if decoded.done {
                return Ok((out, input[used..].to_vec()));
            }
        }
        Err(Reason::BodyIncomplete)
    }

    #[test]
    fn verdicts_do_not_depend_on_how_the_bytes_arrive() {
        let long = format!("1;{}\r\nx\r\n0\r\n\r\n", "a".repeat(EXTENSIONS));
        let trailers = format!("0\r\nx: {}\r\n\r\n", "a".repeat(TRAILERS));
        let table: &[(&str, Result<&str, Reason>)] = &[
            ("5\r\nhello\r\n0\r\n\r\n", Ok("hello")),
            (
                "5;ext=1;q=\"a\\\"b;\"\r\nhello\r\n6\r\n world\r\n0\r\n\r\n",
                Ok("hello world"),
            ),
            (
                "00000005\r\nhello\r\n000\r\nx-note: fine\r\n\r\n",
                Ok("hello"),
            ),
            ("A\r\n0123456789\r\n0\r\n\r\n", Ok("0123456789")),
            ("5\nhello\r\n0\r\n\r\n", Err(Reason::BareLf)),
            ("5\r\nhello\n0\r\n\r\n", Err(Reason::ChunkEnd)),
            ("5 \r\nhello\r\n0\r\n\r\n", Err(Reason::ChunkSize)),
            ("+5\r\nhello\r\n0\r\n\r\n", Err(Reason::ChunkSize)),
            ("0x5\r\nhello\r\n0\r\n\r\n", Err(Reason::ChunkSize)),
            ("5_0\r\nhello\r\n0\r\n\r\n", Err(Reason::ChunkSize)),
            ("\r\nhello\r\n0\r\n\r\n", Err(Reason::ChunkSize)),
            (
                "00000000000000005\r\nhello\r\n0\r\n\r\n",
                Err(Reason::ChunkSize),
            ),
            ("5\rXhello\r\n0\r\n\r\n", Err(Reason::BareCr)),
            ("5;a\nb\r\nhello\r\n0\r\n\r\n", Err(Reason::BareLf)),
            (
                "5;a=\"\r\n\"\r\nhello\r\n0\r\n\r\n",
                Err(Reason::ChunkExtension),
            ),
            ("4\r\nhello\r\n0\r\n\r\n", Err(Reason::ChunkEnd)),
            (
                "0\r\nContent-Length: 5\r\n\r\n",
                Err(Reason::TrailerForbidden),
            ),
            ("0\r\nhost: x\r\n\r\n", Err(Reason::TrailerForbidden)),
            ("0\r\nno colon\r\n\r\n", Err(Reason::TrailerInvalid)),
            ("0\r\nx: y\n\r\n", Err(Reason::BareLf)),
            (&long, Err(Reason::ChunkExtensionTooLong)),
            (&trailers, Err(Reason::TrailerTooLarge)),
        ];
        for (input, expected) in table {
            for step in [1, 2, 3, 7, input.len()] {
                let seen = decode(input.as_bytes(), step).map(|(body, _)| body);
                let expected = expected.map(|body| body.as_bytes().to_vec());
                assert_eq!(
                    seen,
                    expected,
                    "{:?} by {step}",
                    &input[..input.len().min(60)]
                );
            }
        }
    }

    proptest! {
        #[test]
        fn any_body_comes_back_and_the_next_request_is_untouched(
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..200), 0..8),
            step in 1usize..64,
        ) {
            let mut input = Vec::new();
            for piece in &pieces {
                input.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
                input.extend_from_slice(piece);
                input.extend_from_slice(b"\r\n");
            }
            input.extend_from_slice(b"0\r\n\r\nGET / HTTP/1.1");
            let (body, rest) = decode(&input, step).expect("a good body");
            prop_assert_eq!(body, pieces.concat());
            prop_assert_eq!(rest, b"GET / HTTP/1.1".to_vec());
        }

        #[test]
        fn no_bytes_make_it_panic(input in proptest::collection::vec(any::<u8>(), 0..300), step in 1usize..20) {
            let _ = decode(&input, step);
        }
    }
}
