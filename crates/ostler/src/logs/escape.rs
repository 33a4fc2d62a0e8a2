//! Making outside bytes harmless in a log (CVE-2020-7694 is what happens otherwise): no byte of a request can
//! start a line, end a quoted value or move a terminal's cursor.

/// Bytes of one value that are written; the rest becomes `...`.
pub const MAX_VALUE: usize = 2048;

/// Appends a value for a text row: printable ASCII as it is, `"` and `\` behind a backslash, every other byte
/// as `\xhh` (as nginx and Apache do; gunicorn escapes only the quote).
pub fn text(out: &mut Vec<u8>, value: &[u8]) {
    let (value, cut) = truncated(value);
    let mut rest = value;
    while let Some(at) = rest.iter().position(|&b| !is_plain(b)) {
        out.extend_from_slice(&rest[..at]);
        match rest[at] {
            byte @ (b'"' | b'\\') => out.extend_from_slice(&[b'\\', byte]),
            byte => hex(out, byte),
        }
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
    if cut {
        out.extend_from_slice(b"...");
    }
}

/// Appends a value as a JSON string with its quotes. Valid UTF-8 stays; other bytes become `\\xhh`, that is
/// the text `\xhh` once the JSON is read.
pub fn json(out: &mut Vec<u8>, value: &[u8]) {
    let (value, cut) = truncated(value);
    out.push(b'"');
    // Nearly every value is printable ASCII from end to end.
    let plain = value
        .iter()
        .position(|&b| !is_plain(b))
        .unwrap_or(value.len());
    out.extend_from_slice(&value[..plain]);
    for chunk in value[plain..].utf8_chunks() {
        for character in chunk.valid().chars() {
            json_character(out, character);
        }
        for &byte in chunk.invalid() {
            out.push(b'\\');
            hex(out, byte);
        }
    }
    if cut {
        out.extend_from_slice(b"...");
    }
    out.push(b'"');
}

/// Appends one of ostler's own messages: readable text, but control characters (C0, DEL, C1) as `\xhh`, line
/// ends as `\n`.
pub fn message(out: &mut String, message: &str) {
    for character in message.chars() {
        match character {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            _ if character.is_control() => {
                let _ = std::fmt::Write::write_fmt(
                    out,
                    format_args!("\\x{:02x}", u32::from(character)),
                );
            }
            _ => out.push(character),
        }
    }
}

fn json_character(out: &mut Vec<u8>, character: char) {
    match character {
        '"' | '\\' => out.extend_from_slice(&[b'\\', character as u8]),
        '\n' => out.extend_from_slice(b"\\n"),
        '\r' => out.extend_from_slice(b"\\r"),
        '\t' => out.extend_from_slice(b"\\t"),
        _ if character.is_control() => {
            // Every control character is below U+00A0.
            let byte = character as u32 as u8;
            out.extend_from_slice(b"\\u00");
            out.extend_from_slice(&digits(byte));
        }
        _ => out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
    }
}

fn truncated(value: &[u8]) -> (&[u8], bool) {
    match value.get(..MAX_VALUE) {
        Some(start) if value.len() > MAX_VALUE => (start, true),
        _ => (value, false),
    }
}

fn is_plain(byte: u8) -> bool {
    (0x20..0x7f).contains(&byte) && byte != b'"' && byte != b'\\'
}

fn hex(out: &mut Vec<u8>, byte: u8) {
    out.extend_from_slice(b"\\x");
    out.extend_from_slice(&digits(byte));
}

fn digits(byte: u8) -> [u8; 2] {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn as_text(value: &[u8]) -> String {
        let mut out = Vec::new();
        text(&mut out, value);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn text_rows() {
        for (value, expected) in [
            (&b"plain text/1.0"[..], "plain text/1.0"),
            (b"a\"b", r#"a\"b"#),
            (b"a\\", r"a\\"),
            (b"a\r\nGET / 200", r"a\x0d\x0aGET / 200"),
            (b"\x1b[2J", r"\x1b[2J"),
            (b"\x00\x7f", r"\x00\x7f"),
            ("é".as_bytes(), r"\xc3\xa9"),
        ] {
            assert_eq!(as_text(value), expected);
        }
    }

    #[test]
    fn long_values_are_cut() {
        assert_eq!(as_text(&[b'a'; MAX_VALUE]).len(), MAX_VALUE);
        let cut = as_text(&[b'a'; MAX_VALUE + 1]);
        assert!(cut.ends_with("a...") && cut.len() == MAX_VALUE + 3);
    }

    #[test]
    fn messages_stay_on_their_line() {
        let mut out = String::new();
        message(&mut out, "näher\nanother\x1b[0m\u{9b}");
        assert_eq!(out, r"näher\nanother\x1b[0m\x9b");
    }

    proptest! {
        #[test]
        fn any_bytes_stay_one_json_string(value in prop::collection::vec(any::<u8>(), 0..3000)) {
            let mut out = Vec::new();
            json(&mut out, &value);
            let parsed: String = serde_json::from_slice(&out).unwrap();
            prop_assert!(!out.iter().any(|b| *b < 0x20 || *b == 0x7f));
            if let Ok(text) = std::str::from_utf8(&value)
                && value.len() <= MAX_VALUE {
                    prop_assert_eq!(parsed, text);
                }
        }

        #[test]
        fn any_bytes_stay_one_quoted_value(value in prop::collection::vec(any::<u8>(), 0..3000)) {
            let text = as_text(&value);
            prop_assert!(text.bytes().all(|b| (0x20..0x7f).contains(&b)));
            let mut escaped = false;
            for byte in text.bytes() {
                prop_assert!(escaped || byte != b'"');
                escaped = byte == b'\\' && !escaped;
            }
            prop_assert!(!escaped);
        }
    }
}
