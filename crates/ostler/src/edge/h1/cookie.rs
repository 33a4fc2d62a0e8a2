//! What a `Cookie` field says (RFC 6265 section 5.4).

use super::bytes::trim;

/// The value of the first cookie of a name in one field. Names are compared as they are, and quotes belong to a value.
pub fn value<'f>(field: &'f [u8], name: &[u8]) -> Option<&'f [u8]> {
    let mut pairs = field.split(|&byte| byte == b';').map(trim);
    pairs.find_map(|pair| pair.strip_prefix(name)?.strip_prefix(b"="))
}

#[cfg(test)]
mod tests {
    use super::super::invariants::check_cookie;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_first_of_a_name_counts() {
        for (field, expected) in [
            ("a=1", Some("1")),
            ("b=2; a=1; a=3", Some("1")),
            ("aa=2;a=1", Some("1")),
            ("A=2; xa=3", None),
            ("a; a=", Some("")),
            ("\ta=\"x y\" ;", Some("\"x y\"")),
            ("a =1", None),
            ("b=a=1", None),
            ("", None),
        ] {
            let found = value(field.as_bytes(), b"a");
            assert_eq!(found, expected.map(str::as_bytes), "{field:?}");
        }
    }

    proptest! {
        #[test]
        fn any_field_keeps_the_invariants(field in "[ab=; ,\"\\t\\x00]{0,40}") {
            check_cookie(format!("a:{field}").as_bytes(), 1);
        }
    }
}
