//! A response whose body may be sent in a content coding (RFC 9110 section 8.4): whether it may, and what of its head
//! changes by that. It codes nothing and knows no encoder.

use ostler_wire::ResponseHead;

use super::bytes::{decimal, trim};
use super::coding::{Coding, choose};
use super::compressible::is_compressible;

/// Bytes below which a body is left alone: what fits into one packet with its head gets to nobody sooner by a coding.
pub const LEAST: u64 = 1024;

/// What of a request decides about the coding.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wishes<'a> {
    pub accept_encoding: Option<&'a [u8]>,
    pub if_none_match: Option<&'a [u8]>,
}

/// What becomes of a response.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Recode {
    /// It stays as the app says it, for every client.
    #[default]
    Off,
    /// It stays as it is for this client; others get it coded.
    Varies,
    Coded(Coding),
    /// 304 to a client that holds a coded one: the entity tag stays the weak one it has.
    Revalidates,
}

impl Recode {
    /// Decides. `whole` is the length of a body that came with its head, in bytes; `None` when more follows and for
    /// HEAD, whose head is that of GET as far as it can be known without the body.
    pub fn of(head: &ResponseHead<'_>, whole: Option<u64>, wishes: Wishes<'_>) -> Self {
        match head.status {
            304 => return revalidated(head, wishes.if_none_match),
            // 206 is a part of what the app has; 204 and 205 have nothing.
            204..=206 => return Self::Off,
            _ if whole.is_some_and(|length| length < LEAST) => return Self::Off,
            _ => {}
        }
        let mut compressible = false;
        for (name, value) in head.fields() {
            match about(name) {
                About::Type => compressible = is_compressible(value),
                About::Length if decimal(trim(value)).is_some_and(|length| length < LEAST) => {
                    return Self::Off;
                }
                About::Cache if has_token(value, b"no-transform") => return Self::Off,
                // Coded by the app, a part, or signed over the bytes as they are (RFC 9530, RFC 9421).
                About::Bytes => return Self::Off,
                About::Length | About::Cache | About::Tag | About::Vary | About::Other => {}
            }
        }
        match compressible {
            false => Self::Off,
            true => match choose(wishes.accept_encoding, Coding::QUICK) {
                Some(coding) => Self::Coded(coding),
                None => Self::Varies,
            },
        }
    }

    pub fn is_coded(self) -> bool {
        matches!(self, Self::Coded(_))
    }
}

/// Writes the fields of one response that change. Those of the app first, [`Lines::finish`] last.
#[derive(Debug)]
pub struct Lines {
    recode: Recode,
    /// `Vary` is said.
    varied: bool,
}

impl Lines {
    pub fn new(recode: Recode) -> Self {
        let varies = matches!(recode, Recode::Varies | Recode::Coded(_));
        Self {
            recode,
            varied: !varies,
        }
    }

    /// Writes a field of the app in another form, or leaves it out; false when it stays as it is.
    pub fn change(&mut self, name: &[u8], value: &[u8], out: &mut Vec<u8>) -> bool {
        if self.recode == Recode::Off {
            return false;
        }
        match about(name) {
            About::Vary if !self.varied => {
                self.varied = true;
                let known = has_token(value, b"accept-encoding") || has_token(value, b"*");
                if !known {
                    out.extend([b"Vary: ", trim(value), b", Accept-Encoding\r\n"].concat());
                }
                !known
            }
            // A strong tag stands for bytes (RFC 9110 section 8.8.1), and these are others.
            About::Tag if self.recode != Recode::Varies && trim(value).starts_with(b"\"") => {
                out.extend([b"ETag: W/", trim(value), b"\r\n"].concat());
                true
            }
            // A range of coded bytes cannot be had: each answer is coded anew.
            About::Other => self.recode.is_coded() && name.eq_ignore_ascii_case(b"accept-ranges"),
            About::Tag
            | About::Vary
            | About::Type
            | About::Length
            | About::Cache
            | About::Bytes => false,
        }
    }

    /// Writes the fields that the app could not know of.
    pub fn finish(self, out: &mut Vec<u8>) {
        if !self.varied {
            out.extend_from_slice(b"Vary: Accept-Encoding\r\n");
        }
        if let Recode::Coded(coding) = self.recode {
            out.extend([b"Content-Encoding: ", coding.token().as_bytes(), b"\r\n"].concat());
        }
    }
}

/// The app compares weakly and says its strong tag again; the client holds what we made of it.
fn revalidated(head: &ResponseHead<'_>, if_none_match: Option<&[u8]>) -> Recode {
    let mut fields = head.fields();
    let tag = fields.find(|(name, _)| matches!(about(name), About::Tag));
    let (Some((_, tag)), Some(held)) = (tag, if_none_match) else {
        return Recode::Off;
    };
    let weak = [b"W/", trim(tag)].concat();
    match memchr::memmem::find(held, &weak) {
        Some(_) => Recode::Revalidates,
        None => Recode::Off,
    }
}

/// What a field says about the body, as far as a coding is concerned.
enum About {
    Type,
    Length,
    Tag,
    Vary,
    Cache,
    /// The bytes as they are.
    Bytes,
    Other,
}

fn about(name: &[u8]) -> About {
    let is = |text: &[u8]| name.eq_ignore_ascii_case(text);
    match name.len() {
        4 if is(b"etag") => About::Tag,
        4 if is(b"vary") => About::Vary,
        6 if is(b"digest") => About::Bytes,
        9 if is(b"signature") => About::Bytes,
        11 if is(b"content-md5") || is(b"repr-digest") => About::Bytes,
        12 if is(b"content-type") => About::Type,
        13 if is(b"cache-control") => About::Cache,
        13 if is(b"content-range") => About::Bytes,
        14 if is(b"content-length") => About::Length,
        14 if is(b"content-digest") => About::Bytes,
        16 if is(b"content-encoding") => About::Bytes,
        _ => About::Other,
    }
}

/// Whether a list between commas has a member, whatever stands behind `=` in it.
fn has_token(list: &[u8], token: &[u8]) -> bool {
    list.split(|&byte| byte == b',').any(|member| {
        let end = memchr::memchr(b'=', member).unwrap_or(member.len());
        trim(&member[..end]).eq_ignore_ascii_case(token)
    })
}

#[cfg(test)]
mod tests {
    use ostler_wire::{Kind, ResponseEncoder, frame};

    use super::*;

    const ZSTD: Recode = Recode::Coded(Coding::Zstd);

    fn told(
        status: u16,
        fields: &[(&str, &str)],
        whole: Option<u64>,
        accept: &str,
    ) -> (Recode, String) {
        let mut wire = Vec::new();
        let mut encoder = ResponseEncoder::new(&mut wire, Kind::RespHead, 0, 0, status, b"");
        for (name, value) in fields {
            encoder.field(name.as_bytes(), value.as_bytes());
        }
        encoder.finish(0);
        let (_, payload, _) = frame(&wire).expect("frame").expect("whole");
        let head = ResponseHead::decode(payload).expect("head");
        let wishes = Wishes {
            accept_encoding: Some(accept.as_bytes()),
            if_none_match: Some(b"W/\"held\", \"other\""),
        };
        let recode = Recode::of(&head, whole, wishes);
        let (mut lines, mut out) = (Lines::new(recode), Vec::new());
        for (name, value) in head.fields() {
            if !lines.change(name, value, &mut out) {
                out.extend([name, b": ", value, b"\r\n"].concat());
            }
        }
        lines.finish(&mut out);
        (recode, String::from_utf8(out).expect("text"))
    }

    #[test]
    fn what_may_be_coded_is_and_nothing_else() {
        const HTML: (&str, &str) = ("Content-Type", "text/html");
        for (status, more, whole, accept, expected) in [
            (200, None, None, "zstd", ZSTD),
            (404, None, Some(LEAST), "zstd", ZSTD),
            (200, None, None, "deflate", Recode::Varies),
            (200, None, None, "zstd;q=0", Recode::Varies),
            (200, None, Some(LEAST - 1), "zstd", Recode::Off),
            (
                200,
                Some(("Content-Length", "1023")),
                None,
                "zstd",
                Recode::Off,
            ),
            (200, Some(("Content-Length", "1024")), None, "zstd", ZSTD),
            (204, None, None, "zstd", Recode::Off),
            (205, None, None, "zstd", Recode::Off),
            (206, None, None, "zstd", Recode::Off),
            (304, None, None, "zstd", Recode::Off),
            (
                304,
                Some(("ETag", "\"held\"")),
                None,
                "zstd",
                Recode::Revalidates,
            ),
            (304, Some(("ETag", "\"other\"")), None, "zstd", Recode::Off),
            (
                200,
                Some(("Content-Encoding", "gzip")),
                None,
                "zstd",
                Recode::Off,
            ),
            (
                200,
                Some(("content-range", "bytes 0-1/2")),
                None,
                "zstd",
                Recode::Off,
            ),
            (
                200,
                Some(("Cache-Control", "public, No-Transform")),
                None,
                "zstd",
                Recode::Off,
            ),
            (200, Some(("Cache-Control", "public")), None, "zstd", ZSTD),
            (
                200,
                Some(("Content-Digest", "sha-256=:x:")),
                None,
                "zstd",
                Recode::Off,
            ),
            (200, Some(("Content-MD5", "x")), None, "zstd", Recode::Off),
            (
                200,
                Some(("Content-Type", "image/png")),
                None,
                "zstd",
                Recode::Off,
            ),
        ] {
            let fields: Vec<_> = [HTML].into_iter().chain(more).collect();
            let (recode, _) = told(status, &fields, whole, accept);
            assert_eq!(recode, expected, "{status} {more:?} {whole:?} {accept}");
        }
        assert_eq!(told(200, &[], None, "zstd").0, Recode::Off, "no type");
    }

    #[test]
    fn a_head_says_what_the_coding_changes() {
        let check = |accept: &str, fields: &[(&str, &str)], expected: &str| {
            let mut all = vec![("Content-Type", "text/html")];
            all.extend(fields);
            let (_, text) = told(200, &all, None, accept);
            assert_eq!(
                text,
                format!("Content-Type: text/html\r\n{expected}"),
                "{fields:?}"
            );
        };
        let gzip = "Content-Encoding: gzip\r\n";
        check("gzip", &[], &format!("Vary: Accept-Encoding\r\n{gzip}"));
        check(
            "x",
            &[("ETag", "\"a\"")],
            "ETag: \"a\"\r\nVary: Accept-Encoding\r\n",
        );
        check(
            "gzip",
            &[("etag", "\"a\""), ("Accept-Ranges", "bytes")],
            &format!("ETag: W/\"a\"\r\nVary: Accept-Encoding\r\n{gzip}"),
        );
        check(
            "gzip",
            &[("ETag", "W/\"a\""), ("Vary", "Cookie")],
            &format!("ETag: W/\"a\"\r\nVary: Cookie, Accept-Encoding\r\n{gzip}"),
        );
        for vary in ["*", "Cookie,  accept-encoding"] {
            check(
                "gzip",
                &[("Vary", vary)],
                &format!("Vary: {vary}\r\n{gzip}"),
            );
        }
        let (_, text) = told(304, &[("ETag", "\"held\"")], Some(0), "zstd");
        assert_eq!(text, "ETag: W/\"held\"\r\n");
    }
}
