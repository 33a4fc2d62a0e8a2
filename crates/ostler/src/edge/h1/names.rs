//! Header names as small numbers: the ids of `ostler_wire::NAMES`, found quickly, and constants for
//! the names that rules are made of. It must not know the rules.

use ostler_wire::NAMES;

/// The id of a name at compile time; a name that has none does not compile.
const fn id(wanted: &str) -> u8 {
    let mut index = 0;
    while index < NAMES.len() {
        if same(NAMES[index].as_bytes(), wanted.as_bytes()) {
            return index as u8 + 1;
        }
        index += 1;
    }
    panic!("the name is not in ostler_wire::NAMES");
}

const fn same(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let mut at = 0;
    while at < a.len() {
        if a[at] != b[at] {
            return false;
        }
        at += 1;
    }
    true
}

pub const TE: u8 = id("te");
pub const HOST: u8 = id("host");
pub const COOKIE: u8 = id("cookie");
pub const EXPECT: u8 = id("expect");
pub const UPGRADE: u8 = id("upgrade");
pub const FORWARDED: u8 = id("forwarded");
pub const X_REAL_IP: u8 = id("x-real-ip");
pub const CONNECTION: u8 = id("connection");
pub const KEEP_ALIVE: u8 = id("keep-alive");
pub const X_SCHEME: u8 = id("x-scheme");
pub const TRACESTATE: u8 = id("tracestate");
pub const TRACEPARENT: u8 = id("traceparent");
pub const CONTENT_TYPE: u8 = id("content-type");
pub const CONTENT_LENGTH: u8 = id("content-length");
pub const AUTHORIZATION: u8 = id("authorization");
pub const X_FORWARDED_FOR: u8 = id("x-forwarded-for");
pub const X_FORWARDED_HOST: u8 = id("x-forwarded-host");
pub const X_FORWARDED_PROTO: u8 = id("x-forwarded-proto");
pub const TRANSFER_ENCODING: u8 = id("transfer-encoding");
pub const SEC_WEBSOCKET_KEY: u8 = id("sec-websocket-key");

/// The longest name that has an id, in bytes.
const LONGEST: usize = 25;

/// `FIRST[n]..FIRST[n + 1]` are the places in `NAMES` (which is sorted by length) of names with `n` bytes.
const FIRST: [u8; LONGEST + 2] = {
    let mut first = [0; LONGEST + 2];
    let mut length = 0;
    let mut index = 0;
    while length < first.len() {
        while index < NAMES.len() && NAMES[index].len() < length {
            index += 1;
        }
        first[length] = index as u8;
        length += 1;
    }
    assert!(index == NAMES.len(), "LONGEST is the longest name");
    first
};

/// The id of a lower-case name, 0 when it has none: what `ostler_wire::name_id` gives, with at most
/// six comparisons instead of 62.
pub fn find(name: &[u8]) -> u8 {
    let length = name.len();
    if length > LONGEST {
        return 0;
    }
    let (from, to) = (FIRST[length], FIRST[length + 1]);
    for index in from..to {
        if NAMES[usize::from(index)].as_bytes() == name {
            return index + 1;
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quick_search_finds_what_the_wire_finds() {
        for known in NAMES {
            assert_eq!(
                find(known.as_bytes()),
                ostler_wire::name_id(known.as_bytes())
            );
            let mut other = known.as_bytes().to_vec();
            *other.last_mut().expect("no name is empty") = b'!';
            assert_eq!(find(&other), 0);
        }
        assert_eq!(find(b""), 0);
        assert_eq!(find(&[b'a'; 300]), 0);
        assert_eq!(ostler_wire::name(HOST), Some("host"));
    }
}
