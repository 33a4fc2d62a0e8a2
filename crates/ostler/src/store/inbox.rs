//! Where one edge thread leaves its rows. Nobody else puts any there, and the writer takes all of them a few times
//! a second: a lock that is nearly always free.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::record::Record;

/// Bytes that may wait in one inbox: a second of an edge thread at its fastest.
const MOST: usize = 8 << 20;

/// A buffer that grew beyond this in a flood is given back.
const KEPT: usize = 256 << 10;

/// Rows of one edge thread on their way.
#[derive(Debug)]
pub struct Inbox {
    /// Guards what waits.
    waiting: Mutex<Waiting>,
    bell: Arc<Bell>,
}

#[derive(Debug, Default)]
struct Waiting {
    bytes: Vec<u8>,
    lost: u64,
}

/// Wakes the writer.
#[derive(Debug, Default)]
pub struct Bell {
    /// Guards what it was rung for.
    rung: Mutex<Rung>,
    changed: Condvar,
}

#[derive(Debug, Default, Clone, Copy)]
pub struct Rung {
    pub rows: bool,
    pub closing: bool,
}

impl Rung {
    /// What it says, for the one who now sees to the rows.
    fn answered(&mut self) -> Self {
        let now = *self;
        self.rows = false;
        now
    }
}

impl Inbox {
    pub fn new(bell: &Arc<Bell>) -> Self {
        Self {
            waiting: Mutex::default(),
            bell: Arc::clone(bell),
        }
    }

    /// Leaves a row. Never waits for a disk; without room it is lost and counted.
    pub fn push(&self, record: &Record<'_>) {
        let mut waiting = lock(&self.waiting);
        if waiting.bytes.len() >= MOST {
            waiting.lost += 1;
            return;
        }
        let first = waiting.bytes.is_empty();
        record.encode(&mut waiting.bytes);
        drop(waiting);
        if first {
            self.bell.ring(|rung| rung.rows = true);
        }
    }

    /// Takes everything into `batch`; gives how many rows were lost since it was asked last.
    pub fn take(&self, batch: &mut Vec<u8>) -> u64 {
        batch.clear();
        batch.shrink_to(KEPT);
        let mut waiting = lock(&self.waiting);
        std::mem::swap(&mut waiting.bytes, batch);
        std::mem::take(&mut waiting.lost)
    }
}

impl Bell {
    pub fn ring(&self, set: impl FnOnce(&mut Rung)) {
        set(&mut lock(&self.rung));
        self.changed.notify_one();
    }

    /// Waits until it has been rung; gives what for.
    pub fn wait(&self) -> Rung {
        let mut rung = lock(&self.rung);
        while !rung.rows && !rung.closing {
            rung = self
                .changed
                .wait(rung)
                .unwrap_or_else(PoisonError::into_inner);
        }
        rung.answered()
    }

    /// What it has been rung for, without a wait.
    pub fn look(&self) -> Rung {
        lock(&self.rung).answered()
    }

    /// Waits for so long, unless it all closes.
    pub fn pause(&self, time: std::time::Duration) {
        let rung = lock(&self.rung);
        let waited = self
            .changed
            .wait_timeout_while(rung, time, |rung| !rung.closing);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}

/// A thread that panicked while it held the lock left numbers and whole rows.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_inbox_loses_and_counts() {
        let bell = Arc::new(Bell::default());
        let inbox = Inbox::new(&bell);
        let path = [b'x'; 1000];
        let record = Record {
            path: &path,
            ..Record::default()
        };
        let mut one = Vec::new();
        record.encode(&mut one);
        let fit = MOST.div_ceil(one.len());
        (0..fit + 5).for_each(|_| inbox.push(&record));
        let mut batch = Vec::new();
        assert_eq!(inbox.take(&mut batch), 5);
        assert_eq!(batch.len(), fit * one.len());
        assert!(bell.wait().rows);
        assert_eq!(inbox.take(&mut batch), 0);
        assert!(batch.is_empty());
        inbox.push(&record);
        assert!(bell.wait().rows, "the first of the next batch rings again");
    }
}
