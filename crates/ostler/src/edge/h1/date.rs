//! HTTP dates (RFC 9110 section 5.6.7): one form to write, three forms to read.
//!
//! It must not know what time it is, but for the century of a two-digit year.

use time::{Date, Month, OffsetDateTime, PrimitiveDateTime, Time};

/// `Sun, 06 Nov 1994 08:49:37 GMT` for seconds since 1970. The years this form can write end with 9999; what
/// lies behind them is written as its last second.
pub fn imf_fixdate(seconds: u64) -> [u8; 29] {
    let seconds = i64::try_from(seconds).map_or(LAST_SECOND, |seconds| seconds.min(LAST_SECOND));
    let when = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let mut out = *b"Day, 00 Mon 0000 00:00:00 GMT";
    out[..3]
        .copy_from_slice(DAYS[usize::from(when.weekday().number_days_from_monday())].as_bytes());
    out[8..11].copy_from_slice(MONTHS[usize::from(u8::from(when.month())) - 1].as_bytes());
    let year = when.year().unsigned_abs();
    let numbers = [
        (5, u32::from(when.day())),
        (12, year / 100),
        (14, year % 100),
        (17, u32::from(when.hour())),
        (20, u32::from(when.minute())),
        (23, u32::from(when.second())),
    ];
    for (at, number) in numbers {
        out[at] = b'0' + (number / 10) as u8;
        out[at + 1] = b'0' + (number % 10) as u8;
    }
    out
}

/// Seconds since 1970 of any of the three forms; `None` for everything else, and for days that never were.
pub fn parse(value: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(value).ok()?.trim_ascii();
    let (day_name, rest) = text.split_at_checked(text.find([',', ' '])?)?;
    let when = match rest.strip_prefix(", ") {
        Some(rest) if DAYS.contains(&day_name) => imf(rest),
        Some(rest) if LONG_DAYS.contains(&day_name) => rfc850(rest),
        None if DAYS.contains(&day_name) => asctime(rest.strip_prefix(' ')?),
        _ => None,
    };
    when.map(|when| when.assume_utc().unix_timestamp())
}

/// `06 Nov 1994 08:49:37 GMT`
fn imf(rest: &str) -> Option<PrimitiveDateTime> {
    let mut words = rest.strip_suffix(" GMT")?.split(' ');
    let [day, month, year, clock] = [words.next()?, words.next()?, words.next()?, words.next()?];
    let year = i32::try_from(digits(year, 4)?).ok()?;
    words
        .next()
        .is_none()
        .then(|| at(year, month, digits(day, 2)?, clock))?
}

/// `06-Nov-94 08:49:37 GMT`; a year that seems more than 50 years ahead is one of the last century.
fn rfc850(rest: &str) -> Option<PrimitiveDateTime> {
    let (date, clock) = rest.strip_suffix(" GMT")?.split_once(' ')?;
    let mut parts = date.split('-');
    let [day, month, year] = [parts.next()?, parts.next()?, parts.next()?];
    let year = i32::try_from(digits(year, 2)?).ok()?;
    let this_year = OffsetDateTime::now_utc().year();
    let in_this_century = this_year - this_year % 100 + year;
    let year = if in_this_century > this_year + 50 {
        in_this_century - 100
    } else {
        in_this_century
    };
    parts
        .next()
        .is_none()
        .then(|| at(year, month, digits(day, 2)?, clock))?
}

/// `Nov  6 08:49:37 1994`
fn asctime(rest: &str) -> Option<PrimitiveDateTime> {
    let (month, rest) = rest.split_once(' ')?;
    let (day, rest) = rest.split_at_checked(2)?;
    let day = match day.strip_prefix(' ') {
        Some(day) => digits(day, 1)?,
        None => digits(day, 2)?,
    };
    let (clock, year) = rest.strip_prefix(' ')?.split_once(' ')?;
    at(i32::try_from(digits(year, 4)?).ok()?, month, day, clock)
}

fn at(year: i32, month: &str, day: u32, clock: &str) -> Option<PrimitiveDateTime> {
    let month = u8::try_from(MONTHS.iter().position(|name| *name == month)?).ok()? + 1;
    let date =
        Date::from_calendar_date(year, Month::try_from(month).ok()?, u8::try_from(day).ok()?)
            .ok()?;
    let mut parts = clock.split(':');
    let mut part = || u8::try_from(digits(parts.next()?, 2)?).ok();
    let (hour, minute, second) = (part()?, part()?, part()?);
    // A leap second (RFC 9110 allows 60) is the last second before it.
    let time = Time::from_hms(hour, minute, if second == 60 { 59 } else { second }).ok()?;
    parts
        .next()
        .is_none()
        .then(|| PrimitiveDateTime::new(date, time))
}

/// Exactly this many digits.
fn digits(text: &str, count: usize) -> Option<u32> {
    let right = text.len() == count && text.bytes().all(|b| b.is_ascii_digit());
    right.then(|| text.parse().ok())?
}

const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];

const LONG_DAYS: [&str; 7] = [
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
    "Sunday",
];

const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

/// 31 December 9999, 23:59:59.
const LAST_SECOND: i64 = 253_402_300_799;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_form_we_write() {
        for (seconds, expected) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (253_402_300_799, "Fri, 31 Dec 9999 23:59:59 GMT"),
            (u64::MAX, "Fri, 31 Dec 9999 23:59:59 GMT"),
        ] {
            assert_eq!(std::str::from_utf8(&imf_fixdate(seconds)), Ok(expected));
        }
    }

    #[test]
    fn the_forms_we_read() {
        for (text, expected) in [
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(784_111_777)),
            ("Sunday, 06-Nov-94 08:49:37 GMT", Some(784_111_777)),
            ("Sun Nov  6 08:49:37 1994", Some(784_111_777)),
            ("Sun Nov 16 08:49:37 1994", Some(784_975_777)),
            (" Sun, 06 Nov 1994 08:49:37 GMT ", Some(784_111_777)),
            ("Sat, 31 Dec 2016 23:59:60 GMT", Some(1_483_228_799)),
            ("Mon, 01 Jan 1601 00:00:00 GMT", Some(-11_644_473_600)),
            ("Sun, 06 Nov 1994 08:49:37", None),
            ("Sun, 06 Nov 1994 08:49:37 UTC", None),
            ("Sun, 06 Nov 1994 08:49:37 GMT x", None),
            ("Sun, 06 Nov 1994 x 08:49:37 GMT", None),
            ("Sun, 6 Nov 1994 08:49:37 GMT", None),
            ("Sun, 31 Feb 1994 08:49:37 GMT", None),
            ("Sun, 06 nov 1994 08:49:37 GMT", None),
            ("Sun, 06 Nov 1994 24:00:00 GMT", None),
            ("Sun, 06 Nov 1994 08:49 GMT", None),
            ("Sun, 06 Nov 1994 08:49:37:00 GMT", None),
            ("Sun, +6 Nov 1994 08:49:37 GMT", None),
            ("Son, 06 Nov 1994 08:49:37 GMT", None),
            ("Sunday, 06 Nov 1994 08:49:37 GMT", None),
            ("784111777", None),
            ("", None),
            ("Sun", None),
            ("Sun,", None),
        ] {
            assert_eq!(parse(text.as_bytes()), expected, "{text}");
        }
        assert_eq!(parse(b"Sun\xff"), None);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(seconds in 0u64..=253_402_300_799) {
            prop_assert_eq!(parse(&imf_fixdate(seconds)), i64::try_from(seconds).ok());
        }

        #[test]
        fn no_bytes_break_it(bytes in prop::collection::vec(any::<u8>(), 0..40), cut in 0usize..29, byte: u8) {
            parse(&bytes);
            let mut near = imf_fixdate(784_111_777);
            near[cut] = byte;
            parse(&near);
        }
    }
}
