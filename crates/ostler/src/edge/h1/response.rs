//! The response head: what an app said, checked, in the framing that the client needs (threats E-11).

use std::sync::Arc;

use ostler_wire::ResponseHead;

use super::bytes::{decimal, is_token, line, push_decimal, trim};
use super::left_out::Names;
use super::recode::{Lines, Recode};
use crate::edge::reason::Reason;

/// What the encoder must know of the request and of us.
#[derive(Debug, Clone)]
pub struct ResponseContext {
    /// 10, 11 or 20.
    pub request_version: u8,
    pub method_is_head: bool,
    pub keep_alive: bool,
    /// The value of `Date`.
    pub date: [u8; 29],
    /// Lines with their CRLF that stand in every response of the site.
    pub lines: Option<Arc<[u8]>>,
    /// Fields of the app that the site leaves out.
    pub drops: Option<Arc<Names>>,
    /// What a content coding changes.
    pub recode: Recode,
    /// Bytes of the whole body when it came with the head, in its coding.
    pub body_len: Option<u64>,
}

/// How the client learns where the body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyFraming {
    /// There is none: HEAD, 1xx, 204, 304.
    None,
    /// Bytes.
    Length(u64),
    Chunked,
    UntilClose,
    /// Until its stream ends (HTTP/2).
    UntilEnd,
}

/// Fields that an app says to us, not to the client.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Private {
    pub status: u16,
    /// The app raised an exception: the worker's mark.
    pub app_error: bool,
    pub accel_redirect: Option<Vec<u8>>,
    pub sendfile: Option<Vec<u8>>,
    /// A page of the operator takes the place of its body.
    pub page: bool,
    /// `X-Accel-Buffering: no`, or a stream of server-sent events.
    pub unbuffered: bool,
    pub content_type: Option<Vec<u8>>,
    pub etag: Option<Vec<u8>>,
    pub last_modified: Option<Vec<u8>>,
    /// The app's fields that stand beside a file sent in its place; lines with their CRLF.
    pub kept: Vec<u8>,
}

impl Private {
    /// The app wants a file of ours sent instead of its body.
    pub fn internal(&self) -> bool {
        self.accel_redirect.is_some() || self.sendfile.is_some()
    }
}

/// An encoded head.
#[derive(Debug)]
pub struct Encoded {
    pub framing: BodyFraming,
    /// Bytes of the body that the app has promised, when those of the client are others.
    pub promised: Option<u64>,
    /// The connection ends after this response.
    pub close: bool,
    pub private: Private,
}

/// Appends the status line and head that the client gets, up to the empty line.
///
/// # Errors
/// [`Reason::BadResponse`] for what must not be sent; `out` then holds a part of it.
pub fn encode(
    head: &ResponseHead<'_>,
    context: &ResponseContext,
    out: &mut Vec<u8>,
) -> Result<Encoded, Reason> {
    if !(200..=999).contains(&head.status) {
        return Err(Reason::BadResponse);
    }
    let mut private = Private {
        status: head.status,
        ..Private::default()
    };
    let (mut length, mut close, mut dated) = (None, !context.keep_alive, false);
    let mut lines = Lines::new(context.recode);
    status_line(head.status, head.reason, out)?;
    for (name, value) in head.fields() {
        check(name, value)?;
        let left_out = || context.drops.as_ref().is_some_and(|drops| drops.has(name));
        match known(name) {
            Known::Other if left_out() => {}
            Known::Noted if left_out() => note(name, value, &mut private),
            Known::Other if lines.change(name, value, out) => {}
            Known::Other => line(name, value, out),
            Known::Length => {
                let value = decimal(trim(value)).ok_or(Reason::BadResponse)?;
                if length.is_some_and(|length| length != value) {
                    return Err(Reason::BadResponse);
                }
                length = Some(value);
            }
            Known::Connection => close |= has_close(value),
            Known::Hop => {}
            Known::Date => {
                dated = true;
                line(name, value, out);
            }
            Known::Private => note(name, value, &mut private),
            Known::Noted => {
                note(name, value, &mut private);
                if !lines.change(name, value, out) {
                    line(name, value, out);
                }
            }
        }
    }
    lines.finish(out);
    if !dated {
        line(b"Date", &context.date, out);
    }
    if let Some(lines) = &context.lines {
        out.extend_from_slice(lines);
    }
    let promised = length.take_if(|_| context.recode.is_coded());
    let framing = frame(head.status, length, context, out);
    close |= framing == BodyFraming::UntilClose;
    // RFC 9113 section 8.2.2: a stream has no such field.
    let streams = context.request_version >= 20;
    if close && !streams {
        out.extend_from_slice(b"Connection: close\r\n");
    } else if context.request_version < 11 {
        out.extend_from_slice(b"Connection: keep-alive\r\n");
    }
    out.extend_from_slice(b"\r\n");
    Ok(Encoded {
        framing,
        promised,
        close,
        private,
    })
}

/// Decides the framing and writes its field.
fn frame(
    status: u16,
    length: Option<u64>,
    context: &ResponseContext,
    out: &mut Vec<u8>,
) -> BodyFraming {
    // To HEAD an app may give no body without a word on its length: then none is known (RFC 9110
    // section 8.6).
    let unknown = context.method_is_head && context.body_len == Some(0);
    let length = length.or(context.body_len.filter(|_| !unknown));
    let no_body = matches!(status, 204 | 304);
    if let Some(length) = length
        && status != 204
        && !(status == 304 && length == 0)
    {
        out.extend_from_slice(b"Content-Length: ");
        push_decimal(out, length);
        out.extend_from_slice(b"\r\n");
    }
    match length {
        _ if no_body || context.method_is_head => BodyFraming::None,
        Some(length) => BodyFraming::Length(length),
        None if context.request_version >= 20 => BodyFraming::UntilEnd,
        None if context.request_version >= 11 => {
            out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
            BodyFraming::Chunked
        }
        None => BodyFraming::UntilClose,
    }
}

/// Collects the fields that stay when a file takes the place of the app's body: all but those that
/// describe the body that is not sent.
pub fn keep_fields(head: &ResponseHead<'_>, private: &mut Private) {
    for (name, value) in head.fields() {
        let about_body = name.eq_ignore_ascii_case(b"content-range")
            || name.eq_ignore_ascii_case(b"accept-ranges")
            || (value.is_empty() && name.eq_ignore_ascii_case(b"content-type"));
        if matches!(known(name), Known::Other | Known::Noted) && !about_body {
            line(name, value, &mut private.kept);
        }
    }
}

/// Appends an interim response: 100 or 103, nothing else.
pub fn encode_info(head: &ResponseHead<'_>, out: &mut Vec<u8>) -> Result<(), Reason> {
    if !matches!(head.status, 100 | 103) {
        return Err(Reason::BadResponse);
    }
    let mark = out.len();
    status_line(head.status, b"", out)?;
    for (name, value) in head.fields() {
        if let Err(reason) = check(name, value) {
            out.truncate(mark);
            return Err(reason);
        }
        if matches!(known(name), Known::Other) {
            line(name, value, out);
        }
    }
    out.extend_from_slice(b"\r\n");
    Ok(())
}

/// Appends a whole 101: `ours` first, then what the app adds and may add.
pub fn encode_switch<'o>(
    head: &ResponseHead<'_>,
    ours: impl Iterator<Item = (&'o str, &'o [u8])>,
    out: &mut Vec<u8>,
) -> Result<(), Reason> {
    out.extend_from_slice(b"HTTP/1.1 101 Switching Protocols\r\n");
    ours.for_each(|(name, value)| line(name.as_bytes(), value, out));
    for (name, value) in head.fields() {
        check(name, value)?;
        let is = |text: &[u8]| name.eq_ignore_ascii_case(text);
        let is_ours = is(b"sec-websocket-accept") || is(b"sec-websocket-extensions");
        if matches!(known(name), Known::Other | Known::Noted) && !is_ours {
            line(name, value, out);
        }
    }
    out.extend_from_slice(b"\r\n");
    Ok(())
}

/// Appends trailers; what may not be one is left out.
pub fn encode_trailers(head: &ResponseHead<'_>, out: &mut Vec<u8>) {
    for (name, value) in head.fields() {
        if check(name, value).is_ok() && matches!(known(name), Known::Other) {
            line(name, value, out);
        }
    }
}

/// The usual phrase of a status (RFC 9110 section 15); empty for an unknown one.
pub fn reason_phrase(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        103 => "Early Hints",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        206 => "Partial Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        _ => "",
    }
}

fn status_line(status: u16, reason: &[u8], out: &mut Vec<u8>) -> Result<(), Reason> {
    if !reason
        .iter()
        .all(|&byte| byte == b'\t' || (byte >= b' ' && byte != 127))
    {
        return Err(Reason::BadResponse);
    }
    out.extend_from_slice(b"HTTP/1.1 ");
    push_decimal(out, status.into());
    out.push(b' ');
    match reason {
        b"" => out.extend_from_slice(reason_phrase(status).as_bytes()),
        reason => out.extend_from_slice(reason),
    }
    out.extend_from_slice(b"\r\n");
    Ok(())
}

/// A name that is a token, a value that ends no line.
fn check(name: &[u8], value: &[u8]) -> Result<(), Reason> {
    let splits = memchr::memchr3(b'\r', b'\n', 0, value).is_some();
    if splits || !is_token(name) {
        Err(Reason::BadResponse)
    } else {
        Ok(())
    }
}

fn has_close(value: &[u8]) -> bool {
    value
        .split(|&byte| byte == b',')
        .any(|option| trim(option).eq_ignore_ascii_case(b"close"))
}

enum Known {
    Other,
    Length,
    Connection,
    /// For one connection only, and that is ours.
    Hop,
    Date,
    /// For us, not for the client.
    Private,
    /// For both.
    Noted,
}

/// Tells the fields that matter here, by length first.
fn known(name: &[u8]) -> Known {
    let is = |text: &[u8]| name.eq_ignore_ascii_case(text);
    match name.len() {
        2 if is(b"te") => Known::Hop,
        4 if is(b"date") => Known::Date,
        4 if is(b"etag") => Known::Noted,
        7 if is(b"upgrade") || is(b"trailer") => Known::Hop,
        10 if is(b"connection") => Known::Connection,
        10 if is(b"keep-alive") => Known::Hop,
        10 if is(b"x-sendfile") => Known::Private,
        12 if is(b"content-type") => Known::Noted,
        13 if is(b"last-modified") => Known::Noted,
        14 if is(b"content-length") => Known::Length,
        16 if is(b"proxy-connection") => Known::Hop,
        18 if is(b"proxy-authenticate") => Known::Hop,
        19 if is(b"proxy-authorization") => Known::Hop,
        17 if is(b"transfer-encoding") => Known::Hop,
        _ if name.len() > 9 && name[..8].eq_ignore_ascii_case(b"x-accel-") => Known::Private,
        _ if name.len() > 9 && name[..9].eq_ignore_ascii_case(b"x-ostler-") => Known::Private,
        _ => Known::Other,
    }
}

fn note(name: &[u8], value: &[u8], private: &mut Private) {
    let is = |text: &[u8]| name.eq_ignore_ascii_case(text);
    if is(b"content-type") {
        private.unbuffered |= value.starts_with(b"text/event-stream");
        private.content_type = Some(value.to_vec());
    } else if is(b"etag") {
        private.etag = Some(value.to_vec());
    } else if is(b"last-modified") {
        private.last_modified = Some(value.to_vec());
    } else if is(b"x-accel-redirect") {
        private.accel_redirect = Some(value.to_vec());
    } else if is(b"x-sendfile") {
        private.sendfile = Some(value.to_vec());
    } else if is(b"x-accel-buffering") {
        private.unbuffered |= value.eq_ignore_ascii_case(b"no");
    } else if is(b"x-ostler-error") {
        private.app_error = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ostler_wire::{Kind, ResponseEncoder, frame};

    fn encoded(
        status: u16,
        fields: &[(&str, &str)],
        context: &ResponseContext,
    ) -> Result<(String, Encoded), Reason> {
        let mut wire = Vec::new();
        let mut encoder = ResponseEncoder::new(&mut wire, Kind::RespHead, 0, 0, status, b"");
        for (name, value) in fields {
            encoder.field(name.as_bytes(), value.as_bytes());
        }
        encoder.finish(0);
        let (_, payload, _) = frame(&wire).expect("frame").expect("whole");
        let head = ResponseHead::decode(payload).expect("head");
        let mut out = Vec::new();
        encode(&head, context, &mut out)
            .map(|encoded| (String::from_utf8_lossy(&out).into_owned(), encoded))
    }

    fn context() -> ResponseContext {
        ResponseContext {
            request_version: 11,
            method_is_head: false,
            keep_alive: true,
            date: super::super::date::imf_fixdate(0),
            lines: None,
            drops: None,
            recode: Recode::Off,
            body_len: None,
        }
    }

    #[test]
    fn what_a_site_leaves_out_does_not_go_on() {
        let context = ResponseContext {
            drops: Some(Arc::new(Names::new(["Server", "ETag"].into_iter()))),
            ..context()
        };
        let fields = [
            ("server", "x"),
            ("ETag", "\"a\""),
            ("X-A", "1"),
            ("Content-Length", "3"),
        ];
        let (text, encoded) = encoded(200, &fields, &context).expect("good");
        assert!(!text.contains("server") && !text.contains("ETag"), "{text}");
        assert!(text.contains("X-A: 1\r\n"), "{text}");
        assert_eq!(encoded.framing, BodyFraming::Length(3));
        assert_eq!(
            encoded.private.etag.as_deref(),
            Some(&b"\"a\""[..]),
            "but it is known"
        );
    }

    #[test]
    fn framing_follows_status_method_version_and_length() {
        let check =
            |status, fields: &[(&str, &str)], context: &ResponseContext, framing, has: &str| {
                let (text, encoded) = encoded(status, fields, context).expect("good");
                assert_eq!(encoded.framing, framing, "{text}");
                assert!(text.contains(has), "{text:?} lacks {has:?}");
            };
        let plain = context();
        let whole = ResponseContext {
            body_len: Some(7),
            ..context()
        };
        let old = ResponseContext {
            request_version: 10,
            keep_alive: false,
            ..context()
        };
        let head = ResponseContext {
            method_is_head: true,
            ..whole.clone()
        };
        check(
            200,
            &[],
            &plain,
            BodyFraming::Chunked,
            "Transfer-Encoding: chunked\r\n",
        );
        check(
            200,
            &[],
            &whole,
            BodyFraming::Length(7),
            "Content-Length: 7\r\n",
        );
        check(
            200,
            &[("content-length", "9")],
            &plain,
            BodyFraming::Length(9),
            "Content-Length: 9\r\n",
        );
        check(
            200,
            &[],
            &old,
            BodyFraming::UntilClose,
            "Connection: close\r\n",
        );
        check(200, &[], &head, BodyFraming::None, "Content-Length: 7\r\n");
        check(
            204,
            &[("Content-Length", "0")],
            &plain,
            BodyFraming::None,
            "204 No Content\r\n",
        );
        check(
            304,
            &[("ETag", "\"x\"")],
            &whole,
            BodyFraming::None,
            "ETag: \"x\"\r\n",
        );
        check(
            200,
            &[("Connection", "close")],
            &plain,
            BodyFraming::Chunked,
            "Connection: close\r\n",
        );
    }

    #[test]
    fn what_must_not_be_sent_is_refused() {
        for (status, fields) in [
            (99, &[][..]),
            (100, &[]),
            (101, &[]),
            (1000, &[]),
            (200, &[("X", "a\r\nSet-Cookie: b")][..]),
            (200, &[("X", "a\0")]),
            (200, &[("X Y", "a")]),
            (200, &[("", "a")]),
            (200, &[("Content-Length", "5"), ("Content-Length", "6")]),
            (200, &[("Content-Length", "-1")]),
        ] {
            assert!(
                encoded(status, fields, &context()).is_err(),
                "{status} {fields:?}"
            );
        }
    }

    #[test]
    fn fields_for_us_stay_here() {
        let fields = [
            ("X-Accel-Redirect", "/x"),
            ("X-Sendfile", "/y"),
            ("x-ostler-error", "app"),
            ("Transfer-Encoding", "chunked"),
            ("Content-Type", "text/event-stream"),
        ];
        let (text, encoded) = encoded(200, &fields, &context()).expect("good");
        assert!(!text.contains("Accel") && !text.contains("Sendfile") && !text.contains("ostler"));
        assert_eq!(text.matches("Transfer-Encoding").count(), 1);
        assert!(
            encoded.private.internal() && encoded.private.app_error && encoded.private.unbuffered
        );
    }
}
