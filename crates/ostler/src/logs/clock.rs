//! Times as logs write them, formatted once per second.

use std::time::{SystemTime, UNIX_EPOCH};

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
}

impl Clock {
    pub fn new(offset: UtcOffset) -> Clock {
        Clock {
            offset,
            second: None,
            clf: String::new(),
        }
    }

    /// `[21/Nov/2026:01:23:45 +0000]`, the common log format.
    pub fn clf(&mut self, at: SystemTime) -> &str {
        let second = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        if self.second != Some(second) {
            self.second = Some(second);
            let when = local(at, self.offset);
            let month = MONTHS[usize::from(u8::from(when.month())) - 1];
            self.clf = format!(
                "[{:02}/{month}/{:04}:{:02}:{:02}:{:02} {}]",
                when.day(),
                when.year(),
                when.hour(),
                when.minute(),
                when.second(),
                zone(self.offset),
            );
        }
        &self.clf
    }
}

/// `[2026-11-21 01:23:45 +0000]`, as gunicorn begins its own lines.
pub fn gunicorn(at: SystemTime, offset: UtcOffset) -> String {
    let when = local(at, offset);
    let date = format_args!(
        "{:04}-{:02}-{:02}",
        when.year(),
        u8::from(when.month()),
        when.day()
    )
    .to_string();
    format!(
        "[{date} {:02}:{:02}:{:02} {}]",
        when.hour(),
        when.minute(),
        when.second(),
        zone(offset)
    )
}

/// `2026-11-21T01:23:45.678901Z`: RFC 3339, always UTC, microseconds.
pub fn rfc3339(at: SystemTime) -> String {
    let when = OffsetDateTime::from(at);
    let date = format_args!(
        "{:04}-{:02}-{:02}",
        when.year(),
        u8::from(when.month()),
        when.day()
    )
    .to_string();
    format!(
        "{date}T{:02}:{:02}:{:02}.{:06}Z",
        when.hour(),
        when.minute(),
        when.second(),
        when.microsecond()
    )
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
    use std::time::Duration;

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
        assert_eq!(rfc3339(at), "2026-11-21T01:23:45.678901Z");
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
