//! The request target (RFC 9112 section 3.2) and the canonical path: one decoding that routing,
//! checks, files and apps share, so that no two of them can disagree about what was asked for
//! (`peers/threats.md` E-17). It must not know what is served under a path.

use super::bytes::hex_digit;
use super::host::Authority;
use crate::edge::reason::Reason;

/// Which of the forms of RFC 9112 section 3.2 the target has. The authority form belongs to CONNECT,
/// which is never served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Form {
    /// `/path?query`
    #[default]
    Origin,
    /// `http://host/path?query`; `https` tells the scheme.
    Absolute { https: bool },
    /// `*`, with OPTIONS only.
    Asterisk,
}

/// A part of the target, in bytes from its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Span {
    from: u16,
    to: u16,
}

impl Span {
    fn of(self, text: &[u8]) -> &[u8] {
        &text[usize::from(self.from)..usize::from(self.to)]
    }
}

/// A checked target. It refers into the text it was parsed from, which its owner keeps.
#[derive(Debug, Default)]
pub struct Target {
    form: Form,
    authority: Span,
    path: Span,
    query: Span,
    /// The canonical path where it differs from the text.
    canonical: Vec<u8>,
    differs: bool,
    flags: PathFlags,
}

/// What a canonical path no longer shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PathFlags {
    /// A `/` came as `%2f`. Apps get it as `/`; static files are not served for it.
    pub has_encoded_slash: bool,
    /// The path holds a `\`, plain or as `%5c`.
    pub has_backslash: bool,
}

impl Target {
    /// Checks `text`, which holds neither controls nor spaces and is shorter than 64 KiB.
    /// `options` says whether the method is OPTIONS.
    pub fn parse(&mut self, text: &[u8], options: bool) -> Result<(), Reason> {
        debug_assert!(text.len() <= usize::from(u16::MAX), "limits keep it short");
        self.authority = Span::default();
        self.query = Span::default();
        self.differs = false;
        self.flags = PathFlags::default();
        self.form = match text {
            [b'/', ..] => Form::Origin,
            b"*" if options => Form::Asterisk,
            _ => return self.parse_absolute(text),
        };
        self.parse_path(text, 0)
    }

    fn parse_absolute(&mut self, text: &[u8]) -> Result<(), Reason> {
        let (https, from) = if starts_with(text, b"http://") {
            (false, 7)
        } else if starts_with(text, b"https://") {
            (true, 8)
        } else {
            return Err(if text.contains(&b'#') {
                Reason::Fragment
            } else {
                Reason::Target
            });
        };
        let rest = &text[from..];
        let length = rest
            .iter()
            .position(|byte| matches!(byte, b'/' | b'?' | b'#'))
            .unwrap_or(rest.len());
        self.form = Form::Absolute { https };
        self.authority = Span {
            from: from as u16,
            to: (from + length) as u16,
        };
        if Authority::parse(&rest[..length]).is_none() {
            return Err(Reason::Target);
        }
        self.parse_path(text, from + length)
    }

    /// Splits `text[from..]` into path and query and canonicalises the path. An empty path, which
    /// only an absolute target can have, is `/`.
    fn parse_path(&mut self, text: &[u8], from: usize) -> Result<(), Reason> {
        let mut plain = true;
        let mut end = text.len();
        let mut before = 0;
        for (at, &byte) in text.iter().enumerate().skip(from) {
            match byte {
                b'?' => {
                    end = at;
                    break;
                }
                b'#' => return Err(Reason::Fragment),
                b'%' => plain = false,
                b'.' if before == b'/' => plain = false,
                b'\\' => self.flags.has_backslash = true,
                _ => {}
            }
            before = byte;
        }
        if end < text.len() {
            if text[end..].contains(&b'#') {
                return Err(Reason::Fragment);
            }
            self.query = Span {
                from: end as u16 + 1,
                to: text.len() as u16,
            };
        }
        self.path = Span {
            from: from as u16,
            to: end as u16,
        };
        if from == end {
            self.canonical.clear();
            self.canonical.push(b'/');
            self.differs = true;
        } else if !plain {
            self.flags = canonicalise(&text[from..end], &mut self.canonical)?;
            self.differs = true;
        }
        Ok(())
    }

    pub fn form(&self) -> Form {
        self.form
    }

    /// Host and port of an absolute target; empty for other forms.
    pub fn authority<'a>(&self, text: &'a [u8]) -> &'a [u8] {
        self.authority.of(text)
    }

    /// The canonical path: percent-decoded once, without dot segments, slashes not merged; `*` for
    /// the asterisk form. It may hold any byte but NUL. `text` is what was parsed.
    pub fn path<'a>(&'a self, text: &'a [u8]) -> &'a [u8] {
        if self.differs {
            &self.canonical
        } else {
            self.path.of(text)
        }
    }

    /// The path as it came.
    pub fn raw_path<'a>(&self, text: &'a [u8]) -> &'a [u8] {
        self.path.of(text)
    }

    /// What follows the first `?`, as it came; empty when there is none.
    pub fn query<'a>(&self, text: &'a [u8]) -> &'a [u8] {
        self.query.of(text)
    }
}

fn starts_with(text: &[u8], prefix: &[u8]) -> bool {
    text.get(..prefix.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

/// Replaces `out` by the canonical form of `raw`, a path that begins with `/`: percent-decoded once,
/// dot segments resolved after that (`/%2e%2e/` is `/../`), slashes kept as they are.
pub fn canonicalise(raw: &[u8], out: &mut Vec<u8>) -> Result<PathFlags, Reason> {
    let mut flags = PathFlags::default();
    out.clear();
    let mut rest = raw.iter();
    while let Some(&byte) = rest.next() {
        let decoded = if byte == b'%' {
            let high = rest.next().copied().and_then(hex_digit);
            let low = rest.next().copied().and_then(hex_digit);
            let (Some(high), Some(low)) = (high, low) else {
                return Err(Reason::Escape);
            };
            let decoded = high << 4 | low;
            flags.has_encoded_slash |= decoded == b'/';
            decoded
        } else {
            byte
        };
        if decoded == 0 {
            return Err(Reason::EscapedNul);
        }
        flags.has_backslash |= decoded == b'\\';
        out.push(decoded);
    }
    resolve_dots(out)?;
    Ok(flags)
}

/// RFC 3986 section 5.2.4 in place, except that leaving the root is an error.
fn resolve_dots(path: &mut Vec<u8>) -> Result<(), Reason> {
    let mut write = 0;
    let mut read = 0;
    // `path[read]` is the slash before the next segment; what was kept is `path[..write]`.
    while read < path.len() {
        let segment = read + 1;
        let end = memchr::memchr(b'/', &path[segment..]).map_or(path.len(), |at| segment + at);
        let is_dot = match &path[segment..end] {
            b"." => true,
            b".." => {
                write = memchr::memrchr(b'/', &path[..write]).ok_or(Reason::Traversal)?;
                true
            }
            _ => false,
        };
        if !is_dot {
            path.copy_within(read..end, write);
            write += end - read;
        } else if end == path.len() {
            // The last segment was a dot segment: what remains is a directory.
            path[write] = b'/';
            write += 1;
        }
        read = end;
    }
    path.truncate(write);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn path_of(target: &str) -> Result<(String, PathFlags), Reason> {
        let mut parsed = Target::default();
        parsed.parse(target.as_bytes(), false)?;
        let path = parsed.path(target.as_bytes()).to_vec();
        Ok((path.escape_ascii().to_string(), parsed.flags))
    }

    #[test]
    fn paths_become_canonical() {
        let table = [
            ("/", "/"),
            ("//", "//"),
            ("//a//b/", "//a//b/"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/b/..", "/a/"),
            ("/a/b/.", "/a/b/"),
            ("/.", "/"),
            ("/a/..", "/"),
            ("//..", "/"),
            ("/a//../b", "/a/b"),
            ("/...", "/..."),
            ("/..a", "/..a"),
            ("/a/.b", "/a/.b"),
            ("/.well-known/x", "/.well-known/x"),
            ("/%61", "/a"),
            ("/%2E%2e/a", "400 traversal"),
            ("/a/%2e%2e/b", "/b"),
            ("/a%2fb", "/a/b"),
            ("/a%2F..%2Fb", "/b"),
            ("/..%2f", "400 traversal"),
            ("/a%2f..%2f..", "400 traversal"),
            ("/a/../..", "400 traversal"),
            ("/..", "400 traversal"),
            ("/../", "400 traversal"),
            ("/%252e%252e/", "/%2e%2e/"),
            ("/%c3%a9", "/\\xc3\\xa9"),
            ("/%0a%0d", "/\\n\\r"),
            ("/a;b=c/..;/d", "/a;b=c/..;/d"),
            ("/a\\..\\b", "/a\\\\..\\\\b"),
            ("/%5c", "/\\\\"),
            ("/%", "400 escape"),
            ("/%4", "400 escape"),
            ("/%zz", "400 escape"),
            ("/%+1", "400 escape"),
            ("/%%", "400 escape"),
            ("/%00", "400 escaped_nul"),
            ("/a#b", "400 fragment"),
            ("/a?b#c", "400 fragment"),
            ("/a?%zz%00/../", "/a"),
            ("http://a", "/"),
            ("http://a?x", "/"),
            ("HTTPS://a/b/../c", "/c"),
        ];
        for (target, expected) in table {
            let got = match path_of(target) {
                Ok((path, _)) => path,
                Err(reason) => format!("{} {}", reason.status(), reason.code()),
            };
            assert_eq!(got, expected, "{target}");
        }
    }

    #[test]
    fn flags_tell_what_decoding_hid() {
        let flags = |target| path_of(target).expect("a good target").1;
        assert!(flags("/a%2Fb").has_encoded_slash);
        assert!(!flags("/a/b%20").has_encoded_slash);
        assert!(flags("/a\\b").has_backslash);
        assert!(flags("/a%5Cb").has_backslash);
        assert!(flags("/a\\b%20").has_backslash);
        assert!(!flags("/a?\\%5c%2f").has_backslash);
    }

    #[test]
    fn forms_are_told_apart() {
        let mut target = Target::default();
        assert_eq!(target.parse(b"*", true), Ok(()));
        assert_eq!(
            (target.form(), target.path(b"*")),
            (Form::Asterisk, &b"*"[..])
        );
        let text = b"http://a.example:81/p?q=1?2";
        assert_eq!(target.parse(text, false), Ok(()));
        assert_eq!(target.form(), Form::Absolute { https: false });
        assert_eq!(target.authority(text), b"a.example:81");
        assert_eq!(
            (target.path(text), target.query(text)),
            (&b"/p"[..], &b"q=1?2"[..])
        );
        for bad in [
            "",
            "*",
            "foo",
            "a:443",
            "ftp://a/",
            "http:/a",
            "http:a",
            "http://",
            "http:///a",
            "http://u@a/",
            "http://u:p@a/",
            "http://a:x/",
            "//a@b",
            "?x",
        ] {
            let expected = if bad.starts_with("//") {
                Ok(())
            } else {
                Err(Reason::Target)
            };
            assert_eq!(target.parse(bad.as_bytes(), false), expected, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn a_canonical_path_stays_as_it_is(raw in "/[a./%2eEfF]{0,30}") {
            let mut once = Vec::new();
            if canonicalise(raw.as_bytes(), &mut once).is_ok() {
                prop_assert_eq!(once.first(), Some(&b'/'));
                let segments = once.split(|&byte| byte == b'/');
                prop_assert!(segments.into_iter().all(|segment| segment != b"." && segment != b".."));
                let mut twice = once.clone();
                prop_assert!(resolve_dots(&mut twice).is_ok());
                prop_assert_eq!(twice, once);
            }
        }

        #[test]
        fn an_encoded_path_is_the_path(path in proptest::collection::vec(1..=255u8, 0..40)) {
            let encoded: String = path.iter().map(|byte| format!("%{byte:02x}")).collect();
            let (mut a, mut b) = (Vec::new(), [&b"/"[..], &path].concat());
            let decoded = canonicalise(format!("/{encoded}").as_bytes(), &mut a).map(drop);
            prop_assert_eq!(decoded, resolve_dots(&mut b));
            if decoded.is_ok() {
                prop_assert_eq!(a, b);
            }
        }
    }
}
