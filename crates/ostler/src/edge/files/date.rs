//! HTTP dates.

/// `Sun, 06 Nov 1994 08:49:37 GMT`.
pub fn imf_fixdate(seconds: i64) -> String {
    let when = time::OffsetDateTime::from_unix_timestamp(seconds)
        .unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
    let day = when.weekday().to_string();
    let month = when.month().to_string();
    format!(
        "{}, {:02} {} {:04} {:02}:{:02}:{:02} GMT",
        &day[..3],
        when.day(),
        &month[..3],
        when.year(),
        when.hour(),
        when.minute(),
        when.second()
    )
}

/// Seconds since 1970 of an IMF-fixdate.
pub fn parse(value: &[u8]) -> Option<i64> {
    let value = std::str::from_utf8(value).ok()?.trim();
    let mut words = value.split(' ');
    words.next()?;
    let day = words.next()?.parse().ok()?;
    let name = words.next()?;
    let month = MONTHS.iter().position(|m| *m == name)? + 1;
    let year = words.next()?.parse().ok()?;
    let mut clock = words.next()?.split(':').map(|part| part.parse::<u8>().ok());
    let month = time::Month::try_from(u8::try_from(month).ok()?).ok()?;
    let date = time::Date::from_calendar_date(year, month, day).ok()?;
    let time = time::Time::from_hms(clock.next()??, clock.next()??, clock.next()??).ok()?;
    Some(
        time::PrimitiveDateTime::new(date, time)
            .assume_utc()
            .unix_timestamp(),
    )
}

const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];
