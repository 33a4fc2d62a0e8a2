//! Bytes of files: at once where the kernel has them in memory, from a thread that may wait where it
//! has not.
//!
//! An edge thread serves many clients, so it never waits for a disk. Spool files are the exception:
//! what is read from them was written just before. Knows nothing of paths, requests or clients.

use std::io::IoSliceMut;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::io::{Errno, ReadWriteFlags};
use tokio::sync::Semaphore;

use super::compress::Charge;
use super::lock;

/// Threads of one edge thread that may wait for a disk at the same time. A device has a queue to sort
/// and a share on the network has round trips to overlap: eight reads keep one of them busy, and more
/// would only wait there instead of here. Each takes at most [`SCRATCH`] bytes and a small stack.
pub const THREADS: usize = 8;

/// A wait for the disk and for a thread that may wait, together. A disk that has to spin up takes ten
/// seconds; what takes longer than this is a share whose server is gone.
const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes read at once only to have them in memory.
const SCRATCH: usize = 64 * 1024;

/// Bytes between two looks at a slice: the kernel reads ahead and forgets in runs of pages, 128 KiB
/// long unless a device is set otherwise, so what lies between two looks shares their fate.
const RUN: u64 = 128 * 1024;

/// How long a slice that was in memory is taken to be there still. The kernel forgets first what was
/// not used for longest, and on a busy file this leaves one look a second.
const BELIEVED_FOR: Duration = Duration::from_secs(1);

/// How far a look may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// To what the kernel has in memory. Never waits.
    Memory,
    /// To the disk, however long that takes: not for edge threads.
    Disk,
}

/// The disk did not answer in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Late;

/// The threads of one edge thread that may wait for a disk.
#[derive(Clone, Debug)]
pub struct Disk {
    /// One permit for each of [`THREADS`]. Who waits for one waits here and not in the runtime's queue,
    /// which would keep the work of a client that has given up.
    free: Arc<Semaphore>,
}

impl Default for Disk {
    fn default() -> Self {
        Self {
            free: Arc::new(Semaphore::new(THREADS)),
        }
    }
}

impl Disk {
    /// Runs `work` on a thread that may wait for the disk.
    ///
    /// # Errors
    /// It took longer than [`PATIENCE`]. Work that had begun then goes on, and keeps its thread.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Late> {
        let worked = async {
            let permit = Arc::clone(&self.free).acquire_owned().await.ok()?;
            let working = tokio::task::spawn_blocking(move || {
                let done = work();
                drop(permit);
                done
            });
            working.await.ok()
        };
        let worked = tokio::time::timeout(PATIENCE, worked).await;
        worked.ok().flatten().ok_or(Late)
    }

    /// Makes sure that the kernel has a slice of a file in memory, as far as the file goes. Gives how
    /// many bytes of it may be sent before the next look: all, or what is left of an earlier slice.
    ///
    /// # Errors
    /// As [`Disk::run`].
    pub async fn fetch(&self, file: &Arc<Stored>, at: u64, len: u64) -> Result<u64, Late> {
        let known = lock(&file.known).len_from(at, Instant::now());
        if known > 0 {
            return Ok(len.min(known));
        }
        let slice = at..at + len;
        if !is_at_hand(&file.file, &slice) {
            let (file, slice) = (Arc::clone(file), slice.clone());
            self.run(move || read_through(&file.file, slice)).await?;
        }
        lock(&file.known).learn(slice, Instant::now());
        Ok(len)
    }
}

/// A regular file that is sent slice by slice.
#[derive(Debug)]
pub struct Stored {
    file: OwnedFd,
    /// What it takes of a budget, if it is one of ours.
    _charge: Option<Arc<Charge>>,
    /// Guards what is known of the file; held for a few instructions.
    known: Mutex<Known>,
}

impl Stored {
    pub fn new(file: OwnedFd) -> Self {
        Self {
            file,
            _charge: None,
            known: Mutex::default(),
        }
    }

    /// One that takes something of a budget as long as it is there.
    pub fn charged(file: OwnedFd, charge: &Arc<Charge>) -> Self {
        Self {
            _charge: Some(Arc::clone(charge)),
            ..Self::new(file)
        }
    }
}

impl AsFd for Stored {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// The slice of a file that was in memory when last looked at.
#[derive(Debug, Default)]
struct Known {
    slice: Range<u64>,
    /// When the first look at any of it was.
    since: Option<Instant>,
}

impl Known {
    /// Bytes from `at` on that are still taken to be there.
    fn len_from(&self, at: u64, now: Instant) -> u64 {
        match self.slice.contains(&at) && self.is_believed(now) {
            true => self.slice.end - at,
            false => 0,
        }
    }

    /// A slice is there as of `now`; with the one before it makes one, when that is still believed.
    fn learn(&mut self, slice: Range<u64>, now: Instant) {
        let touches = slice.start <= self.slice.end && self.slice.start <= slice.end;
        if touches && self.is_believed(now) {
            self.slice.start = self.slice.start.min(slice.start);
            self.slice.end = self.slice.end.max(slice.end);
        } else {
            (self.slice, self.since) = (slice, Some(now));
        }
    }

    fn is_believed(&self, now: Instant) -> bool {
        let age = |since| now.saturating_duration_since(since);
        self.since.is_some_and(|since| age(since) < BELIEVED_FOR)
    }
}

/// Reads once at an offset; 0 is the end of the file.
///
/// # Errors
/// `AGAIN` when reach is [`Reach::Memory`] and the bytes are not there, otherwise as `pread(2)`.
pub fn read(file: impl AsFd, at: u64, bytes: &mut [u8], reach: Reach) -> Result<usize, Errno> {
    if reach == Reach::Disk {
        return rustix::io::pread(file, bytes, at);
    }
    let mut bytes = [IoSliceMut::new(bytes)];
    match rustix::io::preadv2(file, &mut bytes, at, ReadWriteFlags::NOWAIT) {
        // The end of the file may be a wrong guess (Linux 5.9 and 5.10, preadv2(2)), and a file system
        // may not know the flag (overlayfs, tmpfs): the disk has the last word.
        Ok(0) | Err(_) => Err(Errno::AGAIN),
        Ok(count) => Ok(count),
    }
}

/// Whether a slice can be sent without a wait, as far as [`looks`] tell.
fn is_at_hand(file: &OwnedFd, slice: &Range<u64>) -> bool {
    looks(slice).all(|at| read(file, at, &mut [0], Reach::Memory).is_ok())
}

/// Where a slice is looked at: at every [`RUN`] of it and at its last byte.
fn looks(slice: &Range<u64>) -> impl Iterator<Item = u64> {
    slice.clone().step_by(RUN as usize).chain([slice.end - 1])
}

/// Reads a slice for the sake of the kernel's memory. Errors show again when it is sent.
fn read_through(file: &OwnedFd, mut slice: Range<u64>) {
    let mut scratch = [0; SCRATCH];
    while !slice.is_empty() {
        let wanted = (slice.end - slice.start).min(SCRATCH as u64) as usize;
        match read(file, slice.start, &mut scratch[..wanted], Reach::Disk) {
            Ok(0) => return,
            Ok(count) => slice.start += count as u64,
            Err(Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
    use std::sync::mpsc;

    use rustix::fs::Advice;

    use super::*;
    use crate::logs::scratch::Scratch;

    /// Bytes of the file that the tests read.
    const LEN: u64 = 3 * RUN + 5;

    fn file(scratch: &Scratch) -> Arc<Stored> {
        scratch.write("file", vec![7; LEN as usize]);
        let file = std::fs::File::open(scratch.path("file")).unwrap();
        Arc::new(Stored::new(file.into()))
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    }

    #[test]
    fn what_is_not_in_memory_is_fetched() {
        let scratch = Scratch::new("disk-fetch");
        let file = file(&scratch);
        // Not every file system says what is in memory.
        let tells = is_at_hand(&file.file, &(0..LEN));
        // The kernel forgets what is on the disk.
        rustix::fs::fdatasync(&file).unwrap();
        rustix::fs::fadvise(&file, 0, None, Advice::DontNeed).unwrap();
        let fetched = runtime().block_on(Disk::default().fetch(&file, 0, LEN));
        assert_eq!(fetched, Ok(LEN));
        assert_eq!(is_at_hand(&file.file, &(0..LEN)), tells);
        let mut bytes = [0; 16];
        assert_eq!(read(&file, 0, &mut bytes, Reach::Disk), Ok(16));
        assert_eq!(bytes, [7; 16]);
    }

    #[test]
    fn a_slice_is_looked_at_in_every_run() {
        let check = |slice: Range<u64>, expected: &[u64]| {
            assert_eq!(looks(&slice).collect::<Vec<_>>(), expected, "{slice:?}");
        };
        check(7..8, &[7, 7]);
        check(0..RUN, &[0, RUN - 1]);
        check(5..2 * RUN + 6, &[5, RUN + 5, 2 * RUN + 5, 2 * RUN + 5]);
        check(0..LEN, &[0, RUN, 2 * RUN, 3 * RUN, LEN - 1]);
    }

    #[test]
    fn what_was_in_memory_is_believed_to_be_there_for_a_second() {
        let (start, mut known) = (Instant::now(), Known::default());
        let after = |ms| start + Duration::from_millis(ms);
        assert_eq!(known.len_from(0, start), 0);
        known.learn(100..200, start);
        for (at, left) in [(99, 0), (100, 100), (150, 50), (200, 0)] {
            assert_eq!(known.len_from(at, after(999)), left, "{at}");
            assert_eq!(known.len_from(at, after(1000)), 0, "{at}");
        }
        // Neighbours are one slice as old as the older of them.
        known.learn(200..300, after(500));
        assert_eq!(known.len_from(100, after(999)), 200);
        assert_eq!(known.len_from(200, after(1000)), 0);
        known.learn(300..400, after(1000));
        assert_eq!(known.len_from(200, after(1000)), 0);
        assert_eq!(known.len_from(300, after(1999)), 100);
        // What lies apart takes the place of what was known.
        known.learn(500..600, after(1001));
        assert_eq!(known.len_from(300, after(1001)), 0);
        assert_eq!(known.len_from(500, after(2000)), 100);
    }

    #[test]
    fn the_end_of_a_file_is_told_by_the_disk_only() {
        let scratch = Scratch::new("disk-end");
        let file = file(&scratch);
        let mut byte = [0];
        let early = read(&file, LEN, &mut byte, Reach::Memory);
        assert_eq!(early, Err(Errno::AGAIN));
        assert_eq!(read(&file, LEN, &mut byte, Reach::Disk), Ok(0));
        // A slice beyond it is not waited for.
        let fetched = runtime().block_on(Disk::default().fetch(&file, LEN - 1, LEN));
        assert_eq!(fetched, Ok(LEN));
    }

    #[test]
    fn a_disk_that_never_answers_is_given_up() {
        let disk = Disk::default();
        let (release, held) = mpsc::channel::<()>();
        let held = Arc::new(Mutex::new(held));
        let stuck = |_| {
            let (disk, held) = (disk.clone(), Arc::clone(&held));
            let work = move || held.lock().unwrap().recv().is_err();
            tokio::spawn(async move { disk.run(work).await })
        };
        runtime().block_on(async {
            tokio::time::pause();
            let stuck: Vec<_> = (0..THREADS).map(stuck).collect();
            while disk.free.available_permits() > 0 {
                tokio::task::yield_now().await;
            }
            let ran = Arc::new(AtomicBool::new(false));
            let set = Arc::clone(&ran);
            let mut queued = pin!(disk.run(move || set.store(true, Relaxed)));
            tokio::select! {
                biased;
                _ = &mut queued => panic!("there was no thread for it"),
                () = std::future::ready(()) => {}
            }
            tokio::time::advance(2 * PATIENCE).await;
            for one in stuck {
                assert_eq!(one.await.unwrap(), Err(Late));
            }
            assert_eq!(queued.await, Err(Late));
            // Threads come back with the disk, and nobody does what nobody waits for.
            drop(release);
            assert_eq!(disk.run(|| 1).await, Ok(1));
            assert!(!ran.load(Relaxed));
        });
    }
}
