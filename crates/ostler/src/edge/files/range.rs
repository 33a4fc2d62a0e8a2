//! `Range` requests: which bytes a client asks for (RFC 9110 section 14).
//!
//! Pure: it must not know what a file is, only how long the chosen representation is.

/// Half-open byte ranges are a habit of Rust; HTTP's are inclusive. Here: first byte and length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Offset of the first byte.
    pub offset: u64,
    /// Bytes from there, never 0.
    pub len: u64,
}

/// What a `Range` field means for a representation of a known length.
#[derive(Debug, PartialEq, Eq)]
pub enum Ranges {
    /// Send everything with 200: no range, another unit, not well formed, or too many.
    Whole,
    /// Send these with 206; they do not touch each other and stand in the order of the request.
    Parts(Vec<Slice>),
    /// 416: well formed, but nothing of it lies in the representation.
    Unsatisfiable,
}

/// More ranges than this in one request are not a download manager but an attack (CVE-2011-3192).
pub const MAX_RANGES: usize = 8;

/// Reads a `Range` field's value for a representation of `size` bytes.
pub fn parse(value: &[u8], size: u64) -> Ranges {
    // Some clients ask for a range of everything to bound what they get. There is no way to describe a
    // range of nothing, so an empty file is sent whole (as Go's net/http does).
    if size == 0 {
        return Ranges::Whole;
    }
    let Some(list) = bytes_unit(value) else {
        return Ranges::Whole;
    };
    let mut parts: Vec<Slice> = Vec::new();
    let mut count = 0;
    for spec in list.split(|&b| b == b',') {
        let spec = spec.trim_ascii();
        if spec.is_empty() {
            continue;
        }
        count += 1;
        if count > MAX_RANGES {
            return Ranges::Whole;
        }
        match slice(spec, size) {
            Err(Malformed) => return Ranges::Whole,
            Ok(None) => {}
            Ok(Some(slice)) => coalesce(&mut parts, slice),
        }
    }
    match (count, parts.is_empty()) {
        (0, _) => Ranges::Whole,
        (_, true) => Ranges::Unsatisfiable,
        (_, false) => Ranges::Parts(parts),
    }
}

fn bytes_unit(value: &[u8]) -> Option<&[u8]> {
    let at = memchr::memchr(b'=', value)?;
    value[..at]
        .trim_ascii()
        .eq_ignore_ascii_case(b"bytes")
        .then(|| &value[at + 1..])
}

struct Malformed;

/// One `first-last`, `first-` or `-suffix`; `None` when it lies behind the end.
fn slice(spec: &[u8], size: u64) -> Result<Option<Slice>, Malformed> {
    let dash = memchr::memchr(b'-', spec).ok_or(Malformed)?;
    let (first, last) = (&spec[..dash], &spec[dash + 1..]);
    if first.is_empty() {
        let suffix = number(last)?.min(size);
        return Ok((suffix > 0).then(|| Slice {
            offset: size - suffix,
            len: suffix,
        }));
    }
    let first = number(first)?;
    let end = if last.is_empty() {
        size
    } else {
        let last = number(last)?;
        if last < first {
            return Err(Malformed);
        }
        last.saturating_add(1).min(size)
    };
    Ok((first < end).then(|| Slice {
        offset: first,
        len: end - first,
    }))
}

/// Digits only; a number too large for 64 bits is as good as the largest one.
fn number(digits: &[u8]) -> Result<u64, Malformed> {
    if digits.is_empty() {
        return Err(Malformed);
    }
    let mut value: u64 = 0;
    for &digit in digits {
        if !digit.is_ascii_digit() {
            return Err(Malformed);
        }
        value = value
            .saturating_mul(10)
            .saturating_add(u64::from(digit - b'0'));
    }
    Ok(value)
}

/// Adds a slice; one that overlaps or touches earlier ones melts into the first of them, so no byte is
/// ever sent twice in one answer.
fn coalesce(parts: &mut Vec<Slice>, mut new: Slice) {
    let mut place = None;
    let mut index = 0;
    while index < parts.len() {
        let old = parts[index];
        let apart = new.offset > old.offset + old.len || old.offset > new.offset + new.len;
        if apart {
            index += 1;
            continue;
        }
        let offset = old.offset.min(new.offset);
        let end = (old.offset + old.len).max(new.offset + new.len);
        new = Slice {
            offset,
            len: end - offset,
        };
        parts.remove(index);
        place = Some(place.unwrap_or(index).min(index));
        // The grown slice may now reach one that was apart before.
        index = 0;
    }
    parts.insert(place.unwrap_or(parts.len()), new);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parts(list: &[(u64, u64)]) -> Ranges {
        Ranges::Parts(
            list.iter()
                .map(|&(offset, len)| Slice { offset, len })
                .collect(),
        )
    }

    #[test]
    fn ranges_as_rfc_9110_reads_them() {
        for (value, size, expected) in [
            ("bytes=0-499", 1000, parts(&[(0, 500)])),
            ("bytes=500-", 1000, parts(&[(500, 500)])),
            ("bytes=-500", 1000, parts(&[(500, 500)])),
            ("bytes=-5000", 1000, parts(&[(0, 1000)])),
            ("bytes=0-0", 1000, parts(&[(0, 1)])),
            ("bytes=0-0,-1", 1000, parts(&[(0, 1), (999, 1)])),
            ("bytes=999-5000", 1000, parts(&[(999, 1)])),
            ("bytes=1000-", 1000, Ranges::Unsatisfiable),
            ("bytes=-0", 1000, Ranges::Unsatisfiable),
            ("bytes=2000-,0-1", 1000, parts(&[(0, 2)])),
            ("bytes=500-400", 1000, Ranges::Whole),
            ("bytes=0-1,500-400", 1000, Ranges::Whole),
            ("bytes=", 1000, Ranges::Whole),
            ("bytes=,", 1000, Ranges::Whole),
            ("bytes=a-b", 1000, Ranges::Whole),
            ("bytes=-", 1000, Ranges::Whole),
            ("bytes=5", 1000, Ranges::Whole),
            ("bytes=+5-6", 1000, Ranges::Whole),
            ("bytes=--5", 1000, Ranges::Whole),
            ("bytes 0-5", 1000, Ranges::Whole),
            ("items=0-5", 1000, Ranges::Whole),
            ("Bytes = 0-5", 1000, parts(&[(0, 6)])),
            ("bytes= 0-5 , 10-11", 1000, parts(&[(0, 6), (10, 2)])),
            ("bytes=10-11,0-5", 1000, parts(&[(10, 2), (0, 6)])),
            ("bytes=0-5,3-9", 1000, parts(&[(0, 10)])),
            ("bytes=0-5,6-9", 1000, parts(&[(0, 10)])),
            ("bytes=20-30,0-5,4-21", 1000, parts(&[(0, 31)])),
            ("bytes=0-1,5-6,3-4,2-2", 1000, parts(&[(0, 7)])),
            ("bytes=0-,0-,0-,0-,0-,0-,0-,0-", 1000, parts(&[(0, 1000)])),
            ("bytes=0-,0-,0-,0-,0-,0-,0-,0-,0-", 1000, Ranges::Whole),
            (
                "bytes=0-99999999999999999999999999",
                1000,
                parts(&[(0, 1000)]),
            ),
            (
                "bytes=99999999999999999999999999-",
                1000,
                Ranges::Unsatisfiable,
            ),
            ("bytes=0-0", 0, Ranges::Whole),
            (
                "bytes=0-18446744073709551615",
                u64::MAX,
                parts(&[(0, u64::MAX)]),
            ),
        ] {
            assert_eq!(parse(value.as_bytes(), size), expected, "{value} of {size}");
        }
    }

    proptest! {
        #[test]
        fn parts_lie_inside_and_apart(
            ranges in prop::collection::vec((0u64..60, prop::option::of(0u64..60)), 1..8), size in 1u64..50,
        ) {
            let list: Vec<_> = ranges
                .iter()
                .map(|(a, b)| b.map_or(format!("{a}-"), |b| format!("{}-{}", a.min(&b), a.max(&b))))
                .collect();
            let asked = |byte: u64| ranges.iter().any(|&(a, b)| match b {
                None => byte >= a,
                Some(b) => byte >= a.min(b) && byte <= a.max(b),
            });
            match parse(format!("bytes={}", list.join(",")).as_bytes(), size) {
                Ranges::Whole => prop_assert!(false, "well formed"),
                Ranges::Unsatisfiable => prop_assert!((0..size).all(|b| !asked(b))),
                Ranges::Parts(parts) => {
                    for byte in 0..size {
                        let times =
                            parts.iter().filter(|p| byte >= p.offset && byte < p.offset + p.len).count();
                        prop_assert_eq!(times, usize::from(asked(byte)));
                    }
                    prop_assert!(parts.iter().all(|p| p.len > 0 && p.offset + p.len <= size));
                }
            }
        }

        #[test]
        fn no_input_breaks_the_parser(value in prop::collection::vec(any::<u8>(), 0..64), size: u64) {
            if let Ranges::Parts(parts) = parse(&value, size) {
                prop_assert!(parts.iter().all(|p| p.offset.checked_add(p.len).is_some_and(|end| end <= size)));
            }
        }
    }
}
