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

/// Rows are gathered for so long: a transaction costs as much as some hundred rows.
const GATHER: Duration = Duration::from_millis(200);

/// How often old rows are looked for. In this time 10,000 requests a second are some 10 MiB.
const TRIM: Duration = Duration::from_secs(10);

/// Losses are told at most this often.
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
        let bell = Arc::new(Bell::default());
        let inboxes: Vec<Arc<Inbox>> = (0..threads).map(|_| Arc::new(Inbox::new(&bell))).collect();
        let shared = Arc::new(Shared {
            bell,
            lost: AtomicU64::new(0),
            bounds: Mutex::new(bounds),
        });
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

fn write(mut table: Table, shared: &Shared, inboxes: &[Arc<Inbox>]) {
    let mut batch = Vec::new();
    let (mut trimmed, mut told) = (Instant::now(), None);
    let mut untold = 0;
    loop {
        let rung = shared.bell.wait();
        shared.bell.pause(GATHER);
        for inbox in inboxes {
            let mut lost = inbox.take(&mut batch);
            if let Err(error) = table.write(&batch) {
                lost += count(&batch);
                tracing::debug!(%error, "the request log cannot be written");
            }
            untold += lost;
            shared.lost.fetch_add(lost, Ordering::Relaxed);
        }
        if untold > 0 && told.is_none_or(|at: Instant| at.elapsed() > TELL) {
            tracing::warn!(
                "the request log: {untold} rows are missing, its disk is too slow or full"
            );
            (untold, told) = (0, Some(Instant::now()));
        }
        if trimmed.elapsed() > TRIM {
            trimmed = Instant::now();
            trim(&mut table, shared);
        }
        if rung.closing {
            return;
        }
    }
}

fn trim(table: &mut Table, shared: &Shared) {
    /// Between two batches new rows are written.
    const BATCHES: u32 = 10;
    let bounds = *shared.bounds.lock().unwrap_or_else(PoisonError::into_inner);
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let since = now.saturating_sub(bounds.age).as_micros() as u64;
    for _ in 0..BATCHES {
        match table.trim(since, bounds.size) {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                return tracing::warn!(%error, "old rows of the request log cannot be deleted");
            }
        }
    }
}

fn count(mut batch: &[u8]) -> u64 {
    let mut rows = 0;
    while super::Record::decode(&mut batch).is_some() {
        rows += 1;
    }
    rows
}
