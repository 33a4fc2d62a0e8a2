//! The request head, strictly: bytes in, a checked [`Head`] or the reason to refuse it out.
//!
//! The raw bytes are checked first (bare CR and LF, NUL, controls), because a tokeniser forgives what
//! others read differently; then they are cut here, at single spaces, colons and CRLF; then framing,
//! host and target are decided once, for everybody behind us (threats 0.1, E-01 to E-10).

use super::bytes::{decimal, find_control, is_token, trim};
use super::host::Authority;
use super::names;
use super::target::{Form, Target};
use crate::edge::reason::Reason;

/// How long a head and its parts may be.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of the request line: 8,190, as of a field.
    pub line: usize,
    /// Header fields: 100.
    pub fields: usize,
    /// Bytes of one field, name and value: 8,190.
    pub field: usize,
    /// Bytes of the whole head: 32 KiB, at most [`HEAD_MAX`].
    pub total: usize,
    /// Refuse names with `_` instead of leaving them out.
    pub refuse_underscores: bool,
}

/// The longest head that any setting allows, in bytes: a worker's frame holds texts up to 64 KiB.
pub const HEAD_MAX: usize = 60 * 1024;

/// The start of HTTP/2 with prior knowledge (RFC 9113 section 3.4).
const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n";

impl Limits {
    fn total(&self) -> usize {
        self.total.min(HEAD_MAX)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            line: 8190,
            fields: 100,
            field: 8190,
            total: 32 * 1024,
            refuse_underscores: false,
        }
    }
}

/// What [`parse`] made of the bytes so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// The head's end is not there yet.
    Partial,
    /// The head took this many bytes.
    Complete { consumed: usize },
}

/// Where the body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Framing {
    #[default]
    None,
    /// Bytes.
    Length(u64),
    Chunked,
    /// Until its stream ends (HTTP/2).
    UntilEnd,
}

/// One header field as ranges into the head's bytes.
#[derive(Debug, Clone, Copy)]
struct Field {
    id: u8,
    /// Hop-by-hop, or named in `Connection`: for us alone.
    hop: bool,
    name: (u16, u16),
    value: (u16, u16),
}

/// A checked request head; reused from request to request.
#[derive(Debug, Default)]
pub struct Head {
    bytes: Vec<u8>,
    method: (u16, u16),
    target_at: (u16, u16),
    target: Target,
    fields: Vec<Field>,
    version: u8,
    framing: Framing,
    keep_alive: bool,
    expect_continue: bool,
    asks_websocket: bool,
    websocket: bool,
    host: Vec<u8>,
    port: Option<u16>,
    /// How far an incomplete head was searched for its end.
    searched: usize,
    /// Names with `_` that were left out.
    dropped: u32,
    /// The value of `SCRIPT_NAME`, which is no field for the app.
    script_name: Option<(u16, u16)>,
}

impl Head {
    fn text(&self, (from, to): (u16, u16)) -> &[u8] {
        &self.bytes[usize::from(from)..usize::from(to)]
    }

    /// As sent; a token.
    pub fn method(&self) -> &[u8] {
        self.text(self.method)
    }

    /// As sent.
    pub fn target(&self) -> &[u8] {
        self.text(self.target_at)
    }

    /// Percent-decoded, dot segments resolved.
    pub fn path(&self) -> &[u8] {
        self.target.path(self.text(self.target_at))
    }

    /// The path as it was sent; empty where an absolute target has none.
    pub fn raw_path(&self) -> &[u8] {
        self.target.raw_path(self.target())
    }

    /// Raw, without the `?`.
    pub fn query(&self) -> &[u8] {
        self.target.query(self.text(self.target_at))
    }

    /// 10, 11 or 20; 0 before the first head.
    pub fn version(&self) -> u8 {
        self.version
    }

    pub fn framing(&self) -> Framing {
        self.framing
    }

    pub fn keep_alive(&self) -> bool {
        self.keep_alive
    }

    pub fn expect_continue(&self) -> bool {
        self.expect_continue
    }

    /// `Connection` and `Upgrade` ask for a WebSocket; the rest of the handshake may be wrong.
    pub fn asks_websocket(&self) -> bool {
        self.asks_websocket
    }

    /// A WebSocket opening handshake (RFC 6455 section 4.2.1).
    pub fn is_websocket(&self) -> bool {
        self.websocket
    }

    /// The host asked for: lower case, without port and trailing dot. Empty when a client of HTTP/1.0
    /// named none.
    pub fn host(&self) -> &[u8] {
        &self.host
    }

    /// The port in the host, if one was written.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// Host and port as they were written: in the Host field, else in an absolute target.
    pub fn authority(&self) -> Option<&[u8]> {
        let asked = || self.target.authority(self.target());
        self.field(b"host")
            .or_else(|| Some(asked()).filter(|asked| !asked.is_empty()))
    }

    /// Asking twice does no more than asking once (RFC 9110 section 9.2.2).
    pub fn is_idempotent(&self) -> bool {
        matches!(
            self.method(),
            b"GET" | b"HEAD" | b"OPTIONS" | b"PUT" | b"DELETE" | b"TRACE"
        )
    }

    /// The value of the first field with this lower-case name.
    pub fn field(&self, name: &[u8]) -> Option<&[u8]> {
        self.fields_named(name).next()
    }

    /// The values of all fields with this lower-case name, in order.
    pub fn fields_named<'h>(&'h self, name: &[u8]) -> impl DoubleEndedIterator<Item = &'h [u8]> {
        let id = names::find(name);
        self.fields
            .iter()
            .filter(move |field| field.id == id && (id != 0 || self.text(field.name) == name))
            .map(|field| self.text(field.value))
    }

    /// The value of a field `SCRIPT_NAME`: a proxy says by it where the app is mounted. It is for
    /// whoever knows the proxy, and never among [`Self::fields`].
    pub fn script_name(&self) -> Option<&[u8]> {
        self.script_name.map(|value| self.text(value))
    }

    /// Fields that are for the app, in order: id, lower-case name, value. Not hop-by-hop ones.
    pub fn fields(&self) -> impl Iterator<Item = (u8, &[u8], &[u8])> + Clone {
        let for_app = self.fields.iter().filter(|field| !field.hop);
        for_app.map(|field| (field.id, self.text(field.name), self.text(field.value)))
    }
}

/// Reads one head from the start of `buf`. After [`Progress::Partial`] call it again with the same
/// bytes and more.
///
/// # Errors
/// The reason to refuse; `head` is then not to be used.
pub fn parse(buf: &[u8], limits: &Limits, head: &mut Head) -> Result<Progress, Reason> {
    // One empty line before the request is forgiven (RFC 9112 section 2.2).
    let skip = if buf.starts_with(b"\r\n") { 2 } else { 0 };
    let buf = &buf[skip..];
    let from = head.searched.min(buf.len()).saturating_sub(3);
    let Some(end) = memchr::memmem::find(&buf[from..], b"\r\n\r\n").map(|at| from + at + 4) else {
        if let Some(reason) = early(buf, head.searched.min(buf.len()), limits) {
            return Err(reason);
        }
        head.searched = buf.len();
        return Ok(Progress::Partial);
    };
    head.searched = 0;
    let whole = &buf[..end];
    // Of two offences the one that comes first is named, however the bytes were cut into packets.
    let first = |reason| early(whole, 0, limits).unwrap_or(reason);
    if end > limits.total() {
        return Err(first(Reason::HeadTooLarge));
    }
    check_lines(whole, limits).map_err(first)?;
    head.bytes.clear();
    head.bytes.extend_from_slice(whole);
    head.read(limits)?;
    Ok(Progress::Complete {
        consumed: skip + end,
    })
}

/// Reads the head of an HTTP/2 stream, which `text` holds in the form of HTTP/1.1, so that both are
/// judged by the same rules. `ends`: no body follows.
///
/// # Errors
/// The reason to refuse.
pub fn from_http2(text: Vec<u8>, ends: bool, limits: &Limits) -> Result<Head, Reason> {
    if text.len() > limits.total() {
        return Err(Reason::HeadTooLarge);
    }
    check_lines(&text, limits)?;
    let mut head = Head {
        bytes: text,
        ..Head::default()
    };
    head.read(limits)?;
    head.version = 20;
    if !ends && head.framing == Framing::None && !head.asks_websocket {
        head.framing = Framing::UntilEnd;
    }
    Ok(head)
}

/// What is refused before the head is whole, because waiting longer would help nobody: the offence
/// that shows first in `buf`, whose first `searched` bytes held none.
fn early(buf: &[u8], searched: usize, limits: &Limits) -> Option<Reason> {
    let mut first: Option<(usize, Reason)> = None;
    let mut found = |at: usize, reason| {
        if first.is_none_or(|(before, _)| at < before) {
            first = Some((at, reason));
        }
    };
    if let [0x16, 0x03, ..] = buf {
        found(2, Reason::TlsOnPlain);
    }
    if buf.starts_with(HTTP2) {
        found(HTTP2.len(), Reason::Http2Preface);
    }
    if let Some((at, reason)) = bare_line_end(buf, searched.saturating_sub(1)) {
        found(at, reason);
    }
    let line = memchr::memchr(b'\n', buf);
    if line.unwrap_or(buf.len()) > limits.line + 1 {
        found(limits.line + 2, Reason::RequestLineTooLong);
    }
    if let Some(at) = line
        && !names_version(&buf[..at])
    {
        // HTTP/0.9: nothing else comes.
        found(at + 1, Reason::RequestLine);
    }
    if buf.len() > limits.total() {
        found(limits.total() + 1, Reason::HeadTooLarge);
    }
    first.map(|(_, reason)| reason)
}

/// The first half of a line end behind `from`, and how many bytes show it.
fn bare_line_end(buf: &[u8], from: usize) -> Option<(usize, Reason)> {
    memchr::memchr2_iter(b'\r', b'\n', &buf[from..]).find_map(|at| {
        let at = from + at;
        match buf[at] {
            b'\n' if at == 0 || buf[at - 1] != b'\r' => Some((at + 1, Reason::BareLf)),
            b'\r' if buf.get(at + 1).is_some_and(|&next| next != b'\n') => {
                Some((at + 2, Reason::BareCr))
            }
            _ => None,
        }
    })
}

/// Whether a request line says which HTTP it speaks, rightly or not.
fn names_version(line: &[u8]) -> bool {
    memchr::memmem::find(line, b" HTTP/").is_some()
}

/// Raw bytes: each line ends in CRLF, nothing else is a CR, LF, NUL or control, and none is longer
/// than allowed.
fn check_lines(head: &[u8], limits: &Limits) -> Result<(), Reason> {
    let mut rest = head;
    let mut first = true;
    while let Some(at) = memchr::memchr(b'\n', rest) {
        if at == 0 || rest[at - 1] != b'\r' {
            return Err(Reason::BareLf);
        }
        let line = &rest[..at - 1];
        if let Some(bad) = find_control(line) {
            return Err(match line[bad] {
                0 => Reason::Nul,
                b'\r' => Reason::BareCr,
                _ => Reason::Control,
            });
        }
        match first {
            true if line.len() > limits.line => return Err(Reason::RequestLineTooLong),
            false if line.len() > limits.field => return Err(Reason::FieldTooLong),
            false
                if line
                    .first()
                    .is_some_and(|byte| matches!(byte, b' ' | b'\t')) =>
            {
                return Err(Reason::ObsFold);
            }
            _ => first = false,
        }
        rest = &rest[at + 1..];
    }
    Ok(())
}

impl Head {
    fn read(&mut self, limits: &Limits) -> Result<(), Reason> {
        if self.bytes.starts_with(HTTP2) {
            return Err(Reason::Http2Preface);
        }
        let line_end = memchr::memmem::find(&self.bytes, b"\r\n").ok_or(Reason::RequestLine)?;
        self.read_line(line_end).map_err(|reason| {
            if names_version(&self.bytes[..line_end]) {
                reason
            } else {
                Reason::RequestLine
            }
        })?;
        self.read_fields(line_end + 2, limits)?;
        self.decide_host()?;
        self.decide_framing()?;
        self.decide_connection()
    }

    /// `method SP target SP version`, one space each.
    fn read_line(&mut self, end: usize) -> Result<(), Reason> {
        let line = &self.bytes[..end];
        let first = memchr::memchr(b' ', line).ok_or(Reason::RequestLine)?;
        let second =
            memchr::memchr(b' ', &line[first + 1..]).ok_or(Reason::RequestLine)? + first + 1;
        let (method, target, version) = (
            &line[..first],
            &line[first + 1..second],
            &line[second + 1..],
        );
        if !is_token(method) {
            return Err(Reason::MethodToken);
        }
        self.version = match version {
            b"HTTP/1.1" => 11,
            b"HTTP/1.0" => 10,
            [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
                if major.is_ascii_digit() && minor.is_ascii_digit() =>
            {
                return Err(Reason::Version);
            }
            _ => return Err(Reason::RequestLine),
        };
        if matches!(method, b"CONNECT" | b"TRACE") {
            return Err(Reason::Method);
        }
        if target.is_empty() || target.contains(&b'\t') {
            return Err(Reason::Target);
        }
        self.target.parse(target, method == b"OPTIONS")?;
        self.method = (0, first as u16);
        self.target_at = (first as u16 + 1, second as u16);
        Ok(())
    }

    /// Cuts the fields, lower-cases their names in place, and leaves out what never reaches an app.
    fn read_fields(&mut self, from: usize, limits: &Limits) -> Result<(), Reason> {
        self.fields.clear();
        (self.dropped, self.script_name) = (0, None);
        let mut at = from;
        while self.bytes[at] != b'\r' {
            let length = memchr::memchr(b'\r', &self.bytes[at..]).ok_or(Reason::FieldLine)?;
            let line = &self.bytes[at..at + length];
            let colon = memchr::memchr(b':', line).ok_or(Reason::FieldLine)?;
            let name = &line[..colon];
            if !is_token(name) {
                return Err(match name {
                    [.., b' ' | b'\t'] => Reason::SpaceBeforeColon,
                    _ => Reason::FieldName,
                });
            }
            let value = trim(&line[colon + 1..]);
            let value_at = at + (value.as_ptr() as usize - line.as_ptr() as usize);
            let value_at = (value_at as u16, (value_at + value.len()) as u16);
            self.bytes[at..at + colon].make_ascii_lowercase();
            self.add_field(at, colon, value_at, limits)?;
            at += length + 2;
        }
        Ok(())
    }

    fn add_field(
        &mut self,
        at: usize,
        len: usize,
        value: (u16, u16),
        limits: &Limits,
    ) -> Result<(), Reason> {
        let name = &self.bytes[at..at + len];
        if name.contains(&b'_') {
            // Frameworks turn `-` into `_`: two spellings of one name would meet different checks.
            self.dropped += 1;
            if name == b"script_name" && self.script_name.replace(value).is_some() {
                return Err(Reason::FieldDuplicate);
            }
            return if limits.refuse_underscores {
                Err(Reason::UnderscoreName)
            } else {
                Ok(())
            };
        }
        if name == b"proxy" {
            // httpoxy, CVE-2016-5385: it would become the variable HTTP_PROXY.
            self.dropped += 1;
            return Ok(());
        }
        let id = names::find(name);
        let name_at = (at as u16, (at + len) as u16);
        if self.fields.len() >= limits.fields {
            return Err(Reason::TooManyFields);
        }
        let duplicate = matches!(id, names::CONTENT_TYPE | names::AUTHORIZATION)
            && self.fields.iter().any(|field| field.id == id);
        if duplicate {
            return Err(Reason::FieldDuplicate);
        }
        let hop = matches!(
            id,
            names::CONNECTION
                | names::KEEP_ALIVE
                | names::TE
                | names::TRANSFER_ENCODING
                | names::UPGRADE
                | names::EXPECT
                | names::CONTENT_LENGTH
        ) || matches!(name, b"trailer" | b"proxy-connection" | b"http2-settings");
        self.fields.push(Field {
            id,
            hop,
            name: name_at,
            value,
        });
        Ok(())
    }

    /// All values of a known field.
    fn values(&self, id: u8) -> impl Iterator<Item = &[u8]> {
        self.fields
            .iter()
            .filter(move |field| field.id == id)
            .map(|field| self.text(field.value))
    }

    /// At most one valid host, which HTTP/1.1 requires; an absolute target must name the same one, and
    /// names the host where a client of HTTP/1.0 sent no field (threats E-08).
    fn decide_host(&mut self) -> Result<(), Reason> {
        let mut hosts = self.values(names::HOST);
        let written = hosts.next();
        if hosts.next().is_some() {
            return Err(Reason::HostDuplicate);
        }
        drop(hosts);
        if written.is_none() && self.version >= 11 {
            return Err(Reason::HostMissing);
        }
        let parse = |text| Authority::parse(text).ok_or(Reason::HostInvalid);
        let written = written.map(parse).transpose()?;
        let authority = match self.target.form() {
            Form::Origin | Form::Asterisk => written,
            Form::Absolute { https } => {
                let asked = parse(self.target.authority(self.target()))?;
                let default = if https { 443 } else { 80 };
                if written.is_some_and(|written| !asked.matches(&written, default)) {
                    return Err(Reason::HostMismatch);
                }
                written.or(Some(asked))
            }
        };
        let host = authority.map_or(&b""[..], |authority| authority.host);
        let (host, port) = (
            host.to_ascii_lowercase(),
            authority.and_then(|authority| authority.port),
        );
        (self.host, self.port) = (host, port);
        Ok(())
    }

    /// Where the body ends (RFC 9112 section 6.3), without the forgiving parts of it.
    fn decide_framing(&mut self) -> Result<(), Reason> {
        let mut lengths = self.values(names::CONTENT_LENGTH);
        let mut codings = self.values(names::TRANSFER_ENCODING);
        let (length, coding) = (lengths.next(), codings.next());
        let (more_lengths, more_codings) = (lengths.next().is_some(), codings.next().is_some());
        drop((lengths, codings));
        self.framing = match (length, coding) {
            (Some(_), Some(_)) => return Err(Reason::ClAndTe),
            _ if more_lengths => return Err(Reason::ClDuplicate),
            _ if more_codings => return Err(Reason::TeDuplicate),
            (None, None) => Framing::None,
            (Some(length), None) => match decimal(length) {
                Some(length) if length <= i64::MAX as u64 => Framing::Length(length),
                _ => return Err(Reason::ClInvalid),
            },
            (None, Some(_)) if self.version < 11 => return Err(Reason::TeInOldVersion),
            (None, Some(coding)) if coding.eq_ignore_ascii_case(b"chunked") => Framing::Chunked,
            (None, Some(coding)) => {
                const KNOWN: [&[u8]; 6] = [
                    b"gzip",
                    b"x-gzip",
                    b"deflate",
                    b"compress",
                    b"x-compress",
                    b"identity",
                ];
                let known = KNOWN.iter().any(|known| coding.eq_ignore_ascii_case(known));
                return Err(if known {
                    Reason::TeUnsupported
                } else {
                    Reason::TeInvalid
                });
            }
        };
        Ok(())
    }

    fn decide_connection(&mut self) -> Result<(), Reason> {
        let (mut close, mut keep, mut upgrade) = (false, false, false);
        let mut named = Vec::new();
        for value in self.values(names::CONNECTION) {
            for option in value.split(|&byte| byte == b',').map(trim) {
                match option {
                    b"" => {}
                    option if option.eq_ignore_ascii_case(b"close") => close = true,
                    option if option.eq_ignore_ascii_case(b"keep-alive") => keep = true,
                    option if option.eq_ignore_ascii_case(b"upgrade") => upgrade = true,
                    option if !is_token(option) => return Err(Reason::ConnectionInvalid),
                    option => named.push(option.to_ascii_lowercase()),
                }
            }
        }
        for name in &named {
            self.hop_by_request(name)?;
        }
        self.keep_alive = !close && (self.version >= 11 || keep);
        let mut expects = self.values(names::EXPECT);
        let expect = expects.next();
        let unknown = expect.is_some_and(|value| !value.eq_ignore_ascii_case(b"100-continue"))
            || expects.next().is_some();
        drop(expects);
        if unknown {
            return Err(Reason::Expect);
        }
        self.expect_continue = expect.is_some() && self.version >= 11;
        self.asks_websocket = upgrade
            && self.version >= 11
            && self
                .values(names::UPGRADE)
                .any(|value| value.eq_ignore_ascii_case(b"websocket"));
        self.websocket = self.asks_websocket
            && self.method() == b"GET"
            && self.framing == Framing::None
            && self.values(names::SEC_WEBSOCKET_KEY).count() == 1;
        Ok(())
    }

    /// A field that `Connection` names ends here; but a client may not take away what apps and
    /// proxies rely on (threats E-10).
    fn hop_by_request(&mut self, name: &[u8]) -> Result<(), Reason> {
        const KEPT: [&[u8]; 9] = [
            b"host",
            b"authorization",
            b"cookie",
            b"content-length",
            b"content-type",
            b"transfer-encoding",
            b"forwarded",
            b"x-real-ip",
            b"x-api-key",
        ];
        if KEPT.contains(&name)
            || name.starts_with(b"x-forwarded-")
            || name.starts_with(b"x-ostler-")
        {
            return Err(Reason::ConnectionNames);
        }
        for index in 0..self.fields.len() {
            if self.text(self.fields[index].name) == name {
                self.fields[index].hop = true;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
