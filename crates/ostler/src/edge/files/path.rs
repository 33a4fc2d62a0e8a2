//! Which request paths may name a file at all: the rules on names, before any disk is touched.
//!
//! Paths come in canonical: percent-decoded once, dot segments resolved. This file must not know about
//! descriptors, headers or the cache.

use super::Refusal;
use crate::edge::h1::bytes::escape;

/// Checks a canonical path below a prefix (no leading slash; may be empty or end in `/`).
///
/// `400` for bytes no honest path has, `404` for names that are never served: dot-names except
/// `.well-known`, empty inner segments, key lists, databases and bytecode.
pub fn check(below: &[u8]) -> Result<(), Refusal> {
    if below.iter().any(|&b| b < 0x20 || b == 0x7f || b == b'\\') {
        return Err(Refusal::BadPath);
    }
    if below.is_empty() {
        return Ok(());
    }
    let mut segments = below.split(|&b| b == b'/').peekable();
    while let Some(segment) = segments.next() {
        // Only the last segment may be empty: that is the slash form of a directory.
        let last = segments.peek().is_none();
        if segment.is_empty() && !last {
            return Err(Refusal::NotFound);
        }
        if is_hidden(segment) {
            return Err(Refusal::NotFound);
        }
    }
    Ok(())
}

/// Whether the path as it was typed hides a separator or an end of string behind a percent escape.
/// After decoding such a path looks like another one, so prefix rules made elsewhere could be passed by.
pub fn has_encoded_separator(raw: &[u8]) -> bool {
    let mut rest = raw;
    while let Some(at) = memchr::memchr(b'%', rest) {
        if let Some(escape) = rest.get(at + 1..at + 3) {
            let escape = [escape[0], escape[1].to_ascii_lowercase()];
            if matches!(&escape, b"2f" | b"5c" | b"00") {
                return true;
            }
        }
        rest = &rest[at + 1..];
    }
    false
}

/// Whether a single name is never served, whoever asks for it.
pub fn is_hidden(name: &[u8]) -> bool {
    if name.first() == Some(&b'.') {
        return name != b".well-known";
    }
    // A compressed copy of a database is the database.
    let mut stem = name;
    for suffix in [&b".gz"[..], b".br", b".zst"] {
        stem = strip_suffix_ignoring_case(stem, suffix).unwrap_or(stem);
    }
    stem.eq_ignore_ascii_case(b"auth-keys.csv")
        || NEVER
            .iter()
            .any(|suffix| strip_suffix_ignoring_case(stem, suffix).is_some())
}

/// The path part of a `Location` in origin-form: percent-encoded, exactly one leading slash, so that no
/// client can take it for `//host`; the query is kept when it holds nothing but visible ASCII.
pub fn slash_form(path: &[u8], query: Option<&[u8]>) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len() + 2);
    out.push(b'/');
    let slashes = path.iter().take_while(|&&b| b == b'/' || b == b'\\');
    escape(&path[slashes.count()..], &mut out);
    if out.last() != Some(&b'/') {
        out.push(b'/');
    }
    if let Some(query) =
        query.filter(|q| !q.is_empty() && q.iter().all(|b| (0x21..0x7f).contains(b)))
    {
        out.push(b'?');
        out.extend_from_slice(query);
    }
    out
}

/// Decodes percent escapes of a path an application named (`X-Accel-Redirect`), or `None` when an escape
/// is broken or hides a separator.
pub fn decode(raw: &[u8]) -> Option<Vec<u8>> {
    if has_encoded_separator(raw) {
        return None;
    }
    let mut out = Vec::with_capacity(raw.len());
    let mut bytes = raw.iter().copied();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let high = char::from(bytes.next()?).to_digit(16)?;
        let low = char::from(bytes.next()?).to_digit(16)?;
        out.push(u8::try_from(high * 16 + low).expect("two hex digits fit a byte"));
    }
    Some(out)
}

fn strip_suffix_ignoring_case<'a>(name: &'a [u8], suffix: &[u8]) -> Option<&'a [u8]> {
    let cut = name.len().checked_sub(suffix.len())?;
    name[cut..]
        .eq_ignore_ascii_case(suffix)
        .then_some(&name[..cut])
}

/// Endings of files that hold data or code, never pages. SQLite's side files hold rows too.
const NEVER: [&[u8]; 13] = [
    b".sqlite",
    b".sqlite3",
    b".db",
    b".pyc",
    b".sqlite-wal",
    b".sqlite3-wal",
    b".db-wal",
    b".sqlite-shm",
    b".sqlite3-shm",
    b".db-shm",
    b".sqlite-journal",
    b".sqlite3-journal",
    b".db-journal",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_served_and_names_that_are_not() {
        for (path, expected) in [
            (&b""[..], Ok(())),
            (b"a.css", Ok(())),
            (b"a/b/c.js", Ok(())),
            (b"a/", Ok(())),
            (b".well-known/security.txt", Ok(())),
            (b"\xc3\xa9.txt", Ok(())),
            (b"sqlite", Ok(())),
            (b"a/.well-known/x", Ok(())),
            (b"a//b", Err(Refusal::NotFound)),
            (b"/a", Err(Refusal::NotFound)),
            (b".env", Err(Refusal::NotFound)),
            (b"a/.git/config", Err(Refusal::NotFound)),
            (b"..", Err(Refusal::NotFound)),
            (b"a/../../etc/passwd", Err(Refusal::NotFound)),
            (b".", Err(Refusal::NotFound)),
            (b".well-known2", Err(Refusal::NotFound)),
            (b"auth-keys.csv", Err(Refusal::NotFound)),
            (b"x/Auth-Keys.CSV", Err(Refusal::NotFound)),
            (b"auth-keys.csv.gz", Err(Refusal::NotFound)),
            (b"market.sqlite", Err(Refusal::NotFound)),
            (b"market.sqlite3-wal", Err(Refusal::NotFound)),
            (b"market.db", Err(Refusal::NotFound)),
            (b"m.sqlite/x", Err(Refusal::NotFound)),
            (b"m.pyc", Err(Refusal::NotFound)),
            (b"a\\b", Err(Refusal::BadPath)),
            (b"a\0", Err(Refusal::BadPath)),
            (b"a\x7f", Err(Refusal::BadPath)),
            (b"a\nb", Err(Refusal::BadPath)),
        ] {
            assert_eq!(check(path), expected, "{}", path.escape_ascii());
        }
    }

    #[test]
    fn encoded_separators_are_seen() {
        for raw in [
            &b"/a%2fb"[..],
            b"/a%2Fb",
            b"/%5cx",
            b"/%5C",
            b"/a%00",
            b"/%%2f",
        ] {
            assert!(has_encoded_separator(raw), "{}", raw.escape_ascii());
        }
        for raw in [&b"/a%20b"[..], b"/", b"/%", b"/%2", b"/%252f"] {
            assert!(!has_encoded_separator(raw), "{}", raw.escape_ascii());
        }
    }

    #[test]
    fn a_redirect_stays_on_this_host() {
        for (path, query, expected) in [
            (&b"/docs"[..], None, &b"/docs/"[..]),
            (b"//evil.example/x", None, b"/evil.example/x/"),
            (b"/\\evil.example", None, b"/evil.example/"),
            (b"/a b", Some(&b"q=1"[..]), b"/a%20b/?q=1"),
            (b"/a\r\nX: y", Some(b"q=1\r\nX: y"), b"/a%0D%0AX:%20y/"),
        ] {
            assert_eq!(slash_form(path, query), expected);
        }
    }

    #[test]
    fn decoding_refuses_what_it_cannot_decode() {
        assert_eq!(decode(b"/a%20b").as_deref(), Some(&b"/a b"[..]));
        for broken in [&b"/%"[..], b"/%4", b"/%zz", b"/%2f"] {
            assert_eq!(decode(broken), None);
        }
    }
}
