//! Conditional requests: does the client need the file at all (RFC 9110 section 13)?
//!
//! Pure: it must not know how validators were made. Dates are whole seconds since 1970, UTC.

/// What identifies one state of a representation.
#[derive(Clone, Copy, Debug)]
pub struct Validators<'a> {
    /// The entity tag as it is sent, with quotes.
    pub etag: &'a [u8],
    /// Last modification, whole seconds.
    pub modified: i64,
    /// Whether `modified` was already more than a second past when the file was looked at; only then no
    /// second change can hide behind the same date (RFC 9110 section 8.8.2.2).
    pub settled: bool,
}

/// The conditional fields of a request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Conditions<'a> {
    pub if_match: Option<&'a [u8]>,
    pub if_none_match: Option<&'a [u8]>,
    pub if_modified_since: Option<&'a [u8]>,
    pub if_unmodified_since: Option<&'a [u8]>,
    pub if_range: Option<&'a [u8]>,
}

/// What the conditions ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Send the representation.
    Proceed,
    /// 304: the client has it.
    NotModified,
    /// 412: the client wanted another state of it.
    Failed,
}

impl Conditions<'_> {
    /// Evaluates everything but `If-Range`, in the order of RFC 9110 section 13.2.2, for GET and HEAD.
    pub fn evaluate(&self, current: Validators<'_>) -> Outcome {
        if let Some(wanted) = self.if_match {
            if !lists(wanted, current.etag, Compare::Strong) {
                return Outcome::Failed;
            }
        } else if let Some(limit) = self
            .if_unmodified_since
            .and_then(crate::edge::h1::date::parse)
            && current.modified > limit
        {
            return Outcome::Failed;
        }
        if let Some(known) = self.if_none_match {
            if lists(known, current.etag, Compare::Weak) {
                return Outcome::NotModified;
            }
        } else if let Some(since) = self
            .if_modified_since
            .and_then(crate::edge::h1::date::parse)
            && current.modified <= since
        {
            return Outcome::NotModified;
        }
        Outcome::Proceed
    }

    /// Whether a `Range` may be answered: no `If-Range`, or one that names exactly the current state.
    pub fn range_applies(&self, current: Validators<'_>) -> bool {
        let Some(condition) = self.if_range else {
            return true;
        };
        let condition = condition.trim_ascii();
        if condition.starts_with(b"\"") || condition.starts_with(b"W/") {
            return same(condition, current.etag, Compare::Strong);
        }
        current.settled && crate::edge::h1::date::parse(condition) == Some(current.modified)
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Compare {
    Strong,
    Weak,
}

/// Whether a list of entity tags (or `*`) holds this one. A list that is not well formed holds what stands
/// before the fault.
fn lists(list: &[u8], etag: &[u8], compare: Compare) -> bool {
    let mut rest = list.trim_ascii();
    if rest == b"*" {
        return true;
    }
    while let Some((tag, after)) = first_tag(rest) {
        if same(tag, etag, compare) {
            return true;
        }
        rest = after;
    }
    false
}

/// Splits off the first entity tag; tags may hold commas, so quotes lead.
fn first_tag(list: &[u8]) -> Option<(&[u8], &[u8])> {
    let start = list
        .iter()
        .position(|b| !matches!(b, b' ' | b'\t' | b','))?;
    let list = &list[start..];
    let opening = if list.starts_with(b"W/") { 2 } else { 0 };
    if list.get(opening) != Some(&b'"') {
        return None;
    }
    let closing = opening + 1 + memchr::memchr(b'"', &list[opening + 1..])?;
    Some(list.split_at(closing + 1))
}

fn same(a: &[u8], b: &[u8], compare: Compare) -> bool {
    match compare {
        Compare::Strong => a == b && !a.starts_with(b"W/"),
        Compare::Weak => a.strip_prefix(b"W/").unwrap_or(a) == b.strip_prefix(b"W/").unwrap_or(b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CURRENT: Validators<'_> = Validators {
        etag: b"\"abc\"",
        modified: 784_111_777,
        settled: true,
    };
    const SAME: &[u8] = b"Sun, 06 Nov 1994 08:49:37 GMT";
    const BEFORE: &[u8] = b"Sun, 06 Nov 1994 08:49:36 GMT";
    const AFTER: &[u8] = b"Sun, 06 Nov 1994 08:49:38 GMT";

    #[test]
    fn if_none_match() {
        for (value, expected) in [
            (&b"\"abc\""[..], Outcome::NotModified),
            (b"W/\"abc\"", Outcome::NotModified),
            (b"*", Outcome::NotModified),
            (b"\"x\", \"a,b\" , W/\"abc\"", Outcome::NotModified),
            (b",,\"abc\"", Outcome::NotModified),
            (b"\"x\"", Outcome::Proceed),
            (b"abc", Outcome::Proceed),
            (b"\"abc", Outcome::Proceed),
            (b"\"x\",broken,\"abc\"", Outcome::Proceed),
            (b"", Outcome::Proceed),
            (b"w/\"abc\"", Outcome::Proceed),
        ] {
            // If-Modified-Since is ignored beside If-None-Match, whatever it says.
            for since in [None, Some(AFTER)] {
                let conditions = Conditions {
                    if_none_match: Some(value),
                    if_modified_since: since,
                    ..Conditions::default()
                };
                assert_eq!(
                    conditions.evaluate(CURRENT),
                    expected,
                    "{}",
                    value.escape_ascii()
                );
            }
        }
    }

    #[test]
    fn if_match_compares_strongly_and_hides_if_unmodified_since() {
        for (value, etag, expected) in [
            (&b"\"abc\""[..], &b"\"abc\""[..], Outcome::Proceed),
            (b"*", b"\"abc\"", Outcome::Proceed),
            (b"W/\"abc\"", b"\"abc\"", Outcome::Failed),
            (b"\"abc\"", b"W/\"abc\"", Outcome::Failed),
            (b"\"x\"", b"\"abc\"", Outcome::Failed),
        ] {
            let conditions = Conditions {
                if_match: Some(value),
                if_unmodified_since: Some(BEFORE),
                ..Conditions::default()
            };
            assert_eq!(
                conditions.evaluate(Validators { etag, ..CURRENT }),
                expected
            );
        }
    }

    #[test]
    fn dates() {
        let since = |value| Conditions {
            if_modified_since: Some(value),
            ..Conditions::default()
        };
        assert_eq!(since(SAME).evaluate(CURRENT), Outcome::NotModified);
        assert_eq!(since(AFTER).evaluate(CURRENT), Outcome::NotModified);
        assert_eq!(since(BEFORE).evaluate(CURRENT), Outcome::Proceed);
        assert_eq!(since(b"yesterday").evaluate(CURRENT), Outcome::Proceed);
        let unmodified = |value| Conditions {
            if_unmodified_since: Some(value),
            ..Conditions::default()
        };
        assert_eq!(unmodified(SAME).evaluate(CURRENT), Outcome::Proceed);
        assert_eq!(unmodified(AFTER).evaluate(CURRENT), Outcome::Proceed);
        assert_eq!(unmodified(BEFORE).evaluate(CURRENT), Outcome::Failed);
        assert_eq!(unmodified(b"").evaluate(CURRENT), Outcome::Proceed);
    }

    #[test]
    fn a_failed_precondition_wins_over_a_fresh_copy() {
        let conditions = Conditions {
            if_match: Some(b"\"x\""),
            if_none_match: Some(b"\"abc\""),
            ..Conditions::default()
        };
        assert_eq!(conditions.evaluate(CURRENT), Outcome::Failed);
    }

    #[test]
    fn if_range_wants_the_very_same_state() {
        for (value, expected) in [
            (None, true),
            (Some(&b"\"abc\""[..]), true),
            (Some(b"W/\"abc\""), false),
            (Some(b"\"x\""), false),
            (Some(SAME), true),
            (Some(BEFORE), false),
            (Some(AFTER), false),
            (Some(b"junk"), false),
        ] {
            let conditions = Conditions {
                if_range: value,
                ..Conditions::default()
            };
            assert_eq!(conditions.range_applies(CURRENT), expected, "{value:?}");
        }
        let conditions = Conditions {
            if_range: Some(SAME),
            ..Conditions::default()
        };
        assert!(!conditions.range_applies(Validators {
            settled: false,
            ..CURRENT
        }));
    }
}
