//! `100/m per key burst 20`: how often who may come.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::error::Complaint;

/// Requests in a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Rate {
    /// Requests in each window, at least 1.
    pub quota: u32,
    pub window: Duration,
    /// So many may come at once, at least 1.
    pub burst: u32,
    pub by: By,
}

/// Whose requests are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum By {
    /// One address; of IPv6, one network of 64 bits.
    Address,
    /// One user of an API key, a password or a token.
    Key,
    /// All.
    Route,
}

/// As it is written.
impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.window.as_secs() {
            86_400.. => 'd',
            3600.. => 'h',
            60.. => 'm',
            _ => 's',
        };
        let by = match self.by {
            By::Address => "address",
            By::Key => "key",
            By::Route => "route",
        };
        write!(f, "{}/{unit} per {by}", self.quota)?;
        match self.burst == self.quota {
            true => Ok(()),
            false => write!(f, " burst {}", self.burst),
        }
    }
}

/// The most that can be counted: a million in a window.
const MOST: u32 = 1_000_000;

/// Reads `10/s`, `100/m per key`, `1000/h per route burst 50`.
///
/// # Errors
/// It is none.
pub fn parse(text: &str) -> Result<Rate, Complaint> {
    let wrong = || {
        let what = format!(
            "has \"{}\", which is no rate",
            super::super::problem::short(text)
        );
        Complaint::new(
            what,
            "write \"10/s\", \"100/m per key\" or \"1000/h per route burst 50\"",
        )
    };
    let mut words = text.split_whitespace();
    let (count, unit) = words
        .next()
        .and_then(|first| first.split_once('/'))
        .ok_or_else(wrong)?;
    let number = |text: &str| text.parse().ok().filter(|count| (1..=MOST).contains(count));
    let quota = number(count).ok_or_else(wrong)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let mut rate = Rate {
        quota,
        window: Duration::from_secs(seconds),
        burst: quota,
        by: By::Address,
    };
    while let Some(word) = words.next() {
        match (word, words.next()) {
            ("per", Some("address")) => rate.by = By::Address,
            ("per", Some("key")) => rate.by = By::Key,
            ("per", Some("route")) => rate.by = By::Route,
            ("burst", Some(count)) => rate.burst = number(count).ok_or_else(wrong)?,
            _ => return Err(wrong()),
        }
    }
    Ok(rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_read_as_it_is_said() {
        let rate = |quota, seconds, burst, by| Rate {
            quota,
            window: Duration::from_secs(seconds),
            burst,
            by,
        };
        for (text, expected) in [
            ("10/s", rate(10, 1, 10, By::Address)),
            ("100/m per key", rate(100, 60, 100, By::Key)),
            (" 5/h  burst 2 per route", rate(5, 3600, 2, By::Route)),
            ("1/d", rate(1, 86_400, 1, By::Address)),
        ] {
            assert_eq!(parse(text).expect(text), expected);
            assert_eq!(parse(&expected.to_string()).expect(text), expected);
        }
        for text in [
            "",
            "10",
            "0/s",
            "-1/s",
            "10/w",
            "10/s per",
            "10/s per user",
            "10/s burst 0",
            "9999999/s",
            "10/s x y",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
