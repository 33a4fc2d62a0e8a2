//! Where a redirect rule sends a request. Nothing that a client typed names a host.

use crate::config::serve::Redirect;
use crate::edge::h1::bytes::escape;

/// The address for a path and a query below `mount`, and the status; `None` when no rule is for it. `path` is
/// canonical, `query` as it was typed.
pub fn find(rules: &[Redirect], mount: &str, path: &[u8], query: &[u8]) -> Option<(Vec<u8>, u16)> {
    if rules.is_empty() {
        return None;
    }
    let below = path.strip_prefix(mount.as_bytes())?;
    let mut fitting = rules
        .iter()
        .filter_map(|rule| Some((rule, rule.fits(below)?)));
    let (rule, rest) = fitting.next()?;
    let is_path = rule.to.starts_with('/');
    let mut to = match is_path {
        true => format!("{mount}{}", rule.to).into_bytes(),
        false => rule.to.clone().into_bytes(),
    };
    if rule.carries {
        // Two slashes at the start would name a host (threats E-19).
        let first = rest
            .iter()
            .position(|byte| *byte != b'/')
            .unwrap_or(rest.len());
        escape(&rest[first..], &mut to);
    }
    if !query.is_empty() && !to.contains(&b'?') {
        to.push(b'?');
        to.extend_from_slice(query);
    }
    Some((to, rule.status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(from: &str, to: &str, mount: &str, path: &[u8], query: &str, expected: Option<&str>) {
        let rules = [Redirect::parse(from, to, 302).expect("a redirect")];
        let found = find(&rules, mount, path, query.as_bytes());
        let found = found.map(|(to, status)| (String::from_utf8(to).expect("text"), status));
        assert_eq!(found, expected.map(|to| (to.to_owned(), 302)));
    }

    #[test]
    fn a_path_is_sent_on_with_what_stands_behind_it() {
        check("/old", "/new", "", b"/old", "", Some("/new"));
        check("/old", "/new", "", b"/old", "a=%20", Some("/new?a=%20"));
        check("/old", "/new?b", "", b"/old", "a", Some("/new?b"));
        check("/old", "/new", "", b"/other", "", None);
        check(
            "/old/*",
            "/new/*",
            "",
            b"/old/a/b c",
            "",
            Some("/new/a/b%20c"),
        );
        check(
            "/old/*",
            "https://x.test/n/*",
            "",
            b"/old/a",
            "q",
            Some("https://x.test/n/a?q"),
        );
        check("/old/*", "/new", "", b"/old/a", "", Some("/new"));
        check(
            "/old/*",
            "/new/*",
            "/blog",
            b"/blog/old/a",
            "",
            Some("/blog/new/a"),
        );
        check("/old/*", "/new/*", "/blog", b"/old/a", "", None);
    }

    #[test]
    fn no_path_becomes_a_host_or_a_line() {
        check(
            "/old/*",
            "/*",
            "",
            b"/old//evil.test/x",
            "",
            Some("/evil.test/x"),
        );
        check(
            "/old/*",
            "/*",
            "",
            b"/old/\\evil.test",
            "",
            Some("/%5Cevil.test"),
        );
        check(
            "/old/*",
            "/*",
            "",
            b"/old/a\r\nSet-Cookie: b",
            "",
            Some("/a%0D%0ASet-Cookie:%20b"),
        );
        check(
            "/old/*",
            "https://x.test/*",
            "",
            b"/old//@evil.test",
            "",
            Some("https://x.test/@evil.test"),
        );
        check("/old/*", "/*", "", b"/old/?x#y%", "", Some("/%3Fx%23y%25"));
    }
}
