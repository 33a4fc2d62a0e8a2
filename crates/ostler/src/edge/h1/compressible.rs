//! Which kinds of content get smaller by a content coding. It must not know whose content it is.

/// Whether content of this type is worth coding. Images, sound, video, archives and WOFF are compressed already, and
/// what nobody knows is left alone. Not in the list on purpose: `text/event-stream`. Its events are small and each
/// needs a flush, so little is won, and each of thousands of open streams would hold an encoder for hours (nginx
/// leaves it alone by default, too).
pub fn is_compressible(content_type: &[u8]) -> bool {
    let end = memchr::memchr(b';', content_type).unwrap_or(content_type.len());
    let kind = content_type[..end].trim_ascii();
    if kind.len() > LONGEST {
        return false;
    }
    let mut lower = [0; LONGEST];
    let lower = &mut lower[..kind.len()];
    lower.copy_from_slice(kind);
    lower.make_ascii_lowercase();
    let lower: &[u8] = lower;
    match lower {
        b"text/event-stream" => false,
        _ if lower.starts_with(b"text/") => true,
        _ if lower.ends_with(b"+json") || lower.ends_with(b"+xml") || lower.ends_with(b"+text") => {
            true
        }
        _ => OTHERS.contains(&lower),
    }
}

/// Longest type that is looked at, in bytes: RFC 6838 section 4.2 has 127 for each half.
const LONGEST: usize = 255;

const OTHERS: &[&[u8]] = &[
    b"application/dns-json",
    b"application/ecmascript",
    b"application/graphql",
    b"application/javascript",
    b"application/json",
    b"application/json5",
    b"application/jsonl",
    b"application/postscript",
    b"application/rtf",
    b"application/sql",
    b"application/toml",
    b"application/vnd.apple.mpegurl",
    b"application/vnd.ms-fontobject",
    b"application/wasm",
    b"application/x-javascript",
    b"application/x-ndjson",
    b"application/x-yaml",
    b"application/xml",
    b"application/xml-dtd",
    b"application/yaml",
    b"font/otf",
    b"font/ttf",
    b"image/bmp",
    b"image/vnd.microsoft.icon",
    b"image/x-icon",
    b"model/gltf-binary",
];

#[cfg(test)]
mod tests {
    use super::is_compressible;

    #[test]
    fn text_in_any_clothes_and_nothing_that_is_packed() {
        for (kind, expected) in [
            ("text/html", true),
            ("TEXT/HTML; charset=utf-8", true),
            ("text/event-stream", false),
            ("text/event-stream; charset=utf-8", false),
            ("application/json", true),
            ("application/problem+json", true),
            ("image/svg+xml", true),
            ("image/png", false),
            ("application/octet-stream", false),
            ("application/zip", false),
            ("font/woff2", false),
            ("font/ttf", true),
            ("", false),
            (";", false),
        ] {
            assert_eq!(is_compressible(kind.as_bytes()), expected, "{kind}");
        }
        assert!(!is_compressible(
            &[b"text/".as_slice(), &[b'x'; 400]].concat()
        ));
    }
}
