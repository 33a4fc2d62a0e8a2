//! One line of a file: one call. Any bytes may come.

/// A call as a worker has written it.
#[derive(Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// µs since the epoch.
    pub start: u64,
    /// µs.
    pub duration: u64,
    pub name: &'a [u8],
    pub status: &'a [u8],
}

/// Bytes of a line: a name of 160 characters, a status of 64 and two numbers have room.
pub const LONGEST: usize = 1024;

/// Times beyond are no times: the year 6429, and 416 days.
const MOST_START: u64 = 1 << 57;
const MOST_DURATION: u64 = 1 << 45;

impl<'a> Line<'a> {
    /// Reads a line without its end; `None` when it is none of ours.
    pub fn parse(line: &'a [u8]) -> Option<Self> {
        if line.len() > LONGEST {
            return None;
        }
        let mut fields = line.split(|byte| *byte == b'\t');
        let start = number(fields.next()?).filter(|start| *start < MOST_START)?;
        let duration = number(fields.next()?).filter(|duration| *duration < MOST_DURATION)?;
        let (name, status) = (fields.next()?, fields.next()?);
        let whole = fields.next().is_none() && !name.is_empty() && !status.is_empty();
        whole.then_some(Self {
            start,
            duration,
            name,
            status,
        })
    }

    /// When it was over, in µs since the epoch.
    pub fn end(&self) -> u64 {
        self.start + self.duration
    }

    /// The server's fault, or an exception that left a timed call.
    pub fn is_error(&self) -> bool {
        match self.status {
            b"ok" => false,
            [hundreds, _, _] if self.status.iter().all(u8::is_ascii_digit) => *hundreds >= b'5',
            _ => true,
        }
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 19 {
        return None;
    }
    digits.iter().try_fold(0u64, |number, byte| {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit < 10)?;
        Some(number * 10 + u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_line_has_four_fields() {
        let line = Line::parse(b"1700000000000000\t250\tGET /\t200").expect("good");
        assert_eq!((line.start, line.duration), (1_700_000_000_000_000, 250));
        assert_eq!((line.name, line.status), (&b"GET /"[..], &b"200"[..]));
        for bad in [
            "",
            "1\t2\tname",
            "1\t2\tname\t200\tmore",
            "1\t2\t\t200",
            "1\t2\tname\t",
            "-1\t2\tname\t200",
            "1.5\t2\tname\t200",
            "1\t\tname\t200",
            "99999999999999999999\t2\tname\t200",
            "1\t99999999999999999\tname\t200",
            " 1\t2\tname\t200",
        ] {
            assert_eq!(Line::parse(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(Line::parse(&[b'1'; LONGEST + 1]), None);
    }

    #[test]
    fn errors_are_the_servers_or_exceptions() {
        let is_error = |status: &str| {
            let text = format!("1\t2\tname\t{status}");
            Line::parse(text.as_bytes()).expect("good").is_error()
        };
        for (status, expected) in [
            ("ok", false),
            ("200", false),
            ("101", false),
            ("404", false),
            ("499", false),
            ("500", true),
            ("504", true),
            ("ValueError", true),
        ] {
            assert_eq!(is_error(status), expected, "{status}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some(line) = Line::parse(&bytes) {
                prop_assert!(line.end() >= line.start);
                let again = [
                    line.start.to_string().into_bytes(), line.duration.to_string().into_bytes(),
                    line.name.to_vec(), line.status.to_vec(),
                ].join(&b'\t');
                let again = Line::parse(&again).map(|line| (line.start, line.duration));
                prop_assert_eq!(again, Some((line.start, line.duration)));
            }
        }
    }
}
