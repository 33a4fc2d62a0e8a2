//! What must hold for any `Range` field, as a function that the tests and the fuzz target share. It panics when
//! something does not, and tells whether parts are to be sent.

use super::range::{MAX_RANGES, Ranges, parse};

/// The first byte is the size of the file, the others are the field's value.
pub fn check_range(input: &[u8]) -> bool {
    let Some((&size, value)) = input.split_first() else {
        return false;
    };
    for size in [u64::from(size), u64::from(size) << 56, u64::MAX] {
        check(value, size);
    }
    matches!(parse(value, size.into()), Ranges::Parts(_))
}

/// Parts are within the file, apart from each other, and said again they are the same.
fn check(value: &[u8], size: u64) {
    let Ranges::Parts(parts) = parse(value, size) else {
        return;
    };
    assert!((1..=MAX_RANGES).contains(&parts.len()));
    for (index, part) in parts.iter().enumerate() {
        let end = part.offset.checked_add(part.len).expect("no overflow");
        assert!(part.len > 0 && end <= size, "{part:?} of {size}");
        for other in &parts[..index] {
            let apart = end < other.offset || other.offset + other.len < part.offset;
            assert!(apart, "{part:?} and {other:?} of {size}");
        }
    }
    let again = parts
        .iter()
        .map(|part| format!("{}-{}", part.offset, part.offset + part.len - 1));
    let again = format!("BYTES = {}", again.collect::<Vec<_>>().join(" , "));
    assert_eq!(
        parse(again.as_bytes(), size),
        Ranges::Parts(parts),
        "{again}"
    );
}
