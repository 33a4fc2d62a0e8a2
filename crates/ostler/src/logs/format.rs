//! gunicorn's access log format, compiled once: `%(h)s %(l)s ...` into pieces.
//!
//! It must not know where values come from.
//!
//! | atom | value |
//! |---|---|
//! | `h` | the visitor's address |
//! | `l` | `-` |
//! | `u` | the user of HTTP Basic authentication |
//! | `t` | the time the answer ended, `[21/Nov/2026:01:23:45 +0000]` |
//! | `r` | method, target as typed, protocol |
//! | `m` `U` `q` `H` | method, decoded path, query, protocol |
//! | `s` | status |
//! | `B` `b` | bytes of body sent |
//! | `f` `a` | `Referer`, `User-Agent` |
//! | `T` `M` `D` `L` | time of the whole request: seconds, milliseconds, microseconds, `0.001234` |
//! | `p` | `<pid>` of the worker that answered, of ostler when none did |
//! | `{name}i` `{name}o` `{name}e` | request header, response header, environment variable |
//! | `{queue}x` | ours: microseconds in line for a worker |
//! | `{app}x` | ours: microseconds from dispatch to the response head |
//! | `{write}x` | ours: microseconds from the response head to its last byte |
//! | `{worker}x` | ours: the worker's pid |
//! | `{id}x` | ours: the request's number, 16 hexadecimal digits |
//! | `{reason}x` | ours: why ostler answered itself |
//!
//! Whatever is not there is `-`, as are atoms that nobody knows.

use std::fmt;

/// gunicorn's default.
#[cfg(test)]
pub const DEFAULT_FORMAT: &str = r#"%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s""#;

/// How a row is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Format {
    /// A text row in atoms.
    Atoms(Vec<Piece>),
    /// One JSON object.
    Json,
}

/// A part of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    Literal(Vec<u8>),
    Atom(Atom, Layout),
}

/// A value of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Atom {
    Remote,
    User,
    Time,
    RequestLine,
    Method,
    Path,
    Query,
    Protocol,
    Status,
    Bytes,
    Seconds,
    Milliseconds,
    Microseconds,
    DecimalSeconds,
    Pid,
    /// Lower-case name.
    RequestHeader(Vec<u8>),
    /// Lower-case name.
    ResponseHeader(Vec<u8>),
    /// Lower-case name of something in WSGI's environ that is not a request header.
    Variable(Vec<u8>),
    Queue,
    App,
    Write,
    Worker,
    Id,
    Reason,
    /// Always `-`.
    Nothing,
}

/// Python's `%-10.3s`: how wide a value is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    pub left: bool,
    pub zero: bool,
    pub width: usize,
    pub precision: Option<usize>,
}

/// A format that cannot be compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormatError {
    /// Byte offset of the `%`.
    pub at: usize,
    pub what: &'static str,
}

impl fmt::Display for FormatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hint = "hint: atoms look like %(h)s, a percent sign like %%";
        write!(
            f,
            "access log format: {} at byte {}; {hint}",
            self.what, self.at
        )
    }
}

impl std::error::Error for FormatError {}

impl Format {
    /// Compiles a format string; the word `json` alone asks for JSON.
    pub fn compile(format: &str) -> Result<Format, FormatError> {
        if format.trim().eq_ignore_ascii_case("json") {
            return Ok(Format::Json);
        }
        let mut pieces = Vec::new();
        let mut literal = Vec::new();
        let mut rest = format.as_bytes();
        while let Some(at) = memchr::memchr(b'%', rest) {
            let offset = format.len() - rest.len() + at;
            literal.extend_from_slice(&rest[..at]);
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix(b"%") {
                literal.push(b'%');
                rest = after;
                continue;
            }
            if !literal.is_empty() {
                pieces.push(Piece::Literal(std::mem::take(&mut literal)));
            }
            let (piece, after) =
                conversion(rest).map_err(|what| FormatError { at: offset, what })?;
            pieces.push(piece);
            rest = after;
        }
        literal.extend_from_slice(rest);
        literal.push(b'\n');
        pieces.push(Piece::Literal(literal));
        Ok(Format::Atoms(pieces))
    }
}

/// What follows a `%`: `(name)`, then Python's flags, width, precision and letter.
fn conversion(rest: &[u8]) -> Result<(Piece, &[u8]), &'static str> {
    let rest = rest
        .strip_prefix(b"(")
        .ok_or("a % that is not followed by (name)")?;
    let end = memchr::memchr(b')', rest).ok_or("a name without its closing parenthesis")?;
    let atom = Atom::named(&rest[..end]);
    let mut rest = &rest[end + 1..];
    let mut layout = Layout::default();
    while let Some((flag @ (b'-' | b'0' | b' ' | b'+' | b'#'), after)) = rest.split_first() {
        layout.left |= *flag == b'-';
        layout.zero |= *flag == b'0';
        rest = after;
    }
    (layout.width, rest) = digits(rest)?;
    if let Some(after) = rest.strip_prefix(b".") {
        let (precision, after) = digits(after)?;
        layout.precision = Some(precision);
        rest = after;
    }
    match rest.split_first() {
        Some((b's' | b'd' | b'i' | b'u' | b'r' | b'a', after)) => {
            Ok((Piece::Atom(atom, layout), after))
        }
        _ => Err("a name that is not followed by s or d"),
    }
}

fn digits(rest: &[u8]) -> Result<(usize, &[u8]), &'static str> {
    let end = rest
        .iter()
        .position(|b| !b.is_ascii_digit())
        .unwrap_or(rest.len());
    let number = rest[..end].iter().try_fold(0usize, |number, digit| {
        let number = number * 10 + usize::from(digit - b'0');
        (number <= MAX_WIDTH).then_some(number)
    });
    Ok((number.ok_or("a width above 1000")?, &rest[end..]))
}

/// Wider columns help nobody and would let one row fill the log's buffer.
const MAX_WIDTH: usize = 1000;

impl Atom {
    fn named(name: &[u8]) -> Atom {
        if let Some((inner, kind)) = braced(name) {
            return Atom::braced(inner.to_ascii_lowercase(), kind);
        }
        match name {
            b"h" => Atom::Remote,
            b"u" => Atom::User,
            b"t" => Atom::Time,
            b"r" => Atom::RequestLine,
            b"s" => Atom::Status,
            b"m" => Atom::Method,
            b"U" => Atom::Path,
            b"q" => Atom::Query,
            b"H" => Atom::Protocol,
            b"b" | b"B" => Atom::Bytes,
            b"f" => Atom::RequestHeader(b"referer".to_vec()),
            b"a" => Atom::RequestHeader(b"user-agent".to_vec()),
            b"T" => Atom::Seconds,
            b"M" => Atom::Milliseconds,
            b"D" => Atom::Microseconds,
            b"L" => Atom::DecimalSeconds,
            b"p" => Atom::Pid,
            _ => Atom::Nothing,
        }
    }

    fn braced(name: Vec<u8>, kind: u8) -> Atom {
        match kind {
            b'i' => Atom::RequestHeader(name),
            b'o' => Atom::ResponseHeader(name),
            b'e' => Atom::variable(name),
            b'x' => match &name[..] {
                b"queue" => Atom::Queue,
                b"app" => Atom::App,
                b"write" => Atom::Write,
                b"worker" => Atom::Worker,
                b"id" => Atom::Id,
                b"reason" => Atom::Reason,
                _ => Atom::Nothing,
            },
            _ => Atom::Nothing,
        }
    }

    /// Environ variables that are something else under another name.
    fn variable(name: Vec<u8>) -> Atom {
        match &name[..] {
            b"remote_addr" => Atom::Remote,
            b"request_method" => Atom::Method,
            b"path_info" => Atom::Path,
            b"query_string" => Atom::Query,
            b"server_protocol" => Atom::Protocol,
            b"content_type" | b"content_length" => Atom::RequestHeader(dashed(&name)),
            _ => match name.strip_prefix(b"http_") {
                Some(header) => Atom::RequestHeader(dashed(header)),
                None => Atom::Variable(name),
            },
        }
    }
}

/// `{name}k` → `name` and `k`.
fn braced(name: &[u8]) -> Option<(&[u8], u8)> {
    let (kind, rest) = name.split_last()?;
    let inner = rest.strip_prefix(b"{")?.strip_suffix(b"}")?;
    Some((inner, *kind))
}

fn dashed(name: &[u8]) -> Vec<u8> {
    name.iter()
        .map(|&b| if b == b'_' { b'-' } else { b })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn atoms(format: &str) -> Vec<Atom> {
        let Ok(Format::Atoms(pieces)) = Format::compile(format) else {
            panic!("{format}")
        };
        let atom = |piece| match piece {
            Piece::Atom(atom, _) => Some(atom),
            Piece::Literal(_) => None,
        };
        pieces.into_iter().filter_map(atom).collect()
    }

    #[test]
    fn names_become_atoms() {
        let header = |name: &str| Atom::RequestHeader(name.as_bytes().to_vec());
        for (format, expected) in [
            ("%(h)s", Atom::Remote),
            ("%(l)s", Atom::Nothing),
            ("%(nonsense)s", Atom::Nothing),
            ("%()s", Atom::Nothing),
            ("%({})s", Atom::Nothing),
            ("%({X-Forwarded-For}i)s", header("x-forwarded-for")),
            (
                "%({Location}o)s",
                Atom::ResponseHeader(b"location".to_vec()),
            ),
            ("%({REMOTE_ADDR}e)s", Atom::Remote),
            ("%({HTTP_X_REQUEST_ID}e)s", header("x-request-id")),
            ("%({CONTENT_TYPE}e)s", header("content-type")),
            (
                "%({wsgi.url_scheme}e)s",
                Atom::Variable(b"wsgi.url_scheme".to_vec()),
            ),
            ("%({queue}x)d", Atom::Queue),
            ("%({what}x)s", Atom::Nothing),
            ("%({a}z)s", Atom::Nothing),
        ] {
            assert_eq!(atoms(format), [expected], "{format}");
        }
        assert_eq!(atoms(DEFAULT_FORMAT).len(), 9);
    }

    #[test]
    fn literals_and_layouts() {
        let Ok(Format::Atoms(pieces)) = Format::compile("a%%b%(s)-8.3sc") else {
            panic!()
        };
        let layout = Layout {
            left: true,
            zero: false,
            width: 8,
            precision: Some(3),
        };
        let expected = [
            Piece::Literal(b"a%b".to_vec()),
            Piece::Atom(Atom::Status, layout),
            Piece::Literal(b"c\n".to_vec()),
        ];
        assert_eq!(pieces, expected);
        assert_eq!(Format::compile(" JSON "), Ok(Format::Json));
    }

    #[test]
    fn faults_are_told_with_their_place() {
        for (format, at) in [
            ("%h", 0),
            ("ok %(h", 3),
            ("%(h)", 0),
            ("%(h)x", 0),
            ("%(h)9999s", 0),
            ("%(h)s %", 6),
            ("%(h).s %(h)99999999999999999999999s", 7),
        ] {
            let error = Format::compile(format).unwrap_err();
            assert_eq!(error.at, at, "{format}");
            assert!(error.to_string().contains("hint:"));
        }
    }
}
