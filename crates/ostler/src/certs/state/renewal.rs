//! When a certificate is renewed: in the CA's window (ARI, RFC 9773) or with a third of its life left.

use std::time::{Duration, SystemTime};

/// The certificate that is served, as far as its renewal goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    pub not_before: SystemTime,
    pub not_after: SystemTime,
    /// A number that is the certificate's own and otherwise random: where in its window it is
    /// renewed. The same after a restart.
    pub luck: u64,
}

/// When the CA would like a certificate to be renewed (RFC 9773 section 4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    pub start: SystemTime,
    pub end: SystemTime,
}

impl Held {
    /// When to renew. A window that makes no sense, or would have us wait for longer than the
    /// certificate is valid, is not believed.
    pub fn renewal(&self, window: Option<&Window>) -> SystemTime {
        let life = since(self.not_before, self.not_after);
        let own = self.not_after - life / 3 - self.share(life / 20);
        match window {
            Some(window) if window.start < window.end && window.start < self.not_after => {
                let chosen = window.start + self.share(since(window.start, window.end));
                // A long window may end when it is too late to fail once more.
                chosen.min(self.not_after - life / 20)
            }
            _ => own,
        }
    }

    /// Days left, rounded down; negative once it has expired.
    pub fn days(&self, now: SystemTime) -> i64 {
        const DAY: u64 = 24 * 3600;
        let whole = |time: Duration| i64::try_from(time.as_secs() / DAY).unwrap_or(i64::MAX);
        match self.not_after.duration_since(now) {
            Ok(left) => whole(left),
            Err(over) => -1 - whole(over.duration()),
        }
    }

    fn share(&self, of: Duration) -> Duration {
        of.mul_f64((self.luck >> 11) as f64 / (1_u64 << 53) as f64)
    }
}

fn since(from: SystemTime, to: SystemTime) -> Duration {
    to.duration_since(from).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn held(luck: u64) -> (SystemTime, Held) {
        let from = SystemTime::UNIX_EPOCH + DAY * 20_000;
        let held = Held {
            not_before: from,
            not_after: from + DAY * 90,
            luck,
        };
        (from, held)
    }

    #[test]
    fn a_third_of_the_life_is_left() {
        let (from, unlucky) = held(0);
        assert_eq!(unlucky.renewal(None), from + DAY * 60);
        let (_, lucky) = held(u64::MAX);
        let early = from + DAY * 60 - lucky.renewal(None).duration_since(from).unwrap();
        assert!(early > SystemTime::UNIX_EPOCH);
        assert!(lucky.renewal(None) > from + DAY * 55);
    }

    #[test]
    fn the_cas_window_comes_first() {
        let (from, half) = held(1 << 63);
        let window = |start: u32, end: u32| Window {
            start: from + DAY * start,
            end: from + DAY * end,
        };
        assert_eq!(half.renewal(Some(&window(10, 20))), from + DAY * 15);
        // A revocation moves the window into the past: at once.
        assert!(half.renewal(Some(&window(1, 2))) < from + DAY * 3);
        // Nonsense and what lies behind the end are not believed.
        let own = half.renewal(None);
        assert_eq!(half.renewal(Some(&window(20, 10))), own);
        assert_eq!(half.renewal(Some(&window(95, 99))), own);
        assert!(half.renewal(Some(&window(60, 900))) < half.not_after);
    }

    #[test]
    fn days_are_rounded_down() {
        let (from, held) = held(0);
        assert_eq!(held.days(from), 90);
        assert_eq!(held.days(held.not_after - DAY / 2), 0);
        assert_eq!(held.days(held.not_after + DAY / 2), -1);
    }
}
