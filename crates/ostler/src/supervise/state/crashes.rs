//! How long to wait after a crash, and how much to say about it. Pure; the time is passed in.
//!
//! Only crashes that prove nothing count: a worker that dies before it has served anything tells
//! that the next one will die as well, so each start waits longer (threats W-05). A worker that
//! has served is replaced at once: waiting would take capacity away and protect nobody.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The wait after the first crash, doubled with each one up to the last.
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LAST_DELAY: Duration = Duration::from_secs(30);

/// This many crashes within the window are a crash loop.
pub(super) const LOOP_EXITS: usize = 5;
pub(super) const LOOP_WINDOW: Duration = Duration::from_secs(30);

/// Crashes of one app since it last proved that it can serve.
#[derive(Debug, Default)]
pub(super) struct Crashes {
    recent: VecDeque<Instant>,
    in_a_row: u32,
    looping: bool,
}

impl Crashes {
    /// Books one; gives how long the next start has to wait.
    pub fn book(&mut self, now: Instant) -> Duration {
        while self
            .recent
            .front()
            .is_some_and(|&at| now - at > LOOP_WINDOW)
        {
            self.recent.pop_front();
        }
        self.recent.push_back(now);
        self.looping |= self.recent.len() >= LOOP_EXITS;
        let doublings = self.in_a_row.min(16);
        self.in_a_row += 1;
        (FIRST_DELAY * 2_u32.pow(doublings)).min(LAST_DELAY)
    }

    /// The app serves: what was is over. True when it had been in a crash loop.
    pub fn forgive(&mut self) -> bool {
        std::mem::take(self).looping
    }

    /// Whether there is anything to forgive.
    pub fn any(&self) -> bool {
        self.in_a_row > 0
    }

    /// Five within half a minute, and no proof to the contrary since.
    pub fn looping(&self) -> bool {
        self.looping
    }
}

/// Lets a burst of lines through and then one a second, so that nothing that keeps crashing fills
/// the disk with its obituaries.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// When the bucket was last looked at, and how many lines it held.
    last: Option<(Instant, f64)>,
    muted: u32,
}

/// Lines that may come at once: as many as there are facts in a bad second.
const BURST: f64 = 5.0;

impl Lines {
    /// Whether a line may be said now; if so, how many were kept back before it.
    pub fn next(&mut self, now: Instant) -> Option<u32> {
        let (at, held) = self.last.unwrap_or((now, BURST));
        let held = (held + (now - at).as_secs_f64()).min(BURST);
        if held < 1.0 {
            self.last = Some((now, held));
            self.muted += 1;
            return None;
        }
        self.last = Some((now, held - 1.0));
        Some(std::mem::take(&mut self.muted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_crash_in_a_row_waits_twice_as_long_up_to_half_a_minute() {
        let (mut crashes, now) = (Crashes::default(), Instant::now());
        let waits: Vec<_> = (0..12).map(|_| crashes.book(now).as_millis()).collect();
        let wanted = [
            100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000, 30000,
        ];
        assert_eq!(waits, wanted);
        crashes.forgive();
        assert_eq!(crashes.book(now).as_millis(), 100);
    }

    #[test]
    fn five_within_half_a_minute_are_a_loop_until_a_proof() {
        let (mut crashes, start) = (Crashes::default(), Instant::now());
        for second in [0, 10, 20, 31, 42, 53] {
            crashes.book(start + Duration::from_secs(second));
            assert!(!crashes.looping(), "never five within thirty seconds");
        }
        for second in [54, 55, 56] {
            crashes.book(start + Duration::from_secs(second));
        }
        assert!(crashes.looping());
        crashes.book(start + Duration::from_secs(600));
        assert!(crashes.looping(), "time alone proves nothing");
        assert!(crashes.forgive());
        assert!(!crashes.looping() && !crashes.forgive());
    }

    #[test]
    fn after_a_burst_one_line_a_second() {
        let (mut lines, start) = (Lines::default(), Instant::now());
        let said = (0..100).filter(|_| lines.next(start).is_some()).count();
        assert_eq!(said, 5);
        let later = start + Duration::from_secs(1);
        assert_eq!(lines.next(later), Some(95));
        assert_eq!(lines.next(later), None);
        let much_later = start + Duration::from_secs(60);
        let said = (0..100)
            .filter(|_| lines.next(much_later).is_some())
            .count();
        assert_eq!(said, 5);
    }
}
