//! One redirect: which paths it is for, and where it leads.

use serde::{Deserialize, Serialize};

use crate::config::error::Complaint;

/// Statuses that keep to what is asked for (RFC 9110 section 15.4).
const STATUSES: [u16; 4] = [301, 302, 307, 308];

/// Sends requests for one path, or all below it, somewhere else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redirect {
    /// Below the route, as canonical paths are; without its `*`.
    pub from: String,
    /// `from` ended with `/*`: for everything below it.
    pub below: bool,
    /// A path below the route, or the beginning of an address; without its `*`.
    pub to: String,
    /// `to` ended with `/*`: what stood behind `from` goes there.
    pub carries: bool,
    pub status: u16,
}

impl Redirect {
    /// Reads `/old/*` and `/new/*`.
    ///
    /// # Errors
    /// The key that is wrong, and what is.
    pub fn parse(from: &str, to: &str, status: u16) -> Result<Self, (&'static str, Complaint)> {
        let (start, below) = split(from);
        let (target, carries) = split(to);
        let wrong = |key, what: &str, hint: &str| Err((key, Complaint::new(what, hint)));
        if !start.starts_with('/') || start.contains(['*', '?', '#', '%']) || has_blank(start) {
            let hint =
                "write \"/old\", or \"/old/*\" for everything below it, without ? # % and blanks";
            return wrong("from", "is no path", hint);
        }
        let address = ["http://", "https://"]
            .iter()
            .find_map(|scheme| target.strip_prefix(scheme));
        let named = address.is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/'));
        let path =
            target.starts_with('/') && !target.starts_with("//") && !target.starts_with("/\\");
        let plain =
            target.is_ascii() && !has_blank(target) && !target.contains(['*', '"', '<', '>', '\\']);
        if !(named || path) || !plain {
            let hint = "write \"/new\", \"https://example.com/new\", or with /* at the end for what `from` has there";
            return wrong("to", "is no path and no address", hint);
        }
        if carries && !below {
            return wrong(
                "to",
                "ends with /* and `from` does not",
                "write from = \"/old/*\"",
            );
        }
        if carries && target.contains('?') {
            return wrong("to", "has a query before its *", "take one of them out");
        }
        if !STATUSES.contains(&status) {
            return wrong(
                "status",
                "is none of 301, 302, 307 and 308",
                "write one of them",
            );
        }
        let redirect = Self {
            from: start.to_owned(),
            below,
            to: target.to_owned(),
            carries,
            status,
        };
        let path = target.split('?').next().unwrap_or(target);
        if path.starts_with('/') && redirect.fits(path.as_bytes()).is_some() {
            return wrong(
                "to",
                "leads to itself",
                "a browser would go round: name a place that `from` is not for",
            );
        }
        Ok(redirect)
    }

    /// What of a path stands behind `from`; `None` when it is not for this path.
    pub fn fits<'p>(&self, path: &'p [u8]) -> Option<&'p [u8]> {
        let rest = path.strip_prefix(self.from.as_bytes())?;
        (self.below || rest.is_empty()).then_some(rest)
    }
}

/// Without the `*` behind its last `/`.
fn split(text: &str) -> (&str, bool) {
    match text.strip_suffix("/*") {
        Some(_) => (&text[..text.len() - 1], true),
        None => (text, false),
    }
}

fn has_blank(text: &str) -> bool {
    text.contains(|c: char| c.is_control() || c.is_whitespace())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_redirect_is_told_with_its_key() {
        for (from, to, key) in [
            ("old", "/new", "from"),
            ("/o*d", "/new", "from"),
            ("/old?x", "/new", "from"),
            ("/old", "new", "to"),
            ("/old", "//evil.test", "to"),
            ("/old", "/\\evil.test", "to"),
            ("/old", "https://", "to"),
            ("/old", "https:///x", "to"),
            ("/old", "javascript:x", "to"),
            ("/old", "/new\r\nSet-Cookie: a", "to"),
            ("/old", "/new/*", "to"),
            ("/old/*", "/new?x=/*", "to"),
            ("/old/*", "/old/new", "to"),
            ("/old/*", "/old/new/*", "to"),
            ("/*", "/new", "to"),
            ("/old", "/old?new", "to"),
        ] {
            let refused = Redirect::parse(from, to, 308).expect_err(from);
            assert_eq!(refused.0, key, "{from} {to}");
        }
    }

    #[test]
    fn a_redirect_is_for_one_path_or_for_all_below() {
        let redirect = |from, to| Redirect::parse(from, to, 308).expect("a redirect");
        let one = redirect("/old", "/new");
        assert_eq!(one.fits(b"/old"), Some(&b""[..]));
        assert_eq!((one.fits(b"/old/"), one.fits(b"/older")), (None, None));
        let below = redirect("/old/*", "https://x.test/*");
        assert_eq!(below.fits(b"/old/a/b"), Some(&b"a/b"[..]));
        assert_eq!((below.fits(b"/old"), below.fits(b"/older/a")), (None, None));
        assert_eq!(
            redirect("/*", "https://x.test/*").fits(b"/a"),
            Some(&b"a"[..])
        );
    }
}
