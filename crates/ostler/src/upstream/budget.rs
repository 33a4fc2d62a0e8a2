//! How many requests may be sent again: a tenth of all, and a few where there are few. Without a bound, an upstream that
//! fails under its load would get twice as much.

use std::sync::atomic::{AtomicU32, Ordering};

/// A retry costs as much as ten requests bring.
const COST: u32 = 10;

/// What is saved up at most: 100 retries, so that a quiet day does not pay for a storm.
const MOST: u32 = 100 * COST;

/// What there is at least every time somebody looks ([`Budget::top_up`]): ten retries.
const FLOOR: u32 = 10 * COST;

/// Counted in tenths of a retry.
#[derive(Debug)]
pub struct Budget(AtomicU32);

impl Default for Budget {
    fn default() -> Self {
        Self(AtomicU32::new(FLOOR))
    }
}

impl Budget {
    /// One more request was begun.
    pub fn earn(&self) {
        // Two threads may go over the bound by one each.
        if self.0.load(Ordering::Relaxed) < MOST {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Takes one retry; false when there is none.
    pub fn spend(&self) -> bool {
        let spend = |left: u32| left.checked_sub(COST);
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend)
            .is_ok()
    }

    /// Called from time to time.
    pub fn top_up(&self) {
        self.0.fetch_max(FLOOR, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_of_all_requests_is_repeated_and_ten_of_few() {
        let budget = Budget::default();
        let spent = |budget: &Budget| {
            std::iter::repeat_with(|| budget.spend())
                .take_while(|had| *had)
                .count()
        };
        assert_eq!(spent(&budget), 10);
        (0..250).for_each(|_| budget.earn());
        assert_eq!(spent(&budget), 25);
        (0..100_000).for_each(|_| budget.earn());
        assert_eq!(spent(&budget), 100);
        budget.top_up();
        assert_eq!(spent(&budget), 10);
    }
}
