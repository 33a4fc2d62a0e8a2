//! How many calls took how long, in as little memory as a stated error allows.
//!
//! Each power of two is cut into [`PARTS`] buckets of one width, as HdrHistogram does: whatever is told of a call lies
//! within 0.8 % of its time, and times below 64 µs are exact.

/// Buckets of a power of two. The middle of a bucket is within 1/(2 × 64) of all that is in it.
const PARTS: u64 = 64;
const BITS: u32 = PARTS.ilog2();

/// Counts of times in µs.
#[derive(Clone, Debug, Default)]
pub struct Histogram {
    /// As long as the longest time needs: 1,300 buckets for a minute.
    counts: Vec<u64>,
    total: u64,
}

impl Histogram {
    pub fn add(&mut self, micros: u64) {
        let bucket = bucket(micros);
        if bucket >= self.counts.len() {
            self.counts.resize(bucket + 1, 0);
        }
        self.counts[bucket] += 1;
        self.total += 1;
    }

    pub fn total(&self) -> u64 {
        self.total
    }

    /// The time of the call that stands at `rank`, counted from 1, when they are sorted; `None` beyond the last.
    pub fn at_rank(&self, rank: u64) -> Option<u64> {
        let mut seen = 0;
        let found = self.counts.iter().position(|count| {
            seen += count;
            seen >= rank.max(1)
        });
        found.map(middle)
    }

    /// The time that this share of the calls (0 to 1) did not exceed; 0 when there are none.
    pub fn percentile(&self, share: f64) -> u64 {
        let rank = (share * self.total as f64).ceil() as u64;
        self.at_rank(rank.min(self.total)).unwrap_or(0)
    }

    /// Between which times that of all calls of this kind lies, of which these are a sample: by the ranks that are
    /// `spread` standard deviations of the binomial distribution away. `None` when there are too few calls to say so.
    pub fn interval(&self, share: f64, spread: f64) -> Option<(u64, u64)> {
        let count = self.total as f64;
        let (middle, away) = (
            share * count,
            spread * (count * share * (1.0 - share)).sqrt(),
        );
        if middle - away < 1.0 || middle + away > count {
            return None;
        }
        let from = self.at_rank((middle - away).floor() as u64)?;
        Some((from, self.at_rank((middle + away).ceil() as u64)?))
    }
}

fn bucket(micros: u64) -> usize {
    let Some(power) = micros.checked_ilog2().filter(|power| *power >= BITS) else {
        return micros as usize;
    };
    let shift = power - BITS;
    (u64::from(shift) * PARTS + (micros >> shift)) as usize
}

/// The time in the middle of a bucket.
fn middle(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < 2 * PARTS {
        return bucket;
    }
    let shift = bucket / PARTS - 1;
    let low = (bucket % PARTS + PARTS) << shift;
    low + ((1 << shift) - 1) / 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn buckets_follow_each_other() {
        let mut last = 0;
        for micros in 0..100_000 {
            let here = bucket(micros);
            assert!(here == last || here == last + 1, "{micros}: {last} {here}");
            last = here;
        }
    }

    #[test]
    fn ranks_are_those_of_a_sorted_list() {
        let mut all = Histogram::default();
        for micros in [1, 2, 3, 4, 5, 6, 7, 8, 9, 60] {
            all.add(micros);
        }
        assert_eq!(all.percentile(0.5), 5);
        assert_eq!(all.percentile(0.9), 9);
        assert_eq!(all.percentile(0.99), 60);
        assert_eq!(all.at_rank(11), None);
        assert_eq!(Histogram::default().percentile(0.5), 0);
    }

    #[test]
    fn few_calls_have_no_interval() {
        let mut all = Histogram::default();
        for micros in 0..8 {
            all.add(micros);
        }
        assert_eq!(all.interval(0.5, 3.0), None);
        for micros in 8..100 {
            all.add(micros);
        }
        // 50 ± 15 of 100, and a tail that 100 calls say nothing about.
        assert_eq!(all.interval(0.5, 3.0), Some((34, 64)));
        assert_eq!(all.interval(0.99, 3.0), None);
    }

    proptest! {
        #[test]
        fn what_is_told_is_within_the_error(micros in 0u64..u64::MAX) {
            let told = middle(bucket(micros));
            prop_assert!(told.abs_diff(micros) as f64 <= micros as f64 * 0.008, "{told} {micros}");
        }
    }
}
