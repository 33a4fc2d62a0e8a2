//! `uri-host [ ":" port ]` as it stands in a Host field or an absolute target (RFC 9110 section 7.2,
//! RFC 3986 section 3.2). It must not know which hosts are served.

use std::net::Ipv6Addr;

/// The longest host name, in bytes (RFC 1035 section 2.3.4).
const MAX_NAME: usize = 255;

/// A checked host and port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Authority<'a> {
    /// As it was written, without the port and without one trailing dot; an IPv6 address keeps its
    /// brackets.
    pub host: &'a [u8],
    /// `None` when there is none or it is empty (`example.com:`).
    pub port: Option<u16>,
}

impl<'a> Authority<'a> {
    /// Reads `text` to its end; `None` when it is not a host with an optional port.
    ///
    /// Stricter than RFC 3986 on purpose: no user info, no percent-encoding (two spellings of one
    /// name would meet different routes), no comma (a list is a joined duplicate), no empty label.
    pub fn parse(text: &'a [u8]) -> Option<Self> {
        if text.first() == Some(&b'[') {
            let end = text.iter().position(|&byte| byte == b']')?;
            let address = std::str::from_utf8(&text[1..end]).ok()?;
            address.parse::<Ipv6Addr>().ok()?;
            return Some(Self {
                host: &text[..=end],
                port: port(&text[end + 1..])?,
            });
        }
        let end = text
            .iter()
            .position(|&byte| !NAME[usize::from(byte)])
            .unwrap_or(text.len());
        let (host, rest) = text.split_at(end);
        let host = host.strip_suffix(b".").unwrap_or(host);
        if host.is_empty() || host.len() > MAX_NAME || has_empty_label(host) {
            return None;
        }
        Some(Self {
            host,
            port: port(rest)?,
        })
    }

    /// Whether both name the same host and, with `default` where one names no port, the same port.
    pub fn matches(&self, other: &Self, default: u16) -> bool {
        self.host.eq_ignore_ascii_case(other.host)
            && self.port.unwrap_or(default) == other.port.unwrap_or(default)
    }
}

/// Unreserved characters and sub-delims without the comma (RFC 3986 sections 2.2 and 2.3).
const NAME: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        let here = byte as u8;
        table[byte] = here.is_ascii_alphanumeric()
            || matches!(
                here,
                b'-' | b'.'
                    | b'_'
                    | b'~'
                    | b'!'
                    | b'$'
                    | b'&'
                    | b'\''
                    | b'('
                    | b')'
                    | b'*'
                    | b'+'
                    | b';'
                    | b'='
            );
        byte += 1;
    }
    table
};

fn has_empty_label(host: &[u8]) -> bool {
    host.first() == Some(&b'.')
        || host.last() == Some(&b'.')
        || host.windows(2).any(|pair| pair == b"..")
}

/// What follows a host: nothing, or a colon and at most five digits.
fn port(rest: &[u8]) -> Option<Option<u16>> {
    let Some((colon, digits)) = rest.split_first() else {
        return Some(None);
    };
    if *colon != b':' || digits.len() > 5 {
        return None;
    }
    if digits.is_empty() {
        return Some(None);
    }
    let value = super::bytes::decimal(digits)?;
    u16::try_from(value).ok().map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_taken_apart() {
        let good: &[(&str, &str, Option<u16>)] = &[
            ("example.com", "example.com", None),
            ("Example.COM:8000", "Example.COM", Some(8000)),
            ("example.com.", "example.com", None),
            ("example.com.:80", "example.com", Some(80)),
            ("example.com:", "example.com", None),
            ("example.com:00080", "example.com", Some(80)),
            ("127.0.0.1:65535", "127.0.0.1", Some(65535)),
            ("[::1]", "[::1]", None),
            ("[2001:DB8::1]:443", "[2001:DB8::1]", Some(443)),
            ("[::ffff:1.2.3.4]", "[::ffff:1.2.3.4]", None),
            ("my_service:8000", "my_service", Some(8000)),
            ("xn--bcher-kva.example", "xn--bcher-kva.example", None),
            ("a", "a", None),
            ("0.0.0.0=5000", "0.0.0.0=5000", None),
        ];
        for &(text, host, port) in good {
            let got = Authority::parse(text.as_bytes()).expect(text);
            assert_eq!((got.host, got.port), (host.as_bytes(), port), "{text}");
        }
        let long = "a".repeat(256);
        let bad = [
            "",
            ".",
            "..",
            ":",
            ":80",
            "a..b",
            ".a",
            "a..",
            "a:b",
            "a:80:80",
            "a:99999",
            "a:000080",
            "a:+80",
            "a:-1",
            "a: 80",
            "a b",
            "a/b",
            "a\\b",
            "a@b",
            "user@a",
            "a,b",
            "a%41",
            "a?b",
            "a#b",
            "a\"b",
            "a<b",
            "a|b",
            "a^b",
            "{a}",
            "[",
            "[]",
            "[::1",
            "[::1]80",
            "[::1]x",
            "[1.2.3.4]",
            "[v1.a]",
            "[fe80::1%eth0]",
            "[::1%25lo]",
            "::1",
            "a[::1]",
            "b\u{fc}cher",
            "http://a",
            &long,
        ];
        for text in bad {
            assert_eq!(Authority::parse(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn a_default_port_matches_none() {
        let parse = |text: &'static str| Authority::parse(text.as_bytes()).expect(text);
        assert!(parse("A.example").matches(&parse("a.EXAMPLE.:80"), 80));
        assert!(!parse("a.example").matches(&parse("a.example:80"), 443));
        assert!(!parse("a.example").matches(&parse("b.example"), 80));
        assert!(!parse("a.example:1").matches(&parse("a.example:2"), 80));
    }
}
