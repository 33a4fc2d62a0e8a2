//! Frame heads (RFC 6455 section 5.2): decoding with every check that a head alone allows, and
//! encoding.

use std::fmt;

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    Continuation = 0,
    Text = 1,
    Binary = 2,
    Close = 8,
    Ping = 9,
    Pong = 10,
}

impl Opcode {
    fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0 => Self::Continuation,
            1 => Self::Text,
            2 => Self::Binary,
            8 => Self::Close,
            9 => Self::Ping,
            10 => Self::Pong,
            _ => return None,
        })
    }

    pub fn is_control(self) -> bool {
        self as u8 & 8 != 0
    }
}

/// How a client broke the protocol. The connection ends with [`Violation::code`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Violation {
    ReservedBits,
    UnknownOpcode,
    Unmasked,
    FragmentedControl,
    LongControl,
    LongLength,
    FrameTooBig,
    MessageTooBig,
    StrayContinuation,
    MissingContinuation,
    CloseCode,
    NotUtf8,
    BadDeflate,
    PingFlood,
    AddressFull,
}

impl Violation {
    /// The status code of the close frame (RFC 6455 section 7.4.1).
    pub fn code(self) -> u16 {
        match self {
            Self::ReservedBits
            | Self::UnknownOpcode
            | Self::Unmasked
            | Self::FragmentedControl
            | Self::LongControl
            | Self::LongLength
            | Self::StrayContinuation
            | Self::MissingContinuation
            | Self::CloseCode => 1002,
            Self::NotUtf8 | Self::BadDeflate => 1007,
            Self::PingFlood => 1008,
            Self::FrameTooBig | Self::MessageTooBig => 1009,
            // "Try again later", in IANA's registry of close codes.
            Self::AddressFull => 1013,
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ReservedBits => "a reserved bit is set",
            Self::UnknownOpcode => "unknown opcode",
            Self::Unmasked => "a client's frame must be masked",
            Self::FragmentedControl => "a control frame must not be fragmented",
            Self::LongControl => "a control frame has more than 125 bytes",
            Self::LongLength => "a frame's length is not in its shortest form",
            Self::FrameTooBig => "frame too big",
            Self::MessageTooBig => "message too big",
            Self::StrayContinuation => "a continuation without a start",
            Self::MissingContinuation => "a message within a message",
            Self::CloseCode => "bad close frame",
            Self::NotUtf8 => "text that is not UTF-8",
            Self::BadDeflate => "bad compressed data",
            Self::PingFlood => "too many pings",
            Self::AddressFull => "your address has too much under way",
        })
    }
}

/// A checked frame head from a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    pub opcode: Opcode,
    pub is_final: bool,
    /// RSV1: the message is compressed. Only on a message's first frame.
    pub is_compressed: bool,
    /// Payload bytes.
    pub len: usize,
    pub mask: [u8; 4],
}

/// The longest payload of a control frame (section 5.5).
const MAX_CONTROL: u64 = 125;

impl Head {
    /// Decodes the head at the start of `bytes` and says how long it is; `None` when more bytes are
    /// needed. What is wrong with the first two bytes is told without waiting for the rest.
    pub fn decode(
        bytes: &[u8],
        may_compress: bool,
        max_frame: usize,
    ) -> Result<Option<(Self, usize)>, Violation> {
        let Some(([first, second], rest)) = bytes.split_first_chunk() else {
            return Ok(None);
        };
        let opcode = Opcode::from_bits(first & 0x0f).ok_or(Violation::UnknownOpcode)?;
        let is_final = first & 0x80 != 0;
        let is_compressed = first & 0x40 != 0;
        let starts_message = matches!(opcode, Opcode::Text | Opcode::Binary);
        if first & 0x30 != 0 || (is_compressed && !(may_compress && starts_message)) {
            return Err(Violation::ReservedBits);
        }
        if second & 0x80 == 0 {
            return Err(Violation::Unmasked);
        }
        if opcode.is_control() && !is_final {
            return Err(Violation::FragmentedControl);
        }
        let short = u64::from(second & 0x7f);
        if opcode.is_control() && short > MAX_CONTROL {
            return Err(Violation::LongControl);
        }
        let Some((len, rest)) = length(short, rest)? else {
            return Ok(None);
        };
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        if len > max_frame && !opcode.is_control() {
            return Err(Violation::FrameTooBig);
        }
        let Some((mask, rest)) = rest.split_first_chunk() else {
            return Ok(None);
        };
        let head = Self {
            opcode,
            is_final,
            is_compressed,
            len,
            mask: *mask,
        };
        Ok(Some((head, bytes.len() - rest.len())))
    }
}

/// The payload length behind the 7 bits `short`. A longer form than needed is refused, as the
/// section asks.
fn length(short: u64, rest: &[u8]) -> Result<Option<(u64, &[u8])>, Violation> {
    let (len, rest, least) = match short {
        126 => match rest.split_first_chunk() {
            Some((len, rest)) => (u16::from_be_bytes(*len).into(), rest, 126),
            None => return Ok(None),
        },
        127 => match rest.split_first_chunk() {
            Some((len, rest)) => (u64::from_be_bytes(*len), rest, 0x1_0000),
            None => return Ok(None),
        },
        short => (short, rest, 0),
    };
    match len >= least && len >> 63 == 0 {
        true => Ok(Some((len, rest))),
        false => Err(Violation::LongLength),
    }
}

/// Removes the mask from a piece of a payload that starts `at` bytes into it.
pub fn unmask(piece: &mut [u8], mut mask: [u8; 4], at: usize) {
    mask.rotate_left(at % 4);
    let wide = u64::from_ne_bytes([
        mask[0], mask[1], mask[2], mask[3], mask[0], mask[1], mask[2], mask[3],
    ]);
    let (chunks, rest) = piece.as_chunks_mut::<8>();
    for chunk in chunks {
        *chunk = (u64::from_ne_bytes(*chunk) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

/// Appends a whole unmasked frame, as a server sends it.
pub fn encode(out: &mut Vec<u8>, opcode: Opcode, is_compressed: bool, payload: &[u8]) {
    out.push(0x80 | u8::from(is_compressed) << 6 | opcode as u8);
    match payload.len() {
        len @ 0..126 => out.push(len as u8),
        len @ 126..0x1_0000 => {
            out.push(126);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            out.push(127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(payload);
}

/// Appends a close frame. A code that must not be sent (1005 and its like, section 7.4) becomes a
/// frame without code; a long reason is cut between two characters.
pub fn encode_close(out: &mut Vec<u8>, code: u16, reason: &str) {
    if !may_be_sent(code) {
        return encode(out, Opcode::Close, false, b"");
    }
    let mut end = reason.len().min(MAX_CONTROL as usize - 2);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    let reason = &reason[..end];
    let payload = [&code.to_be_bytes(), reason.as_bytes()].concat();
    encode(out, Opcode::Close, false, &payload);
}

/// Decodes the payload of a client's close frame.
pub fn decode_close(payload: &[u8]) -> Result<(u16, String), Violation> {
    let Some((code, reason)) = payload.split_first_chunk() else {
        return match payload {
            [] => Ok((1005, String::new())),
            _ => Err(Violation::CloseCode),
        };
    };
    let code = u16::from_be_bytes(*code);
    if !may_be_sent(code) {
        return Err(Violation::CloseCode);
    }
    let reason = String::from_utf8(reason.to_vec()).map_err(|_| Violation::NotUtf8)?;
    Ok((code, reason))
}

/// Whether a close frame may carry the code: registered with IANA, or for libraries and apps.
fn may_be_sent(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_head_is_decoded_once_it_is_whole() {
        let whole = [0x82, 0xfe, 0x01, 0x00, 9, 8, 7, 6];
        for end in 0..whole.len() {
            assert_eq!(Head::decode(&whole[..end], false, 1000), Ok(None));
        }
        let head = Head {
            opcode: Opcode::Binary,
            is_final: true,
            is_compressed: false,
            len: 256,
            mask: [9, 8, 7, 6],
        };
        assert_eq!(Head::decode(&whole, false, 1000), Ok(Some((head, 8))));
        assert_eq!(
            Head::decode(&whole, false, 255),
            Err(Violation::FrameTooBig)
        );
    }

    #[test]
    fn close_frames_hold_what_may_be_sent() {
        for (code, reason, expected) in [
            (1000, "bye", &b"\x88\x05\x03\xe8bye"[..]),
            (1005, "bye", b"\x88\x00"),
            (1006, "", b"\x88\x00"),
            (0, "", b"\x88\x00"),
            (4999, "", b"\x88\x02\x13\x87"),
        ] {
            let mut out = Vec::new();
            encode_close(&mut out, code, reason);
            assert_eq!(out, expected);
        }
        let mut out = Vec::new();
        encode_close(&mut out, 1000, &"ä".repeat(200));
        assert_eq!(
            decode_close(&out[2..]).map(|(_, reason)| reason.len()),
            Ok(122)
        );
    }

    proptest! {
        #[test]
        fn masking_in_pieces_is_masking_at_once(
            data in proptest::collection::vec(any::<u8>(), 0..200),
            mask in any::<[u8; 4]>(),
            cut in 0usize..200,
        ) {
            let expected: Vec<u8> = data.iter().zip(mask.iter().cycle()).map(|(a, b)| a ^ b).collect();
            let mut got = data.clone();
            let cut = cut.min(data.len());
            let (first, second) = got.split_at_mut(cut);
            unmask(first, mask, 0);
            unmask(second, mask, cut);
            prop_assert_eq!(got, expected);
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..20)) {
            let _ = Head::decode(&bytes, true, 1 << 20);
            let _ = decode_close(&bytes);
        }
    }
}
