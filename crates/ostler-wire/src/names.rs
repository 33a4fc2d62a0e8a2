//! Header names that travel as one byte instead of their text.

/// Lower-case names of common request headers. The id on the wire is the index plus one; 0 means a
/// literal name follows. Sorted by length, then text, so that [`name_id`] looks at few of them.
pub const NAMES: [&str; 62] = [
    "te",
    "dnt",
    "via",
    "date",
    "from",
    "host",
    "link",
    "range",
    "accept",
    "cookie",
    "expect",
    "origin",
    "pragma",
    "referer",
    "sec-gpc",
    "upgrade",
    "alt-used",
    "if-match",
    "if-range",
    "priority",
    "x-scheme",
    "forwarded",
    "save-data",
    "sec-ch-ua",
    "x-api-key",
    "x-real-ip",
    "connection",
    "keep-alive",
    "tracestate",
    "user-agent",
    "content-md5",
    "traceparent",
    "content-type",
    "x-csrf-token",
    "x-request-id",
    "authorization",
    "cache-control",
    "if-none-match",
    "accept-charset",
    "content-length",
    "sec-fetch-dest",
    "sec-fetch-mode",
    "sec-fetch-site",
    "sec-fetch-user",
    "accept-encoding",
    "accept-language",
    "x-forwarded-for",
    "content-encoding",
    "content-language",
    "sec-ch-ua-mobile",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-requested-with",
    "if-modified-since",
    "sec-websocket-key",
    "transfer-encoding",
    "x-forwarded-proto",
    "sec-ch-ua-platform",
    "if-unmodified-since",
    "proxy-authorization",
    "sec-websocket-version",
    "upgrade-insecure-requests",
];

/// The id of a lower-case header name, 0 when it has none.
pub fn name_id(name: &[u8]) -> u8 {
    // Not for the hot path: the edge looks a name up by its length first.
    NAMES
        .iter()
        .position(|known| known.as_bytes() == name)
        .map_or(0, |index| index as u8 + 1)
}

/// The name behind an id of 1 or more.
pub fn name(id: u8) -> Option<&'static str> {
    NAMES.get(usize::from(id).checked_sub(1)?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_by_length_then_text() {
        assert!(NAMES.is_sorted_by_key(|name| (name.len(), *name)));
    }

    #[test]
    fn every_id_finds_its_name_back() {
        for known in NAMES {
            assert_eq!(name(name_id(known.as_bytes())), Some(known));
        }
        assert_eq!(name_id(b"x-unheard-of"), 0);
        assert_eq!(name(0), None);
        assert_eq!(name(255), None);
    }
}
