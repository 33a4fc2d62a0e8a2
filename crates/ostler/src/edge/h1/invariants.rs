//! What must hold for any bytes at all, as functions that the tests and the fuzz targets share. Each
//! panics when it does not, and tells whether the input was accepted.

use crate::edge::h1::bytes::is_token;
use crate::edge::h1::chunked::Decoder;
use crate::edge::h1::cookie;
use crate::edge::h1::head::{Framing, Head, Limits, Progress, parse};
use crate::edge::h1::host::Authority;
use crate::edge::reason::Reason;

/// What the bytes of one head came to.
pub type Verdict = Result<(usize, Vec<u8>), Reason>;

/// Parses `input` as it comes in pieces that end at `cuts` and at its end. A head is told by what it
/// is written as again.
pub fn head_verdict(input: &[u8], cuts: &[usize]) -> Verdict {
    let (limits, mut head) = (Limits::default(), Head::default());
    for &end in cuts.iter().chain([&input.len()]) {
        if let Progress::Complete { consumed } = parse(&input[..end], &limits, &mut head)? {
            return Ok((consumed, rewritten(&head)));
        }
    }
    Err(Reason::HeadIncomplete)
}

/// A head as one that says the same: what an app would get, and how the body is framed.
pub fn rewritten(head: &Head) -> Vec<u8> {
    let version: &[u8] = match head.version() {
        10 => b"HTTP/1.0",
        _ => b"HTTP/1.1",
    };
    let mut out = [head.method(), b" ", head.target(), b" ", version, b"\r\n"].concat();
    for (_, name, value) in head.fields() {
        out.extend([name, b": ", value, b"\r\n"].concat());
    }
    match head.framing() {
        Framing::None => {}
        Framing::Length(length) => {
            out.extend(format!("content-length: {length}\r\n").into_bytes());
        }
        // What it would be in HTTP/1.1.
        Framing::Chunked | Framing::UntilEnd => out.extend(b"transfer-encoding: chunked\r\n"),
    }
    if head.expect_continue() {
        out.extend(b"expect: 100-continue\r\n");
    }
    out.extend(b"connection: ");
    out.extend(if head.keep_alive() {
        &b"keep-alive"[..]
    } else {
        b"close"
    });
    if head.asks_websocket() {
        out.extend(b", upgrade\r\nupgrade: websocket");
    }
    out.extend(b"\r\n\r\n");
    out
}

/// A head means the same however it arrives, and still does when it is written down again.
/// `seed` chooses where it is cut.
pub fn check_head(input: &[u8], seed: u64) -> bool {
    let whole = head_verdict(input, &[]);
    let cuts = cuts(input.len(), seed);
    assert_eq!(head_verdict(input, &cuts), whole, "cut at {cuts:?}");
    if input.len() <= 512 {
        let every: Vec<usize> = (1..input.len()).collect();
        assert_eq!(head_verdict(input, &every), whole, "byte by byte");
    }
    let Ok((consumed, again)) = whole else {
        return false;
    };
    assert!(consumed <= input.len() && input[..consumed].ends_with(b"\r\n\r\n"));
    check_accepted(&input[..consumed]);
    match head_verdict(&again, &[]) {
        Ok((all, same)) => {
            assert_eq!(all, again.len(), "what was written is more than a head");
            assert_eq!(same, again, "written twice, it differs");
        }
        // The fields of ours may make a head too long that was just short enough.
        Err(Reason::TooManyFields | Reason::HeadTooLarge) => {}
        Err(reason) => panic!("what was accepted is refused when written again: {reason:?}"),
    }
    true
}

/// What no accepted head can hold.
fn check_accepted(head: &[u8]) {
    for (at, &byte) in head.iter().enumerate() {
        match byte {
            b'\r' => assert_eq!(head.get(at + 1), Some(&b'\n'), "a bare CR"),
            b'\n' => assert!(at > 0 && head[at - 1] == b'\r', "a bare LF"),
            b'\t' | b' '..=b'~' | 0x80.. => {}
            _ => panic!("a control byte"),
        }
    }
    let text = String::from_utf8_lossy(head).to_ascii_lowercase();
    let count = |name: &str| text.matches(&format!("\r\n{name}:")).count();
    let (lengths, codings) = (count("content-length"), count("transfer-encoding"));
    assert!(lengths + codings <= 1, "two framings");
    assert!(count("host") <= 1, "two hosts");
    assert!(
        !text.contains("\r\n ") && !text.contains("\r\n\t"),
        "a fold"
    );
}

/// A host and port are a part of what was written, and said again they are the same.
pub fn check_host(input: &[u8], _seed: u64) -> bool {
    let Some(authority) = Authority::parse(input) else {
        return false;
    };
    let host = authority.host;
    assert!(!host.is_empty() && host.len() <= 255 && input.starts_with(host));
    // A dot, a colon and five digits.
    assert!(input.len() <= host.len() + 7, "{input:?}");
    assert!(host.iter().all(|byte| (b'!'..=b'~').contains(byte)));
    assert!(!host.iter().any(|byte| b",@/?#%\\\"<>".contains(byte)));
    let again = match authority.port {
        Some(port) => [host, format!(":{port}").as_bytes()].concat(),
        None => host.to_vec(),
    };
    assert_eq!(Authority::parse(&again), Some(authority), "{again:?}");
    let upper = again.to_ascii_uppercase();
    let upper = Authority::parse(&upper).expect("letters of another case");
    assert!(upper.matches(&authority, 80));
    true
}

/// The name of a cookie up to the first `:`, then a field. What is found stands where a pair begins with that name, and
/// ends where the pair does.
pub fn check_cookie(input: &[u8], _seed: u64) -> bool {
    let Some(colon) = input.iter().position(|&byte| byte == b':') else {
        return false;
    };
    let (name, field) = (&input[..colon], &input[colon + 1..]);
    if !is_token(name) {
        return false;
    }
    let is_space = |byte: &u8| b" \t".contains(byte);
    let begins = |at: usize| {
        let before = field[..at].iter().rev().find(|byte| !is_space(byte));
        before.is_none_or(|&byte| byte == b';')
    };
    let pair = [name, b"="].concat();
    let first = (0..field.len()).find(|&at| field[at..].starts_with(&pair) && begins(at));
    let expected = first.map(|at| {
        let rest = &field[at + pair.len()..];
        let end = rest.iter().position(|&byte| byte == b';');
        let value = &rest[..end.unwrap_or(rest.len())];
        let last = value.iter().rposition(|byte| !is_space(byte));
        &value[..last.map_or(0, |last| last + 1)]
    });
    assert_eq!(cookie::value(field, name), expected, "{input:?}");
    expected.is_some()
}

/// What a chunked body came to: its bytes and how many bytes of the input it took.
pub type Decoded = Result<(Vec<u8>, usize), Reason>;

/// Decodes `input` in pieces that end at `cuts` and at its end.
pub fn chunked_verdict(input: &[u8], cuts: &[usize]) -> Decoded {
    let (mut decoder, mut out, mut used) = (Decoder::default(), Vec::new(), 0);
    let mut from = 0;
    for &end in cuts.iter().chain([&input.len()]) {
        let decoded = decoder.decode(&input[from..end], &mut out)?;
        used += decoded.consumed;
        if decoded.done {
            return Ok((out, used));
        }
        assert_eq!(used, end, "bytes were left although the body goes on");
        from = end;
    }
    Err(Reason::BodyIncomplete)
}

/// A chunked body holds the same bytes however it arrives, and again when it is encoded anew.
pub fn check_chunked(input: &[u8], seed: u64) -> bool {
    let whole = chunked_verdict(input, &[]);
    let cuts = cuts(input.len(), seed);
    assert_eq!(chunked_verdict(input, &cuts), whole, "cut at {cuts:?}");
    if input.len() <= 512 {
        let every: Vec<usize> = (1..input.len()).collect();
        assert_eq!(chunked_verdict(input, &every), whole, "byte by byte");
    }
    let Ok((body, used)) = whole else {
        return false;
    };
    assert_eq!(plain_decode(&input[..used]).as_deref(), Some(&body[..]));
    let mut again = Vec::new();
    for piece in body.chunks(7) {
        again.extend(format!("{:X};again\r\n", piece.len()).into_bytes());
        again.extend(piece);
        again.extend(b"\r\n");
    }
    again.extend(b"0\r\n\r\nGET");
    let length = again.len() - 3;
    assert_eq!(chunked_verdict(&again, &[]), Ok((body, length)));
    true
}

/// The chunked coding written a second time, for bodies that are known to be good: line by line.
fn plain_decode(mut input: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = input.windows(2).position(|pair| pair == b"\r\n")?;
        let line = std::str::from_utf8(&input[..end]).ok();
        let digits = line.map_or_else(
            || String::from_utf8_lossy(&input[..end]).into_owned(),
            str::to_owned,
        );
        let digits = digits.split(';').next()?.to_owned();
        let size = usize::from_str_radix(&digits, 16).ok()?;
        input = &input[end + 2..];
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(input.get(..size)?);
        input = input.get(size..)?.strip_prefix(b"\r\n")?;
    }
}

/// Up to four places to cut, in order.
fn cuts(len: usize, mut seed: u64) -> Vec<usize> {
    let mut cuts = Vec::new();
    for _ in 0..4 {
        seed = seed
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        if len > 1 {
            cuts.push(1 + (seed >> 33) as usize % (len - 1));
        }
    }
    cuts.sort_unstable();
    cuts.dedup();
    cuts
}
