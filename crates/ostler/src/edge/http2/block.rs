//! A header block of HPACK (RFC 7541), looked at as it comes and not decoded: whether it can be one, and whether
//! it names pseudo-header fields, which trailers do not have.
//!
//! `h2` decodes it, but ends a connection over one that cannot be decoded with PROTOCOL_ERROR, and drops
//! pseudo-header fields of trailers without a word. What only a decoder sees is left to it: bad Huffman codes, and
//! what an index of the dynamic table stands for.

/// Entries of the static table; the first of them are pseudo-header fields (RFC 7541 appendix A).
const STATIC: u32 = 61;
const PSEUDO: u32 = 14;

/// SETTINGS_HEADER_TABLE_SIZE, which we leave as it is (RFC 9113 section 6.5.2), in bytes.
const TABLE: u32 = 4096;

/// What an entry of the dynamic table counts for at least (RFC 7541 section 4.1), in bytes.
const ENTRY: u32 = 32;

/// The largest index there can be.
const MOST: u32 = STATIC + TABLE / ENTRY;

/// The bits of an integer that may come behind its first byte: what `h2` takes too.
const BITS: u8 = 28;

/// A block is none: `COMPRESSION_ERROR` (RFC 9113 section 4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Garbled;

/// A block, as far as it came.
#[derive(Debug)]
pub struct Block {
    state: State,
    /// The name that comes is written in Huffman codes.
    is_huffman: bool,
    /// A field came: the size of the table is changed before the first (RFC 7541 section 4.2).
    has_fields: bool,
    names_pseudo: bool,
}

/// What the next byte is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The first of a field.
    Field,
    /// The first of a string's length.
    NameLength,
    ValueLength,
    /// More of an integer.
    Integer {
        of: Number,
        value: u32,
        bits: u8,
    },
    /// The first of a name of so many bytes.
    Name(u32),
    /// One of so many left of a name, or of a value.
    RestOfName(u32),
    Value(u32),
}

/// What an integer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Number {
    Index,
    NameIndex,
    TableSize,
    NameLength,
    ValueLength,
}

impl Block {
    pub fn new() -> Self {
        Self {
            state: State::Field,
            is_huffman: false,
            has_fields: false,
            names_pseudo: false,
        }
    }

    /// It may end here.
    pub fn is_whole(&self) -> bool {
        self.state == State::Field
    }

    /// It holds a pseudo-header field (RFC 9113 section 8.3), as far as can be seen without a table.
    pub fn names_pseudo(&self) -> bool {
        self.names_pseudo
    }

    /// Looks through a piece of it.
    pub fn take(&mut self, mut piece: &[u8]) -> Result<(), Garbled> {
        while let Some((&first, rest)) = piece.split_first() {
            piece = match self.state {
                State::RestOfName(left) => {
                    let count = piece.len().min(left as usize);
                    self.state = rest_of_name(left - count as u32);
                    &piece[count..]
                }
                State::Value(left) => {
                    let count = piece.len().min(left as usize);
                    self.state = value(left - count as u32);
                    &piece[count..]
                }
                state => {
                    self.state = self.byte(state, first)?;
                    rest
                }
            };
        }
        Ok(())
    }

    fn byte(&mut self, state: State, byte: u8) -> Result<State, Garbled> {
        match state {
            State::Field => match byte {
                0x80.. => self.integer(Number::Index, byte, 7),
                0x40.. => self.integer(Number::NameIndex, byte, 6),
                0x20.. => self.integer(Number::TableSize, byte, 5),
                _ => self.integer(Number::NameIndex, byte, 4),
            },
            State::NameLength => {
                self.is_huffman = byte & 0x80 != 0;
                self.integer(Number::NameLength, byte, 7)
            }
            State::ValueLength => self.integer(Number::ValueLength, byte, 7),
            State::Integer { of, value, bits } => {
                let value = value + (u32::from(byte & 0x7f) << bits);
                let bits = bits + 7;
                match byte & 0x80 {
                    0 => self.number(of, value),
                    _ if bits == BITS => Err(Garbled),
                    _ => Ok(State::Integer { of, value, bits }),
                }
            }
            State::Name(length) => {
                // A colon has seven bits (RFC 7541 appendix B).
                self.names_pseudo |= match self.is_huffman {
                    true => byte >> 1 == 0b101_1100,
                    false => byte == b':',
                };
                Ok(rest_of_name(length - 1))
            }
            // Taken at once.
            State::RestOfName(_) | State::Value(_) => Ok(state),
        }
    }

    /// An integer begins in the last `prefix` bits of a byte (RFC 7541 section 5.1).
    fn integer(&mut self, of: Number, byte: u8, prefix: u8) -> Result<State, Garbled> {
        let full = (1u32 << prefix) - 1;
        let value = u32::from(byte) & full;
        match value == full {
            true => Ok(State::Integer { of, value, bits: 0 }),
            false => self.number(of, value),
        }
    }

    fn number(&mut self, of: Number, number: u32) -> Result<State, Garbled> {
        match of {
            Number::Index if number == 0 => Err(Garbled),
            Number::Index | Number::NameIndex if number > MOST => Err(Garbled),
            Number::Index | Number::NameIndex => {
                self.has_fields = true;
                self.names_pseudo |= (1..=PSEUDO).contains(&number);
                Ok(match (of, number) {
                    (Number::Index, _) => State::Field,
                    (_, 0) => State::NameLength,
                    (_, _) => State::ValueLength,
                })
            }
            Number::TableSize if self.has_fields || number > TABLE => Err(Garbled),
            Number::TableSize => Ok(State::Field),
            Number::NameLength if number == 0 => Ok(State::ValueLength),
            Number::NameLength => Ok(State::Name(number)),
            Number::ValueLength => Ok(value(number)),
        }
    }
}

fn rest_of_name(left: u32) -> State {
    match left {
        0 => State::ValueLength,
        _ => State::RestOfName(left),
    }
}

fn value(left: u32) -> State {
    match left {
        0 => State::Field,
        _ => State::Value(left),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Whether a block is good, and names pseudo-header fields, however it is cut.
    fn look(bytes: &[u8]) -> Option<bool> {
        let seen = [1, 2, 3, 4096].map(|cut| {
            let mut block = Block::new();
            let taken = bytes.chunks(cut).try_for_each(|piece| block.take(piece));
            (taken.is_ok() && block.is_whole()).then_some(block.names_pseudo())
        });
        assert!(seen.windows(2).all(|pair| pair[0] == pair[1]), "{seen:?}");
        seen[0]
    }

    #[test]
    fn the_examples_of_the_rfc_are_blocks() {
        // RFC 7541 appendices C.2.1 to C.2.4, C.4.1.
        let custom = b"\x40\x0acustom-key\x0dcustom-header";
        assert_eq!(look(custom), Some(false));
        assert_eq!(look(b"\x04\x0c/sample/path"), Some(true));
        assert_eq!(look(b"\x10\x08password\x06secret"), Some(false));
        assert_eq!(look(b"\x82"), Some(true));
        let huffman = b"\x82\x86\x84\x41\x8c\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff";
        assert_eq!(look(huffman), Some(true));
    }

    #[test]
    fn what_cannot_be_decoded_is_no_block() {
        for bytes in [
            // Ends in a name, a value, a length, an index.
            &b"\x40"[..],
            b"\x40\x0acustom-k",
            b"\x40\x0acustom-key",
            b"\x40\x0acustom-key\x0dcustom-",
            b"\x04\x7f",
            b"\xff\x80",
            // An index that is none, or beyond what the table holds.
            b"\x80",
            b"\xff\x3f",
            b"\x7f\x7f\x01a",
            // An integer without an end.
            b"\x3f\x80\x80\x80\x80\x00",
            b"\x04\x7f\xff\xff\xff\xff\x0f",
            // A larger table than there may be, or a size behind a field.
            b"\x3f\xe2\x1f",
            b"\x90\x20",
        ] {
            assert_eq!(look(bytes), None, "{bytes:x?}");
        }
        for bytes in [
            &b""[..],
            b"\x20\x3f\xe1\x1f\x90",
            b"\xff\x3e",
            b"\x00\x00\x00",
        ] {
            assert_eq!(look(bytes), Some(false), "{bytes:x?}");
        }
    }

    #[test]
    fn pseudo_header_fields_are_seen_in_each_form() {
        for (bytes, named) in [
            (&b"\x8e"[..], true),
            (b"\x8f", false),
            (b"\x4e\x01x", true),
            (b"\x0f\x00\x01x", false),
            (b"\x00\x05:path\x01/", true),
            (b"\x00\x05xpath\x01:", false),
            // `:a` in Huffman codes.
            (b"\x00\x82\xb8\x7f\x00", true),
            (b"\x00\x81\x1f\x00", false),
        ] {
            assert_eq!(look(bytes), Some(named), "{bytes:x?}");
        }
    }

    proptest! {
        #[test]
        fn however_bytes_are_cut_the_same_is_said(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            look(&bytes);
        }

        /// Plain literals of any length.
        #[test]
        fn literals_are_blocks(
            fields in proptest::collection::vec(("[a-z]{1,300}", "[ -~]{0,300}"), 0..5),
        ) {
            let mut bytes = Vec::new();
            let length = |length: usize, out: &mut Vec<u8>| match length.checked_sub(127) {
                None => out.push(length as u8),
                Some(rest) if rest < 128 => out.extend([127, rest as u8]),
                Some(rest) => out.extend([127, rest as u8 | 128, (rest >> 7) as u8]),
            };
            for (name, value) in &fields {
                bytes.push(0);
                length(name.len(), &mut bytes);
                bytes.extend_from_slice(name.as_bytes());
                length(value.len(), &mut bytes);
                bytes.extend_from_slice(value.as_bytes());
            }
            prop_assert_eq!(look(&bytes), Some(false));
        }
    }
}
