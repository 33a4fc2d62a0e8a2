//! permessage-deflate (RFC 7692): what is agreed to, and one message's compression each way.
//!
//! No context is kept from one message to the next, in either direction, which a server may demand
//! of any client (section 7.1.1). It costs some compression of small messages, and saves about
//! 300 KiB per open connection: an idle WebSocket holds no compression state at all.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::frame::Violation;

/// The `Sec-WebSocket-Extensions` value of the answer, before any window size.
const AGREED: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

/// Messages below this are sent as they are: they travel in one packet either way, and without
/// context they hardly shrink.
pub const LEAST: usize = 1024;

/// Messages above this are sent as they are too: compressing one is a single step, and this much
/// takes an edge thread some milliseconds.
pub const MOST: usize = 1 << 20;

/// What every compressed message lacks at its end (section 7.2.1).
const TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];

/// Bytes by which an output grows while it is not known how long it gets.
const STEP: usize = 16 * 1024;

/// The agreed parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deflate {
    /// log2 of the window we compress with, 9 to 15.
    window_bits: u8,
}

impl Deflate {
    /// Chooses the first offer in a `Sec-WebSocket-Extensions` value that we can agree to. What is
    /// not understood is declined, never an error (section 5.1).
    pub fn choose(offers: &[u8]) -> Option<Self> {
        let offers = str::from_utf8(offers).ok()?;
        offers.split(',').find_map(Self::accept)
    }

    fn accept(offer: &str) -> Option<Self> {
        let mut parameters = offer.split(';').map(str::trim);
        if !parameters
            .next()?
            .eq_ignore_ascii_case("permessage-deflate")
        {
            return None;
        }
        let mut seen = Vec::new();
        let mut window_bits = 15;
        for parameter in parameters {
            let (name, value) = match parameter.split_once('=') {
                Some((name, value)) => (name.trim(), Some(value.trim().trim_matches('"'))),
                None => (parameter, None),
            };
            if seen.contains(&name) {
                return None;
            }
            seen.push(name);
            match (name, value) {
                ("server_no_context_takeover" | "client_no_context_takeover", None) => {}
                // The client's window never matters: ours is the largest there is.
                ("client_max_window_bits", None) => {}
                ("client_max_window_bits", Some(bits)) => {
                    bits_within(bits, 8)?;
                }
                // A window of 8 bits is what no zlib can write without a header.
                ("server_max_window_bits", Some(bits)) => window_bits = bits_within(bits, 9)?,
                _ => return None,
            }
        }
        Some(Self { window_bits })
    }

    /// The `Sec-WebSocket-Extensions` value of the answer.
    pub fn answer(self) -> String {
        match self.window_bits {
            15 => AGREED.to_owned(),
            bits => format!("{AGREED}; server_max_window_bits={bits}"),
        }
    }

    /// Compresses a whole message.
    pub fn compress(self, message: &[u8]) -> Vec<u8> {
        let level = Compression::fast();
        let mut state = Compress::new_with_window_bits(level, false, self.window_bits);
        let mut out = Vec::with_capacity(message.len() / 2 + STEP);
        loop {
            let before = (state.total_in(), out.len());
            let rest = &message[state.total_in() as usize..];
            state
                .compress_vec(rest, &mut out, FlushCompress::Sync)
                .expect("compressing fails on wrong arguments only");
            // The flush is complete when it leaves room behind it.
            if out.len() < out.capacity() || before == (state.total_in(), out.len()) {
                break;
            }
            out.reserve(STEP);
        }
        out.truncate(out.len() - TAIL.len());
        out
    }
}

fn bits_within(text: &str, least: u8) -> Option<u8> {
    let is_plain = !text.starts_with(['0', '+']);
    let bits: u8 = text.parse().ok()?;
    (is_plain && (least..=15).contains(&bits)).then_some(bits)
}

/// The decompression of one message.
pub struct Inflate(Decompress);

impl Inflate {
    pub fn new() -> Self {
        Self(Decompress::new(false))
    }

    /// Appends what `input` decompresses to, while `out` stays within `max` bytes.
    pub fn push(
        &mut self,
        mut input: &[u8],
        out: &mut Vec<u8>,
        max: usize,
    ) -> Result<(), Violation> {
        loop {
            // One more than may be, so that more is seen.
            let room = max.saturating_sub(out.len()).saturating_add(1);
            out.reserve(room.min(STEP));
            let (fed, had) = (self.0.total_in(), out.len());
            let status = self
                .0
                .decompress_vec(input, out, FlushDecompress::Sync)
                .map_err(|_| Violation::BadDeflate)?;
            let taken = (self.0.total_in() - fed) as usize;
            input = &input[taken..];
            if out.len() > max {
                return Err(Violation::MessageTooBig);
            }
            // A final block may end the data and another stream follow (section 7.2.3.4).
            if status == Status::StreamEnd {
                self.0.reset(false);
                if input.is_empty() {
                    return Ok(());
                }
            }
            let is_stuck = taken == 0 && out.len() == had;
            match input.is_empty() {
                // Output may still be held back for want of room.
                true if out.len() < out.capacity() || is_stuck => return Ok(()),
                false if is_stuck => return Err(Violation::BadDeflate),
                true | false => {}
            }
        }
    }

    /// The message is complete.
    pub fn finish(mut self, out: &mut Vec<u8>, max: usize) -> Result<(), Violation> {
        self.push(&TAIL, out, max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn offers_are_agreed_to_or_declined() {
        let bits = |bits| Some(Deflate { window_bits: bits });
        for (offer, expected) in [
            ("permessage-deflate", bits(15)),
            ("permessage-deflate; client_max_window_bits", bits(15)),
            ("permessage-deflate;client_max_window_bits=8", bits(15)),
            ("permessage-deflate; server_max_window_bits=10", bits(10)),
            (
                "Permessage-Deflate ; server_max_window_bits = \"12\"",
                bits(12),
            ),
            (
                "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
                bits(15),
            ),
            (
                "permessage-deflate; server_max_window_bits=8, permessage-deflate",
                bits(15),
            ),
            (
                "x-webkit-deflate-frame, permessage-deflate; server_max_window_bits=9",
                bits(9),
            ),
            ("permessage-deflate; server_max_window_bits", None),
            ("permessage-deflate; server_max_window_bits=8", None),
            ("permessage-deflate; server_max_window_bits=16", None),
            ("permessage-deflate; server_max_window_bits=010", None),
            ("permessage-deflate; client_max_window_bits=7", None),
            ("permessage-deflate; server_no_context_takeover=1", None),
            (
                "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
                None,
            ),
            ("permessage-deflate; unheard_of", None),
            ("permessage-deflate;", None),
            ("permessage-bzip2", None),
            ("", None),
        ] {
            assert_eq!(Deflate::choose(offer.as_bytes()), expected, "{offer}");
        }
        assert_eq!(Deflate::choose(b"\xff"), None);
        assert_eq!(
            Deflate { window_bits: 10 }.answer(),
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=10"
        );
    }

    fn inflate(data: &[u8], piece: usize, max: usize) -> Result<Vec<u8>, Violation> {
        let (mut state, mut out) = (Inflate::new(), Vec::new());
        for piece in data.chunks(piece) {
            state.push(piece, &mut out, max)?;
        }
        state.finish(&mut out, max)?;
        Ok(out)
    }

    #[test]
    fn the_examples_of_the_rfc_are_understood() {
        for data in [
            // Section 7.2.3.1, 7.2.3.3 (no compression), 7.2.3.4 (a final block), 7.2.3.5 (two blocks).
            &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00][..],
            &[
                0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00,
            ],
            &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00],
            &[
                0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00,
            ],
        ] {
            for piece in 1..=data.len() {
                assert_eq!(inflate(data, piece, 100), Ok(b"Hello".to_vec()));
            }
        }
    }

    #[test]
    fn no_limit_is_no_limit() {
        let packed = Deflate { window_bits: 15 }.compress(&[7; 100_000]);
        assert_eq!(inflate(&packed, 1000, usize::MAX), Ok(vec![7; 100_000]));
    }

    #[test]
    fn a_bomb_stops_at_the_limit() {
        let bomb = Deflate { window_bits: 15 }.compress(&vec![0; 10 << 20]);
        assert!(bomb.len() < 200_000, "{} bytes", bomb.len());
        assert_eq!(inflate(&bomb, 4096, 1 << 20), Err(Violation::MessageTooBig));
        assert_eq!(
            inflate(&bomb, 4096, 10 << 20).map(|out| out.len()),
            Ok(10 << 20)
        );
        assert_eq!(
            inflate(&bomb, 4096, (10 << 20) - 1),
            Err(Violation::MessageTooBig)
        );
    }

    proptest! {
        #[test]
        fn what_is_compressed_is_decompressed(
            data in proptest::collection::vec(0u8..20, 0..5_000),
            piece in 1usize..5000,
            bits in 9u8..=15,
        ) {
            let packed = Deflate { window_bits: bits }.compress(&data);
            prop_assert_eq!(inflate(&packed, piece, data.len()), Ok(data));
        }

        #[test]
        fn no_bytes_make_the_decompressor_hang(data in proptest::collection::vec(any::<u8>(), 0..500)) {
            let _ = inflate(&data, 7, 10_000);
        }
    }
}
