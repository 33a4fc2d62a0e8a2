//! Numbers in rows, without the formatting machinery: a row has a dozen of them.

use std::time::Duration;

/// Appends a number.
pub fn write(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Appends the six digits of a number of microseconds below a million.
pub fn padded(out: &mut Vec<u8>, micros: u32) {
    for power in [100_000, 10_000, 1000, 100, 10, 1] {
        out.push(b'0' + (micros / power % 10) as u8);
    }
}

/// Whole microseconds, what does not fit (584,000 years) as the largest number.
pub fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_decimal() {
        for number in [0, 9, 10, 1234, u64::MAX] {
            let mut out = Vec::new();
            write(&mut out, number);
            assert_eq!(String::from_utf8(out).unwrap(), number.to_string());
        }
        let mut out = Vec::new();
        padded(&mut out, 1234);
        assert_eq!(out, b"001234");
        assert_eq!(micros(Duration::from_nanos(1_999_999)), 1999);
        assert_eq!(micros(Duration::MAX), u64::MAX);
    }
}
