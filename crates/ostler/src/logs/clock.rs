//! Times as logs write them, formatted once per second.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use time::{OffsetDateTime, UtcOffset};

/// The machine's offset from UTC, to be asked once, before any thread exists: later the C library cannot be
/// asked safely. A change to or from summer time shows after a restart; rows carry their offset, so they are
/// never ambiguous.
pub fn local_offset() -> UtcOffset {
    UtcOffset::current_local_offset().unwrap_or(UtcOffset::UTC)
}

/// Formats times of day and remembers the last second.
#[derive(Debug)]
pub struct Clock {
    offset: UtcOffset,
    second: Option<u64>,
    clf: String,
    /// RFC 3339 up to the second.
    utc: String,
}

impl Clock {
    pub fn new(offset: UtcOffset) -> Clock {
        Clock {
            offset,
            second: None,
            clf: String::new(),
            utc: String::new(),
        }
    }

    /// `[21/Nov/2026:01:23:45 +0000]`, the common log format.
    pub fn clf(&mut self, at: SystemTime) -> &str {
        self.turn_to(at);
        &self.clf
    }

    /// `2026-11-21T01:23:45.678901Z`: RFC 3339, always UTC; the second as it stands before the fraction, and
    /// the microseconds.
    pub fn rfc3339(&mut self, at: SystemTime) -> (&str, u32) {
        self.turn_to(at);
        (&self.utc, since_1970(at).subsec_micros())
    }

    fn turn_to(&mut self, at: SystemTime) {
        let second = since_1970(at).as_secs();
        if self.second == Some(second) {
            return;
        }
        self.second = Some(second);
        let when = local(at, self.offset);
        let month = MONTHS[usize::from(u8::from(when.month())) - 1];
        self.clf = format!(
            "[{:02}/{month}/{:04}:{} {}]",
            when.day(),
            when.year(),
            time_of_day(when),
            zone(self.offset)
        );
        let utc = OffsetDateTime::from(at);
        self.utc = format!("{}T{}", date(utc), time_of_day(utc));
    }
}

/// `[2026-11-21 01:23:45 +0000]`, as gunicorn begins its own lines.
pub fn gunicorn(at: SystemTime, offset: UtcOffset) -> String {
    let when = local(at, offset);
    format!("[{} {} {}]", date(when), time_of_day(when), zone(offset))
}

fn date(when: OffsetDateTime) -> String {
    let (year, month, day) = when.to_calendar_date();
    format!("{year:04}-{:02}-{day:02}", u8::from(month))
}

fn time_of_day(when: OffsetDateTime) -> String {
    let (hour, minute, second) = when.to_hms();
    format!("{hour:02}:{minute:02}:{second:02}")
}

fn since_1970(at: SystemTime) -> Duration {
    at.duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn local(at: SystemTime, offset: UtcOffset) -> OffsetDateTime {
    let utc = OffsetDateTime::from(at);
    utc.checked_to_offset(offset).unwrap_or(utc)
}

fn zone(offset: UtcOffset) -> String {
    let (hours, minutes, _) = offset.as_hms();
    let sign = if offset.is_negative() { '-' } else { '+' };
    format!(
        "{sign}{:02}{:02}",
        hours.unsigned_abs(),
        minutes.unsigned_abs()
    )
}

const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_in_three_fashions() {
        let at = UNIX_EPOCH + Duration::new(1_795_224_225, 678_901_000);
        let offset = |hours, minutes| UtcOffset::from_hms(hours, minutes, 0).unwrap();
        assert_eq!(
            Clock::new(UtcOffset::UTC).clf(at),
            "[21/Nov/2026:01:23:45 +0000]"
        );
        assert_eq!(
            Clock::new(offset(5, 30)).clf(at),
            "[21/Nov/2026:06:53:45 +0530]"
        );
        assert_eq!(gunicorn(at, UtcOffset::UTC), "[2026-11-21 01:23:45 +0000]");
        assert_eq!(gunicorn(at, offset(-3, -30)), "[2026-11-20 21:53:45 -0330]");
        assert_eq!(
            Clock::new(offset(5, 30)).rfc3339(at),
            ("2026-11-21T01:23:45", 678_901)
        );
    }

    #[test]
    fn a_clock_moves_on() {
        let mut clock = Clock::new(UtcOffset::UTC);
        assert_eq!(clock.clf(UNIX_EPOCH), "[01/Jan/1970:00:00:00 +0000]");
        assert_eq!(
            clock.clf(UNIX_EPOCH + Duration::from_millis(1999)),
            "[01/Jan/1970:00:00:01 +0000]"
        );
        assert_eq!(clock.clf(UNIX_EPOCH), "[01/Jan/1970:00:00:00 +0000]");
    }
}
