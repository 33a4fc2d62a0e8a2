//! The access log: one row per request, formatted where the request ended, written elsewhere.
//!
//! It must not know a connection or a worker: whoever ends a request fills in a [`Row`].

use std::borrow::Cow;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use time::UtcOffset;

use super::clock::Clock;
use super::decimal::{self, micros, write as number};
use super::escape;
use super::format::{Atom, Format, Layout, Piece};
use super::json;
use super::output::Target;
use super::request_id;
use super::sink::{Losses, Sink};

/// What is known about a request when it has ended. Unknown byte strings are empty.
#[derive(Clone, Copy)]
pub struct Row<'a> {
    /// When the request ended.
    pub at: SystemTime,
    /// The visitor's address, without a port; empty behind a UNIX socket.
    pub remote: &'a [u8],
    /// Who it was proved to be from.
    pub user: Option<&'a [u8]>,
    pub method: &'a [u8],
    /// The target as typed.
    pub target: &'a [u8],
    /// The path, decoded.
    pub path: &'a [u8],
    /// Without the `?`.
    pub query: &'a [u8],
    /// `HTTP/1.1`
    pub protocol: &'a [u8],
    /// `http` or `https`
    pub scheme: &'a str,
    pub host: &'a [u8],
    pub status: u16,
    /// Bytes of body that were sent, without chunk framing.
    pub sent: u64,
    /// From the first byte of the head to the last byte of the answer.
    pub took: Duration,
    /// In line for a worker.
    pub queue: Option<Duration>,
    /// From dispatch to the response head.
    pub app: Option<Duration>,
    /// From the response head to its last byte.
    pub write: Option<Duration>,
    /// The pid of the worker that answered.
    pub worker: Option<u32>,
    /// The request's number.
    pub id: u64,
    /// The id of the trace that it belongs to.
    pub trace: Option<&'a [u8]>,
    /// Why ostler itself answered or gave up.
    pub reason: Option<&'a str>,
    /// The value of a request header; names are lower-case.
    pub request_header: &'a dyn Fn(&[u8]) -> Option<&'a [u8]>,
    /// The value of a response header; names are lower-case.
    pub response_header: &'a dyn Fn(&[u8]) -> Option<&'a [u8]>,
    /// A variable of WSGI's environ that is not a request header; names are lower-case.
    pub variable: &'a dyn Fn(&[u8]) -> Option<&'a [u8]>,
}

impl<'a> Row<'a> {
    /// A row in which nothing is known, to be filled in with `..Row::unknown()`.
    #[cfg(test)]
    pub fn unknown() -> Row<'a> {
        let none: &'a dyn Fn(&[u8]) -> Option<&'a [u8]> = &|_| None;
        Row {
            at: SystemTime::UNIX_EPOCH,
            remote: b"",
            user: None,
            method: b"",
            target: b"",
            path: b"",
            query: b"",
            protocol: b"",
            scheme: "",
            host: b"",
            status: 0,
            sent: 0,
            took: Duration::ZERO,
            queue: None,
            app: None,
            write: None,
            worker: None,
            id: 0,
            trace: None,
            reason: None,
            request_header: none,
            response_header: none,
            variable: none,
        }
    }
}

impl Row<'_> {
    /// Who sent it; where nobody was asked, the user name of HTTP Basic authentication.
    pub fn user(&self) -> Option<Vec<u8>> {
        if let Some(user) = self.user {
            return Some(user.to_vec());
        }
        let credentials = (self.request_header)(b"authorization")?;
        let (scheme, encoded) = credentials.split_at_checked(6)?;
        if !scheme.eq_ignore_ascii_case(b"basic ") {
            return None;
        }
        let mut user = base64(encoded.trim_ascii())?;
        user.truncate(memchr::memchr(b':', &user).unwrap_or(user.len()));
        (!user.is_empty()).then_some(user)
    }
}

/// The access log; one per server.
#[derive(Clone, Debug)]
pub struct AccessLog {
    format: Arc<Format>,
    sink: Sink,
    offset: UtcOffset,
}

impl AccessLog {
    /// Opens the log and starts its writer. `offset` is the local time's, from [`super::local_offset`].
    ///
    /// Errors: the file's.
    pub fn open(format: Format, target: &Target, offset: UtcOffset) -> io::Result<AccessLog> {
        let sink = Sink::queued(target, GATHER, Box::new(warn))?;
        Ok(AccessLog {
            format: Arc::new(format),
            sink,
            offset,
        })
    }

    /// A writer of rows, for one edge thread.
    pub fn writer(&self) -> AccessWriter {
        AccessWriter {
            format: Arc::clone(&self.format),
            sink: self.sink.clone(),
            clock: Clock::new(self.offset),
            row: Vec::with_capacity(512),
            value: Vec::new(),
        }
    }

    /// The log's end: to reopen after a rotation, to close at the end, to ask for losses.
    pub fn sink(&self) -> &Sink {
        &self.sink
    }
}

/// How long rows are gathered before they are written together. A person who watches the log does not see it.
const GATHER: Duration = Duration::from_millis(20);

fn warn(losses: Losses) -> Vec<u8> {
    let Losses { dropped, failed } = losses;
    tracing::warn!(
        dropped,
        failed,
        "access log: rows are missing because its target was too slow or failed"
    );
    Vec::new()
}

/// Formats rows into a buffer of its own and hands them over.
#[derive(Debug)]
pub struct AccessWriter {
    format: Arc<Format>,
    sink: Sink,
    clock: Clock,
    row: Vec<u8>,
    /// For values with a layout.
    value: Vec<u8>,
}

impl AccessWriter {
    /// Writes one row. Never waits; without room the row is dropped and counted.
    pub fn write(&mut self, row: &Row<'_>) {
        self.row.clear();
        match &*self.format {
            Format::Json => json::row(&mut self.row, row, &mut self.clock),
            Format::Atoms(pieces) => {
                for piece in pieces {
                    match piece {
                        Piece::Literal(bytes) => self.row.extend_from_slice(bytes),
                        Piece::Atom(atom, layout) if *layout == Layout::default() => {
                            write_atom(&mut self.row, atom, row, &mut self.clock);
                        }
                        Piece::Atom(atom, layout) => {
                            self.value.clear();
                            write_atom(&mut self.value, atom, row, &mut self.clock);
                            lay_out(&mut self.row, &self.value, *layout);
                        }
                    }
                }
            }
        }
        self.sink.push(&self.row);
    }
}

fn write_atom(out: &mut Vec<u8>, atom: &Atom, row: &Row<'_>, clock: &mut Clock) {
    match atom {
        Atom::Remote => value(out, row.remote),
        Atom::User => optional(out, row.user().as_deref()),
        Atom::Time => out.extend_from_slice(clock.clf(row.at).as_bytes()),
        Atom::RequestLine => escape::text(out, &request_line(row)),
        Atom::Method => value(out, row.method),
        Atom::Path => value(out, row.path),
        // The one value that gunicorn leaves empty when it is.
        Atom::Query => escape::text(out, row.query),
        Atom::Protocol => value(out, row.protocol),
        Atom::Status => number(out, u64::from(row.status)),
        Atom::Bytes => number(out, row.sent),
        Atom::Seconds => number(out, row.took.as_secs()),
        Atom::Milliseconds => number(out, micros(row.took) / 1000),
        Atom::Microseconds => number(out, micros(row.took)),
        Atom::DecimalSeconds => decimal_seconds(out, row.took),
        Atom::Pid => {
            out.push(b'<');
            number(out, u64::from(row.worker.unwrap_or_else(std::process::id)));
            out.push(b'>');
        }
        Atom::RequestHeader(name) => optional(out, (row.request_header)(name)),
        Atom::ResponseHeader(name) => optional(out, (row.response_header)(name)),
        Atom::Variable(name) if name == b"wsgi.url_scheme" => value(out, row.scheme.as_bytes()),
        Atom::Variable(name) if name == b"raw_uri" => value(out, row.target),
        Atom::Variable(name) => optional(out, (row.variable)(name)),
        Atom::Queue => time(out, row.queue),
        Atom::App => time(out, row.app),
        Atom::Write => time(out, row.write),
        Atom::Worker => match row.worker {
            Some(pid) => number(out, u64::from(pid)),
            None => out.push(b'-'),
        },
        Atom::Id => out.extend_from_slice(request_id(row.id).as_str().as_bytes()),
        Atom::Reason => optional(out, row.reason.map(str::as_bytes)),
        Atom::Nothing => out.push(b'-'),
    }
}

/// `GET /path?query HTTP/1.1`; `-` when not even a method was read.
fn request_line<'a>(row: &Row<'a>) -> Cow<'a, [u8]> {
    if row.method.is_empty() {
        return Cow::Borrowed(b"-");
    }
    Cow::Owned([row.method, b" ", row.target, b" ", row.protocol].concat())
}

fn value(out: &mut Vec<u8>, value: &[u8]) {
    optional(out, (!value.is_empty()).then_some(value));
}

fn optional(out: &mut Vec<u8>, value: Option<&[u8]>) {
    match value {
        Some(value) => escape::text(out, value),
        None => out.push(b'-'),
    }
}

fn time(out: &mut Vec<u8>, time: Option<Duration>) {
    match time {
        Some(time) => number(out, micros(time)),
        None => out.push(b'-'),
    }
}

fn decimal_seconds(out: &mut Vec<u8>, time: Duration) {
    number(out, time.as_secs());
    out.push(b'.');
    decimal::padded(out, time.subsec_micros());
}

/// Python's width and precision, in bytes (escaped values are ASCII).
fn lay_out(out: &mut Vec<u8>, value: &[u8], layout: Layout) {
    let value = &value[..layout.precision.unwrap_or(value.len()).min(value.len())];
    let padding = layout.width.saturating_sub(value.len());
    let numeric = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    let fill = if layout.zero && !layout.left && numeric {
        b'0'
    } else {
        b' '
    };
    if !layout.left {
        out.resize(out.len() + padding, fill);
    }
    out.extend_from_slice(value);
    if layout.left {
        out.resize(out.len() + padding, fill);
    }
}

/// Decodes base64 with or without padding; `None` for anything else.
pub fn base64(encoded: &[u8]) -> Option<Vec<u8>> {
    let end = encoded
        .iter()
        .position(|&b| b == b'=')
        .unwrap_or(encoded.len());
    let (digits, padding) = encoded.split_at(end);
    if padding.len() > 2 || padding.iter().any(|&b| b != b'=') || digits.len() % 4 == 1 {
        return None;
    }
    let mut out = Vec::with_capacity(digits.len() * 3 / 4);
    for quad in digits.chunks(4) {
        let mut bits: u32 = 0;
        for index in 0..4 {
            let sextet = match quad.get(index) {
                None => 0,
                Some(letter @ b'A'..=b'Z') => letter - b'A',
                Some(letter @ b'a'..=b'z') => letter - b'a' + 26,
                Some(digit @ b'0'..=b'9') => digit - b'0' + 52,
                Some(b'+') => 62,
                Some(b'/') => 63,
                Some(_) => return None,
            };
            bits = bits << 6 | u32::from(sextet);
        }
        let [_, bytes @ ..] = bits.to_be_bytes();
        out.extend_from_slice(&bytes[..quad.len() * 6 / 8]);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::format::DEFAULT_FORMAT;
    use super::super::scratch::Scratch;
    use super::*;

    const REQUEST: &[(&[u8], &[u8])] = &[
        (b"referer", b"https://example.org/\"x"),
        (b"user-agent", b"Mozilla/5.0\r\nforged"),
        (b"x-forwarded-for", b"10.0.0.1"),
        (b"authorization", b"Basic YWRhOnNlY3JldA=="),
        (b"content-type", b"text/plain"),
    ];
    const RESPONSE: &[(&[u8], &[u8])] = &[(b"location", b"/there")];

    fn find(fields: &'static [(&[u8], &[u8])], name: &[u8]) -> Option<&'static [u8]> {
        fields
            .iter()
            .find(|(field, _)| *field == name)
            .map(|(_, value)| *value)
    }

    fn full() -> Row<'static> {
        Row {
            at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_224_225),
            remote: b"192.0.2.7",
            user: None,
            method: b"GET",
            target: b"/a%20b?x=1",
            path: b"/a b",
            query: b"x=1",
            protocol: b"HTTP/1.1",
            scheme: "https",
            host: b"example.org",
            status: 302,
            sent: 1234,
            took: Duration::from_micros(2_001_234),
            queue: Some(Duration::from_micros(7)),
            app: Some(Duration::from_millis(2)),
            write: None,
            worker: Some(4711),
            id: 0xfeed,
            trace: None,
            reason: None,
            request_header: &|name| find(REQUEST, name),
            response_header: &|name| find(RESPONSE, name),
            variable: &|name| (name == b"server_name").then_some(b"here"),
        }
    }

    /// Writes rows through a real log into a file and reads them back.
    fn written(format: &str, rows: &[Row<'_>]) -> String {
        let scratch = Scratch::new("access");
        let target = Target::Path(scratch.path("log"));
        let log =
            AccessLog::open(Format::compile(format).unwrap(), &target, UtcOffset::UTC).unwrap();
        let mut writer = log.writer();
        for row in rows {
            writer.write(row);
        }
        assert!(log.sink().close(Duration::from_secs(20)));
        std::fs::read_to_string(scratch.path("log")).unwrap()
    }

    #[test]
    fn every_atom() {
        for (format, full_row, bare_row) in [
            ("%(h)s", "192.0.2.7", "-"),
            ("%(l)s", "-", "-"),
            ("%(u)s", "ada", "-"),
            (
                "%(t)s",
                "[21/Nov/2026:01:23:45 +0000]",
                "[01/Jan/1970:00:00:00 +0000]",
            ),
            ("%(r)s", "GET /a%20b?x=1 HTTP/1.1", "-"),
            ("%(m)s", "GET", "-"),
            ("%(U)s", "/a b", "-"),
            ("%(q)s", "x=1", ""),
            ("%(H)s", "HTTP/1.1", "-"),
            ("%(s)s", "302", "0"),
            ("%(b)s", "1234", "0"),
            ("%(B)d", "1234", "0"),
            ("%(f)s", r#"https://example.org/\"x"#, "-"),
            ("%(a)s", r"Mozilla/5.0\x0d\x0aforged", "-"),
            ("%(T)s", "2", "0"),
            ("%(M)s", "2001", "0"),
            ("%(D)s", "2001234", "0"),
            ("%(L)s", "2.001234", "0.000000"),
            ("%(p)s", "<4711>", &format!("<{}>", std::process::id())),
            ("%({X-Forwarded-For}i)s", "10.0.0.1", "-"),
            ("%({none}i)s", "-", "-"),
            ("%({Location}o)s", "/there", "-"),
            ("%({CONTENT_TYPE}e)s", "text/plain", "-"),
            ("%({HTTP_X_FORWARDED_FOR}e)s", "10.0.0.1", "-"),
            ("%({SERVER_NAME}e)s", "here", "-"),
            ("%({wsgi.url_scheme}e)s", "https", "-"),
            ("%({RAW_URI}e)s", "/a%20b?x=1", "-"),
            ("%({queue}x)s", "7", "-"),
            ("%({app}x)s", "2000", "-"),
            ("%({write}x)s", "-", "-"),
            ("%({worker}x)s", "4711", "-"),
            ("%({id}x)s", "000000000000feed", "0000000000000000"),
            ("%({reason}x)s", "-", "-"),
            ("%(what)s", "-", "-"),
            (
                "%(s)6s|%(s)-6s|%(s)06d|%(m).2s",
                "   302|302   |000302|GE",
                "     0|0     |000000|-",
            ),
            ("100%%", "100%", "100%"),
        ] {
            assert_eq!(
                written(format, &[full()]),
                format!("{full_row}\n"),
                "{format}"
            );
            assert_eq!(
                written(format, &[Row::unknown()]),
                format!("{bare_row}\n"),
                "{format}"
            );
        }
    }

    #[test]
    fn the_default_row() {
        let expected = "192.0.2.7 - ada [21/Nov/2026:01:23:45 +0000] \"GET /a%20b?x=1 HTTP/1.1\" 302 1234 \
                        \"https://example.org/\\\"x\" \"Mozilla/5.0\\x0d\\x0aforged\"\n";
        assert_eq!(
            written(DEFAULT_FORMAT, &[full(), full()]),
            expected.repeat(2)
        );
    }

    #[test]
    fn the_json_row() {
        let row = Row {
            reason: Some("line_full"),
            ..full()
        };
        let seen: serde_json::Value = serde_json::from_str(&written("json", &[row])).unwrap();
        let expected = serde_json::json!({
            "time": "2026-11-21T01:23:45.000000Z", "id": "000000000000feed", "remote": "192.0.2.7",
            "user": "ada", "method": "GET", "scheme": "https", "host": "example.org",
            "target": "/a%20b?x=1", "protocol": "HTTP/1.1", "status": 302, "bytes": 1234,
            "duration_us": 2001234, "queue_us": 7, "app_us": 2000, "worker": 4711, "reason": "line_full",
            "referer": "https://example.org/\"x", "user_agent": "Mozilla/5.0\r\nforged",
        });
        assert_eq!(seen, expected);
        let bare: serde_json::Value =
            serde_json::from_str(&written("json", &[Row::unknown()])).unwrap();
        assert_eq!(bare["status"], 0);
        assert!(bare.get("remote").is_none() && bare.get("queue_us").is_none());
    }

    #[test]
    fn users_of_basic_authentication() {
        for (credentials, expected) in [
            (&b"Basic YWRhOnNlY3JldA=="[..], Some(&b"ada"[..])),
            (b"basic YWRhOnNlY3JldA", Some(b"ada")),
            (b"BASIC  YWRh", Some(b"ada")),
            (b"Basic OnNlY3JldA==", None),
            (b"Basic !!!!", None),
            (b"Basic A", None),
            (b"Basic YW=Rh", None),
            (b"Basic", None),
            (b"Bearer YWRhOnNlY3JldA==", None),
            (b"", None),
        ] {
            let header = |_: &[u8]| Some(credentials);
            let row = Row {
                request_header: &header,
                ..Row::unknown()
            };
            assert_eq!(
                row.user().as_deref(),
                expected,
                "{}",
                credentials.escape_ascii()
            );
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_row_is_one_line_whatever_the_visitor_sends(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let header = |_: &[u8]| Some(&bytes[..]);
            let row = Row {
                remote: &bytes, user: Some(&bytes), method: &bytes, target: &bytes, path: &bytes, query: &bytes, protocol: &bytes,
                host: &bytes, request_header: &header, response_header: &header, variable: &header, ..Row::unknown()
            };
            for format in ["json", DEFAULT_FORMAT, "%(U)s %(q)s %({x}i)s %({y}o)s %({z}e)s %(H)s"] {
                let seen = written(format, &[row]);
                prop_assert_eq!(seen.bytes().filter(|b| *b < 0x20 || *b == 0x7f).count(), 1);
                prop_assert!(seen.ends_with('\n'));
            }
        }
    }
}
