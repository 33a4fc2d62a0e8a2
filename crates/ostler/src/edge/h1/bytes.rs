//! Byte classes of RFC 9110 section 5.6, a quick search for bytes that a line may not hold, and how lines and paths are
//! written.
//! It must not know what a line means.

/// What a byte is when it stands in a token (RFC 9110 section 5.6.2): its lower-case form, or 0 when
/// a token cannot hold it.
pub const TOKEN: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let here = byte as u8;
        if here.is_ascii_alphanumeric() || is_token_mark(here) {
            table[byte] = here.to_ascii_lowercase();
        }
        byte += 1;
    }
    table
};

const fn is_token_mark(byte: u8) -> bool {
    matches!(
        byte,
        b'!' | b'#'
            | b'$'
            | b'%'
            | b'&'
            | b'\''
            | b'*'
            | b'+'
            | b'-'
            | b'.'
            | b'^'
            | b'_'
            | b'`'
            | b'|'
            | b'~'
    )
}

/// Appends a header field as a line.
pub fn line(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Appends a decoded path in the form that targets have (RFC 3986 section 3.3).
pub fn escape(path: &[u8], out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for &byte in path {
        if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/".contains(&byte) {
            out.push(byte);
        } else {
            out.extend_from_slice(&[
                b'%',
                HEX[usize::from(byte >> 4)],
                HEX[usize::from(byte & 15)],
            ]);
        }
    }
}

/// Whether `text` is a token: at least one byte, and token bytes only.
pub fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|&byte| TOKEN[usize::from(byte)] != 0)
}

/// Where the first control byte other than HTAB stands (0x00–0x08, 0x0A–0x1F, 0x7F).
///
/// Eight bytes at a time: heads are short and come often, and this is the one loop that sees every
/// byte of them. Finding the CR at the end of a line and refusing what a line may not hold is the
/// same search.
pub fn find_control(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH: u64 = u64::from_ne_bytes([0x80; 8]);
    let mut chunks = bytes.chunks_exact(8);
    let mut at = 0;
    for chunk in &mut chunks {
        let word = u64::from_le_bytes(chunk.try_into().expect("chunks of 8 bytes"));
        // A byte below 0x20, or 0x7F. A borrow can only make a higher byte look like a hit after a
        // real one, and the exact look below decides; 0x80 and above are masked out.
        let below = word.wrapping_sub(ONES * 0x20);
        let delete = (word ^ (ONES * 0x7F)).wrapping_sub(ONES);
        if (below | delete) & !word & HIGH != 0
            && let Some(found) = chunk.iter().position(|&byte| is_control(byte))
        {
            return Some(at + found);
        }
        at += 8;
    }
    let tail = chunks.remainder().iter().position(|&byte| is_control(byte));
    tail.map(|found| at + found)
}

const fn is_control(byte: u8) -> bool {
    (byte < 0x20 && byte != b'\t') || byte == 0x7F
}

/// `text` without the spaces and tabs around it (OWS, RFC 9110 section 5.6.3); nothing else counts
/// as white space here, in particular not 0x85 and 0xA0.
pub fn trim(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = text {
        text = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

/// A number of one or more decimal digits and nothing else, at most `i64::MAX`.
pub fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    let mut value: u64 = 0;
    for &byte in text {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value = value.checked_mul(10)?.checked_add(digit.into())?;
    }
    (value <= i64::MAX as u64).then_some(value)
}

/// The value of a hexadecimal digit.
pub const fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

/// Appends `value` in decimal digits.
pub fn push_decimal(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_byte_is_classed_as_the_rfc_says() {
        for byte in 0..=255u8 {
            let token = byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
            assert_eq!(is_token(&[byte]), token, "{byte:#x}");
            let control = (byte.is_ascii_control()) && byte != b'\t';
            for place in 0..20 {
                let mut line = [b'a'; 20];
                line[place] = byte;
                assert_eq!(find_control(&line), control.then_some(place), "{byte:#x}");
            }
        }
        assert!(!is_token(b""));
    }

    proptest! {
        #[test]
        fn the_quick_search_finds_what_a_plain_one_finds(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            prop_assert_eq!(find_control(&bytes), bytes.iter().position(|&byte| is_control(byte)));
        }

        #[test]
        fn numbers_come_back(value in 0..=i64::MAX as u64) {
            let mut text = Vec::new();
            push_decimal(&mut text, value);
            prop_assert_eq!(String::from_utf8_lossy(&text), value.to_string());
            prop_assert_eq!(decimal(&text), Some(value));
        }
    }

    #[test]
    fn only_digits_make_a_number() {
        for text in ["", " 1", "1 ", "+1", "-1", "0x1", "1_0", "1,1", "1.0", "٣"] {
            assert_eq!(decimal(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(decimal(b"9223372036854775808"), None);
        assert_eq!(decimal(b"99999999999999999999999"), None);
        assert_eq!(decimal(b"0000000000000000000000012"), Some(12));
    }

    #[test]
    fn only_spaces_and_tabs_are_trimmed() {
        assert_eq!(trim(b" \t a b\t "), b"a b");
        assert_eq!(trim(b"\xa0a\x85"), b"\xa0a\x85");
        assert_eq!(trim(b" \t "), b"");
    }
}
