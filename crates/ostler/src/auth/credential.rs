//! What a request shows to prove who sends it. Believes nothing.

use crate::logs::base64;

/// Longest credential that is looked at, in bytes.
const LONGEST: usize = 8 * 1024;

/// The values of the fields that may carry one.
#[derive(Debug, Clone, Copy, Default)]
pub struct Shown<'h> {
    pub authorization: Option<&'h [u8]>,
    /// `X-API-Key`
    pub api_key: Option<&'h [u8]>,
}

impl<'h> Shown<'h> {
    /// What may be an API key, the more certain first: `X-API-Key`, `Authorization: Bearer KEY`, and `Authorization:
    /// KEY` without a scheme. An app may have its own use for one of the fields beside the other.
    pub fn keys(self) -> impl Iterator<Item = &'h [u8]> {
        let bare = |value: &'h [u8]| match self.bearer() {
            None if !value.contains(&b' ') => Some(value),
            bearer => bearer,
        };
        let keys = [self.api_key, self.authorization.and_then(bare)];
        let keys = keys.into_iter().flatten().map(<[u8]>::trim_ascii);
        keys.filter(|key| !key.is_empty() && key.len() <= LONGEST)
    }

    /// The token of `Authorization: Bearer TOKEN` (RFC 6750 section 2.1).
    pub fn bearer(self) -> Option<&'h [u8]> {
        self.with_scheme(b"bearer")
    }

    /// `user:password` of `Authorization: Basic` (RFC 7617 section 2).
    pub fn basic(self) -> Option<Vec<u8>> {
        base64(self.with_scheme(b"basic")?)
    }

    /// What stands behind a scheme, whose name has no case (RFC 9110 section 11.1).
    fn with_scheme(self, scheme: &[u8]) -> Option<&'h [u8]> {
        let value = self.authorization?.trim_ascii();
        let (named, rest) = value.split_at_checked(scheme.len())?;
        let rest = rest.strip_prefix(b" ")?.trim_ascii();
        (named.eq_ignore_ascii_case(scheme) && value.len() <= LONGEST).then_some(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn keys(authorization: Option<&str>, api_key: Option<&str>, expected: &[&str]) {
        let shown = Shown {
            authorization: authorization.map(str::as_bytes),
            api_key: api_key.map(str::as_bytes),
        };
        let found: Vec<String> = shown
            .keys()
            .map(|key| String::from_utf8_lossy(key).into_owned())
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_key_may_stand_in_three_places() {
        keys(None, None, &[]);
        keys(Some("k1"), None, &["k1"]);
        keys(Some("Bearer k1"), None, &["k1"]);
        keys(Some("bEARER   k1 "), None, &["k1"]);
        keys(None, Some("k1"), &["k1"]);
        keys(Some("Bearer theirs"), Some("k1"), &["k1", "theirs"]);
        keys(Some("Basic YTpi"), Some("k1"), &["k1"]);
        for nothing in ["", " ", "Bearer", "Bearer ", "Basic YTpi", "Token k1"] {
            let expected: &[&str] = if nothing == "Bearer" {
                &["Bearer"]
            } else {
                &[]
            };
            keys(Some(nothing), None, expected);
        }
        keys(Some(&"k".repeat(LONGEST + 1)), None, &[]);
    }
}
