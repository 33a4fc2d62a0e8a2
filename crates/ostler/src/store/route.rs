//! What many requests have in common: their project, their method, and their path without its values. Named as the
//! timings of runs name a request whose app tells no template (`ostler-worker/src/timing.rs`). Pure.

/// What requests are told apart by.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Route {
    pub project: String,
    /// Empty for a head that was refused.
    pub method: String,
    pub path: String,
}

/// What is written of a segment that is a value.
const VALUE: &str = "{}";

/// A path is cut behind so many bytes.
const LONGEST_PATH: usize = 160;

/// A longer segment of a path is no name but a value.
const LONGEST_SEGMENT: usize = 40;

impl Route {
    pub fn new(project: String, method: &str, path: &str) -> Self {
        Self {
            project,
            method: known(method).to_owned(),
            path: without_values(path),
        }
    }
}

/// The methods there are (RFC 9110 section 9, RFC 5789); a client may invent others without end.
fn known(method: &str) -> &str {
    match method {
        "GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE" | "OPTIONS" | "TRACE" | "CONNECT"
        | "" => method,
        _ => "OTHER",
    }
}

/// `/users/17/orders/8f14e45fceea167a` → `/users/{}/orders/{}`.
fn without_values(path: &str) -> String {
    let mut out = String::with_capacity(path.len().min(LONGEST_PATH));
    for (number, segment) in path.split('/').enumerate() {
        if number > 0 {
            out.push('/');
        }
        out.push_str(if is_value(segment) { VALUE } else { segment });
        if out.len() > LONGEST_PATH {
            break;
        }
    }
    out
}

/// Numbers, the hexadecimal names of things (UUIDs, hashes), and what is too long for a name.
fn is_value(segment: &str) -> bool {
    /// Shorter ones may be words, as `cafe1`.
    const SHORTEST_HEX: usize = 16;
    let digit = |byte: &u8| byte.is_ascii_digit();
    let bytes = segment.as_bytes();
    if bytes.is_empty() {
        return false;
    }
    let hexadecimal = bytes
        .iter()
        .all(|byte| byte.is_ascii_hexdigit() || *byte == b'-');
    bytes.len() > LONGEST_SEGMENT
        || bytes.iter().all(digit)
        || (bytes.len() >= SHORTEST_HEX && hexadecimal && bytes.iter().any(digit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lose_their_values() {
        let long = "x".repeat(41);
        for (path, expected) in [
            ("/item/1", "/item/{}"),
            ("/item/22/of/333/", "/item/{}/of/{}/"),
            ("/v1/items", "/v1/items"),
            ("/orders/8f14e45f-ceea-167a-9d3e-8f14e45fceea", "/orders/{}"),
            (
                "/words/cafe1/abcdefabcdefabcdef",
                "/words/cafe1/abcdefabcdefabcdef",
            ),
            (&format!("/t/{long}"), "/t/{}"),
            ("/", "/"),
            ("", ""),
            ("*", "*"),
            ("/é/7", "/é/{}"),
        ] {
            assert_eq!(without_values(path), expected, "{path}");
        }
        let deep = "/segment".repeat(1000);
        assert!(without_values(&deep).len() <= LONGEST_PATH + LONGEST_SEGMENT + 1);
    }

    #[test]
    fn invented_methods_are_one() {
        let route = |method| Route::new(String::new(), method, "/").method;
        assert_eq!(
            ["GET", "BREW", "get", ""].map(route),
            ["GET", "OTHER", "OTHER", ""]
        );
    }
}
