//! Counting requests, for those who measure. Each edge thread counts for itself and nobody waits for anybody; who
//! reads adds the threads up. Knows no names of metrics.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::lock;
use super::row::Row;

/// Names of methods that are counted apart: what a client may write there has no end.
pub const METHODS: [&str; 8] = [
    "GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "other",
];

/// Status classes; the first is for requests that no status was sent for.
pub const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// Upper bounds of the buckets of times, in microseconds: half a millisecond to half a minute, which is as long as
/// a request waits or runs by default.
pub const BOUNDS: [u64; 14] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 10_000_000, 30_000_000,
];

/// A number that one thread adds to and others read.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Only for the thread whose count it is: a load and a store are not one step, and cost no more than that.
    pub fn add(&self, more: u64) {
        let now = self.0.load(Ordering::Relaxed);
        self.0.store(now.wrapping_add(more), Ordering::Relaxed);
    }

    pub fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The requests of one project.
#[derive(Debug)]
pub struct Meters {
    /// Its name.
    pub project: String,
    threads: Vec<Meter>,
}

/// What one edge thread has counted; no two of them share a cache line.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Meter {
    requests: [[Count; METHODS.len()]; CLASSES.len()],
    queue: Times,
    app: Times,
    total: Times,
    sent: Count,
}

#[derive(Debug, Default)]
struct Times {
    /// The last one for what is longer than every bound.
    buckets: [Count; BOUNDS.len() + 1],
    sum: Count,
}

/// What an edge thread counts that belongs to no project.
#[derive(Debug, Default)]
pub struct Tally {
    /// Requests that no site was found for.
    pub nowhere: Meter,
    pub accepted: Count,
    pub handshakes: Count,
    pub failed_handshakes: Count,
    /// Guards how often each reason was given by ostler itself: the keys are our own codes.
    reasons: Mutex<BTreeMap<&'static str, u64>>,
}

/// The counts of all threads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reading {
    pub requests: [[u64; METHODS.len()]; CLASSES.len()],
    pub queue: Spread,
    pub app: Spread,
    pub total: Spread,
    pub sent: u64,
}

/// How times are spread over the buckets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Spread {
    pub buckets: [u64; BOUNDS.len() + 1],
    /// Microseconds.
    pub sum: u64,
}

impl Meters {
    /// For so many edge threads.
    pub fn new(project: &str, threads: usize) -> Self {
        Self {
            project: project.to_owned(),
            threads: (0..threads).map(|_| Meter::default()).collect(),
        }
    }

    /// That of one edge thread.
    pub fn of(&self, thread: usize) -> &Meter {
        &self.threads[thread]
    }

    pub fn read(&self) -> Reading {
        let mut reading = Reading::default();
        self.threads
            .iter()
            .for_each(|meter| meter.add_to(&mut reading));
        reading
    }
}

impl Meter {
    /// Counts a request that has ended `took` microseconds after its head was complete.
    pub fn count(&self, method: &[u8], row: &Row, took: u64) {
        let class = usize::from(row.status / 100).min(CLASSES.len() - 1);
        self.requests[class][method_number(method)].add(1);
        self.total.count(took);
        if row.worker.is_some() {
            self.queue.count(row.queue_us);
        }
        if row.app_us > 0 {
            self.app.count(row.app_us);
        }
        self.sent.add(row.sent);
    }

    pub fn add_to(&self, reading: &mut Reading) {
        for (class, counts) in self.requests.iter().enumerate() {
            for (method, count) in counts.iter().enumerate() {
                reading.requests[class][method] += count.read();
            }
        }
        self.queue.add_to(&mut reading.queue);
        self.app.add_to(&mut reading.app);
        self.total.add_to(&mut reading.total);
        reading.sent += self.sent.read();
    }
}

fn method_number(method: &[u8]) -> usize {
    let known = METHODS.iter().position(|known| known.as_bytes() == method);
    known.unwrap_or(METHODS.len() - 1)
}

impl Times {
    fn count(&self, micros: u64) {
        let bucket = BOUNDS.iter().position(|bound| micros <= *bound);
        self.buckets[bucket.unwrap_or(BOUNDS.len())].add(1);
        self.sum.add(micros);
    }

    fn add_to(&self, spread: &mut Spread) {
        for (sum, count) in spread.buckets.iter_mut().zip(&self.buckets) {
            *sum += count.read();
        }
        spread.sum += self.sum.read();
    }
}

impl Tally {
    pub fn refused(&self, code: &'static str) {
        *lock(&self.reasons).entry(code).or_default() += 1;
    }

    /// Adds how often each reason was given.
    pub fn add_reasons(&self, to: &mut BTreeMap<&'static str, u64>) {
        for (code, count) in lock(&self.reasons).iter() {
            *to.entry(code).or_default() += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_class_and_method_with_their_times() {
        let meters = Meters::new("shop", 2);
        let row = |status, worker, queue_us, app_us| Row {
            status,
            worker,
            queue_us,
            app_us,
            sent: 10,
            ..Row::default()
        };
        meters.of(0).count(b"GET", &row(200, Some(1), 0, 500), 501);
        meters
            .of(1)
            .count(b"GET", &row(204, Some(1), 40_000_000, 501), 1);
        meters.of(1).count(b"BREW", &row(999, None, 0, 0), 0);
        meters.of(1).count(b"get", &row(0, None, 0, 0), 0);
        let read = meters.read();
        assert_eq!(
            (
                read.requests[2][0],
                read.requests[5][7],
                read.requests[0][7]
            ),
            (2, 1, 1)
        );
        assert_eq!(read.requests.iter().flatten().sum::<u64>(), 4);
        assert_eq!(
            (read.queue.buckets[0], read.queue.buckets[BOUNDS.len()]),
            (1, 1)
        );
        assert_eq!(
            (read.app.buckets[0], read.app.buckets[1], read.app.sum),
            (1, 1, 1001)
        );
        assert_eq!((read.total.buckets[0], read.total.buckets[1]), (3, 1));
        assert_eq!(read.sent, 40);
    }

    #[test]
    fn bounds_rise() {
        assert!(BOUNDS.is_sorted());
    }
}
