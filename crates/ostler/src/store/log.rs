//! The request log as a whole: its inboxes, and the thread that writes what they hold.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::inbox::{Bell, Inbox};
use super::table::Table;

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    pub age: Duration,
    /// Bytes.
    pub size: u64,
}

/// The request log; one per server.
#[derive(Debug)]
pub struct Log {
    pub path: PathBuf,
    inboxes: Vec<Arc<Inbox>>,
    shared: Arc<Shared>,
    finished: Mutex<Receiver<()>>,
}

#[derive(Debug)]
struct Shared {
    bell: Arc<Bell>,
    lost: AtomicU64,
    /// Guards what a reload replaces.
    bounds: Mutex<Bounds>,
}

impl Shared {
    fn new(bounds: Bounds) -> Self {
        Self {
            bell: Arc::default(),
            lost: AtomicU64::new(0),
            bounds: Mutex::new(bounds),
        }
    }

    fn bounds(&self) -> Bounds {
        *self.bounds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Rows are gathered for so long: a transaction costs as much as some hundred rows.
const GATHER: Duration = Duration::from_millis(200);

/// Rows that are deleted in one turn besides as many as it wrote: some milliseconds, in which new rows wait in their
/// inboxes.
const DELETED_AT_ONCE: u64 = 5_000;

/// Losses and failures are told at most this often.
const TELL: Duration = Duration::from_secs(10);

/// The writer gives way to those who serve requests (setpriority(2)).
const NICE: i32 = 10;

impl Log {
    /// Opens the file and starts its writer, for so many edge threads.
    ///
    /// # Errors
    /// The file is of no use.
    pub fn open(path: &Path, bounds: Bounds, threads: usize) -> Result<Self, String> {
        let table = Table::open(path).map_err(|error| error.to_string())?;
        let shared = Shared::new(bounds);
        let inbox = |_| Arc::new(Inbox::new(&shared.bell));
        let inboxes: Vec<Arc<Inbox>> = (0..threads).map(inbox).collect();
        let shared = Arc::new(shared);
        let (end, finished) = channel();
        let (theirs, taken) = (Arc::clone(&shared), inboxes.clone());
        let body = move || {
            // Without it the writer is merely not polite.
            let _ = rustix::process::setpriority_process(None, NICE);
            write(table, &theirs, &taken);
            let _ = end.send(());
        };
        let thread = std::thread::Builder::new().name("requests".to_owned());
        thread.spawn(body).map_err(|error| error.to_string())?;
        Ok(Self {
            path: path.to_owned(),
            inboxes,
            shared,
            finished: Mutex::new(finished),
        })
    }

    /// Where one edge thread leaves its rows.
    pub fn inbox(&self, thread: usize) -> Arc<Inbox> {
        Arc::clone(&self.inboxes[thread])
    }

    /// Rows that were lost since the start.
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }

    pub fn set_bounds(&self, bounds: Bounds) {
        *self
            .shared
            .bounds
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = bounds;
    }

    /// Lets the writer finish, for at most `patience`.
    pub fn close(&self, patience: Duration) {
        self.shared.bell.ring(|rung| rung.closing = true);
        let finished = self.finished.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = finished.recv_timeout(patience);
    }
}

/// The one who writes the rows down, and lets the oldest go.
struct Writer {
    table: Table,
    batch: Vec<u8>,
    /// Rows that were lost since that was told, and when it was.
    untold: u64,
    told: Option<Instant>,
    /// When it was told that nothing can be deleted.
    complained: Option<Instant>,
}

fn write(table: Table, shared: &Shared, inboxes: &[Arc<Inbox>]) {
    let mut writer = Writer::new(table);
    let mut behind = false;
    loop {
        let rung = match behind {
            true => shared.bell.look(),
            false => {
                let rung = shared.bell.wait();
                shared.bell.pause(GATHER);
                rung
            }
        };
        behind = writer.turn(shared, inboxes);
        if rung.closing {
            return;
        }
    }
}

impl Writer {
    fn new(table: Table) -> Self {
        Self {
            table,
            batch: Vec::new(),
            untold: 0,
            told: None,
            complained: None,
        }
    }

    /// Writes what waits, then deletes some of what is too much; true when more has to go. More is deleted than was
    /// written, so whatever comes in, the file is back within its bounds some turns later.
    fn turn(&mut self, shared: &Shared, inboxes: &[Arc<Inbox>]) -> bool {
        let mut written = 0;
        for inbox in inboxes {
            let mut lost = inbox.take(&mut self.batch);
            match self.table.write(&self.batch) {
                Ok(rows) => written += rows,
                Err(error) => {
                    lost += count(&self.batch);
                    tracing::debug!(%error, "the request log cannot be written");
                }
            }
            self.untold += lost;
            shared.lost.fetch_add(lost, Ordering::Relaxed);
        }
        self.tell();
        self.trim(shared.bounds(), written)
    }

    fn tell(&mut self) {
        if self.untold > 0 && is_due(self.told) {
            tracing::warn!(
                "the request log: {} rows are missing, its disk is too slow or full",
                self.untold
            );
            (self.untold, self.told) = (0, Some(Instant::now()));
        }
    }

    fn trim(&mut self, bounds: Bounds, written: u64) -> bool {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let since = now.saturating_sub(bounds.age).as_micros() as u64;
        let trimmed = self
            .table
            .trim(since, bounds.size, DELETED_AT_ONCE + written);
        trimmed.unwrap_or_else(|error| {
            if is_due(self.complained) {
                tracing::warn!(%error, "old rows of the request log cannot be deleted");
                self.complained = Some(Instant::now());
            }
            false
        })
    }
}

/// What was told then may be told again.
fn is_due(told: Option<Instant>) -> bool {
    told.is_none_or(|at| at.elapsed() > TELL)
}

fn count(mut batch: &[u8]) -> u64 {
    let mut rows = 0;
    while super::Record::decode(&mut batch).is_some() {
        rows += 1;
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::super::Record;
    use super::super::table::tests::Folder;
    use super::*;

    #[test]
    fn file_stays_within_its_size_however_fast_rows_come() {
        const SIZE: u64 = 4 << 20;
        const ROWS: u64 = 20_000;
        let folder = Folder::new("fast");
        let bounds = Bounds {
            age: Duration::from_secs(3600),
            size: SIZE,
        };
        let shared = Shared::new(bounds);
        let inboxes = [Arc::new(Inbox::new(&shared.bell))];
        let mut writer = Writer::new(Table::open(&folder.file()).expect("open"));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("now");
        let record = Record {
            at: now.as_micros() as u64,
            path: &[b'x'; 100],
            ..Record::default()
        };
        // A turn is a fifth of a second: 100,000 rows a second.
        for turn in 0..10 {
            (0..ROWS).for_each(|_| inboxes[0].push(&record));
            let behind = writer.turn(&shared, &inboxes);
            let held = writer.table.bytes().expect("bytes");
            assert!(held <= SIZE || behind, "turn {turn}: {held}");
            assert!(held <= SIZE + SIZE, "turn {turn}: {held}");
        }
        while writer.turn(&shared, &inboxes) {}
        let held = writer.table.bytes().expect("bytes");
        assert!((SIZE / 4..=SIZE).contains(&held), "{held}");
        assert_eq!(shared.lost.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn rows_of_a_flood_leave_when_they_are_too_old() {
        let folder = Folder::new("aged");
        let bounds = Bounds {
            age: Duration::from_secs(3600),
            size: u64::MAX,
        };
        let shared = Shared::new(bounds);
        let inboxes = [Arc::new(Inbox::new(&shared.bell))];
        let mut writer = Writer::new(Table::open(&folder.file()).expect("open"));
        (0..30_000).for_each(|_| inboxes[0].push(&Record::default()));
        let mut turns = 1;
        while writer.turn(&shared, &inboxes) {
            turns += 1;
        }
        assert!(
            turns <= 2,
            "{turns}: as many as were written, and some more"
        );
        assert_eq!(
            writer.table.bytes().expect("bytes"),
            2 * 4096,
            "none is left"
        );
    }
}
