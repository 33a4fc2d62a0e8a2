//! Sizes, durations and whole numbers as people write them: "16MiB", "100M", "30", "1m", "0o22".
//! Knows no setting by name.

/// The longest duration taken, in seconds (about 31 years): far beyond any use, and safe in every sum.
pub const LONGEST_SECONDS: f64 = 1e9;

/// A number of bytes: digits with an optional unit. `K`, `M`, `G` and `KiB`, `MiB`, `GiB` count in 1,024s
/// (as nginx does), `kB`, `MB`, `GB` in 1,000s. Case and one space before the unit do not matter.
///
/// # Errors
/// `None` when the text is not of that form or the number does not fit 63 bits.
pub fn size(text: &str) -> Option<u64> {
    let (number, unit) = split(text);
    let factor: f64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "ki" | "kib" => 1024.0,
        "m" | "mi" | "mib" => 1_048_576.0,
        "g" | "gi" | "gib" => 1_073_741_824.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        _ => return None,
    };
    let bytes = decimal(number)? * factor;
    // 2^53: the largest number up to which every whole number of bytes is exact in an f64.
    (bytes <= 9_007_199_254_740_992.0).then_some(bytes as u64)
}

/// A number of seconds: digits, perhaps with a fraction, and an optional unit `ms`, `s`, `m`, `h` or `d`.
///
/// # Errors
/// `None` when the text is not of that form or is above [`LONGEST_SECONDS`].
pub fn seconds(text: &str) -> Option<f64> {
    let (number, unit) = split(text);
    let factor = match unit.to_ascii_lowercase().as_str() {
        "ms" => 0.001,
        "" | "s" | "sec" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => return None,
    };
    let seconds = decimal(number)? * factor;
    (seconds <= LONGEST_SECONDS).then_some(seconds)
}

/// A whole number as Python's `int(text, 0)` takes it, and leading zeros as its command line does.
pub fn whole(text: &str) -> Option<i64> {
    let text = text.trim();
    let (sign, digits) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let (digits, radix) = match lower.get(..2) {
        Some("0x") => (&lower[2..], 16),
        Some("0o") => (&lower[2..], 8),
        Some("0b") => (&lower[2..], 2),
        _ => (lower.as_str(), 10),
    };
    // from_str_radix would take a second sign.
    let plain = digits.starts_with(|c: char| c.is_ascii_hexdigit());
    plain.then(|| i64::from_str_radix(digits, radix).ok().map(|n| sign * n))?
}

fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text
        .find(|c: char| !(c.is_ascii_digit() || c == '.'))
        .unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

/// Digits with at most one point between or before them; no sign, no exponent, no "inf".
fn decimal(number: &str) -> Option<f64> {
    let digit_last = number.ends_with(|c: char| c.is_ascii_digit());
    if !digit_last || number.len() > 18 {
        return None;
    }
    number.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let check =
            |text: &str, expected: Option<u64>| assert_eq!(size(text), expected, "{text:?}");
        check("0", Some(0));
        check("100", Some(100));
        check("16MiB", Some(16 << 20));
        check("100M", Some(100 << 20));
        check("100 M", Some(100 << 20));
        check("1.5g", Some(3 << 29));
        check("2kB", Some(2000));
        check("64K", Some(65_536));
        check("10MB", Some(10_000_000));
        check(" 7b ", Some(7));
        for bad in [
            "",
            "M",
            "-1",
            "1.2.3",
            "1.",
            "1e3",
            "inf",
            "nan",
            "1 0",
            "10 parsecs",
            "99999999G",
        ] {
            check(bad, None);
        }
    }

    #[test]
    fn durations() {
        let check =
            |text: &str, expected: Option<f64>| assert_eq!(seconds(text), expected, "{text:?}");
        check("30", Some(30.0));
        check("30s", Some(30.0));
        check("0", Some(0.0));
        check("1m", Some(60.0));
        check("365d", Some(31_536_000.0));
        check("2h", Some(7200.0));
        check("500ms", Some(0.5));
        check("0.25", Some(0.25));
        for bad in [
            "",
            "-1",
            "s",
            "1w",
            "1e9",
            "9999999999",
            "1m30s",
            "infinity",
        ] {
            check(bad, None);
        }
    }

    #[test]
    fn whole_numbers() {
        let check =
            |text: &str, expected: Option<i64>| assert_eq!(whole(text), expected, "{text:?}");
        check("4", Some(4));
        check("-1", Some(-1));
        check("0x10", Some(16));
        check("0o22", Some(18));
        check("0b101", Some(5));
        check("010", Some(10));
        for bad in [
            "",
            "-",
            "--1",
            "+-1",
            "4.5",
            "four",
            "0x",
            "0x-1",
            "99999999999999999999",
        ] {
            check(bad, None);
        }
    }
}
