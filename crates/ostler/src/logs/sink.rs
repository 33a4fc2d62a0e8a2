//! Where log lines go: a terminal, a pipe or a file, behind a bounded buffer that never blocks who writes.
//!
//! It must not know what a line says. Lines that find no room are dropped and counted; a target that fails
//! (disk full, reader gone) is tried again with the next batch, and what was lost is told once it works again.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::output::{Output, Target};

/// Lines that are gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// Dropped because the buffer was full: the target is slower than the lines come.
    pub dropped: u64,
    /// Lost because the target failed.
    pub failed: u64,
}

/// A log's end; cheap to clone, one target behind all clones.
#[derive(Clone, Debug)]
pub struct Sink {
    shared: Arc<Shared>,
}

/// Called after the target works again, with what was lost since the last time; what it returns is written to
/// the target next.
pub type Tell = Box<dyn FnMut(Losses) -> Vec<u8> + Send>;

#[derive(Debug)]
enum Shared {
    Direct(Mutex<Direct>),
    Queued(Queued),
}

#[derive(Debug)]
struct Direct {
    output: Output,
    losses: Losses,
}

#[derive(Debug)]
struct Queued {
    /// Guards the buffer; held for a copy or a swap, never across a write.
    queue: Mutex<Queue>,
    /// The writer waits here for lines, or for the end.
    work: Condvar,
    /// `close` waits here for the writer.
    done: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    pending: Vec<u8>,
    lines: u64,
    /// Bytes the writer has taken and not yet written.
    in_hand: usize,
    losses: Losses,
    /// The writer waits without a deadline and has to be woken.
    asleep: bool,
    reopen: bool,
    closing: bool,
    finished: bool,
}

impl Sink {
    /// A sink that writes at once, in the caller's thread, and gives a target that takes nothing
    /// [`DIRECT_PATIENCE`]. For a process that has no threads.
    ///
    /// Errors: the file's.
    pub fn direct(target: &Target) -> io::Result<Sink> {
        let output = Output::open(target, Some(DIRECT_PATIENCE))?;
        let direct = Direct {
            output,
            losses: Losses::default(),
        };
        Ok(Sink {
            shared: Arc::new(Shared::Direct(Mutex::new(direct))),
        })
    }

    /// A sink with a writer thread. After a first line the writer waits `gather` for more, so that a busy log
    /// costs one write for many lines.
    ///
    /// Errors: the file's, or the thread's.
    pub fn queued(target: &Target, gather: Duration, tell: Tell) -> io::Result<Sink> {
        let output = Output::open(target, None)?;
        let queued = Queued {
            queue: Mutex::default(),
            work: Condvar::new(),
            done: Condvar::new(),
        };
        let shared = Arc::new(Shared::Queued(queued));
        let writer = Writer {
            output,
            gather,
            tell,
            untold: Losses::default(),
            told: None,
        };
        let theirs = Arc::clone(&shared);
        let body = move || {
            if let Shared::Queued(queued) = &*theirs {
                writer.run(queued);
            }
        };
        std::thread::Builder::new()
            .name("log".to_owned())
            .stack_size(STACK)
            .spawn(body)?;
        Ok(Sink { shared })
    }

    /// Takes lines (with their line ends). Never waits for the target; `false` when they had to be dropped.
    pub fn push(&self, lines: &[u8]) -> bool {
        match &*self.shared {
            Shared::Direct(direct) => lock(direct).write(lines),
            Shared::Queued(queued) => queued.push(lines),
        }
    }

    /// Opens the target's path anew (after a rotation) once what is in hand is written. A path that cannot be
    /// opened leaves the old file in use.
    pub fn reopen(&self) {
        match &*self.shared {
            Shared::Direct(direct) => {
                // Reported once the lock is free: the report may well go to this very sink.
                let outcome = lock(direct).output.reopen();
                report(outcome);
            }
            Shared::Queued(queued) => {
                lock(&queued.queue).reopen = true;
                queued.work.notify_one();
            }
        }
    }

    /// Lines lost and not yet told.
    #[cfg(test)]
    pub fn losses(&self) -> Losses {
        match &*self.shared {
            Shared::Direct(direct) => lock(direct).losses,
            Shared::Queued(queued) => lock(&queued.queue).losses,
        }
    }

    /// Lets the writer finish, for at most `patience`; `false` when it did not. Lines pushed later are dropped.
    pub fn close(&self, patience: Duration) -> bool {
        let Shared::Queued(queued) = &*self.shared else {
            return true;
        };
        let mut queue = lock(&queued.queue);
        queue.closing = true;
        queued.work.notify_one();
        let deadline = Instant::now() + patience;
        while !queue.finished {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = queued.done.wait_timeout(queue, left);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

/// Bytes that may wait for a slow target; more are dropped.
pub const MAX_IN_FLIGHT: usize = 4 * 1024 * 1024;

/// Bytes that end the gathering of lines early.
const GATHERED: usize = 1024 * 1024;

/// How long a direct sink waits for a target that takes nothing before it gives a line up.
pub const DIRECT_PATIENCE: Duration = Duration::from_millis(200);

/// The writer's stack: it formats nothing large and calls nothing deep.
const STACK: usize = 128 * 1024;

/// A buffer that grew beyond this in a flood is given back.
const KEPT_CAPACITY: usize = 256 * 1024;

/// Losses are told at most this often.
const TELL_EVERY: Duration = Duration::from_secs(1);

impl Direct {
    fn write(&mut self, lines: &[u8]) -> bool {
        let written = self.output.write(lines).is_ok();
        if !written {
            self.losses.failed += line_count(lines);
        }
        written
    }
}

impl Queued {
    fn push(&self, lines: &[u8]) -> bool {
        let mut queue = lock(&self.queue);
        let in_flight = queue.pending.len() + queue.in_hand;
        if queue.closing || in_flight + lines.len() > MAX_IN_FLIGHT {
            queue.losses.dropped += line_count(lines);
            return false;
        }
        let before = queue.pending.len();
        queue.pending.extend_from_slice(lines);
        queue.lines += line_count(lines);
        let much = before < GATHERED && queue.pending.len() >= GATHERED;
        if std::mem::take(&mut queue.asleep) || much {
            drop(queue);
            self.work.notify_one();
        }
        true
    }

    /// Waits for lines and takes them all into `batch`; `None` when the sink is closed and empty.
    fn take(&self, gather: Duration, batch: &mut Vec<u8>) -> Option<Taken> {
        let mut queue = lock(&self.queue);
        while queue.pending.is_empty() && !queue.reopen {
            if queue.closing {
                return None;
            }
            queue.asleep = true;
            queue = self
                .work
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
        queue.asleep = false;
        let deadline = Instant::now() + gather;
        while !queue.closing && !queue.reopen && queue.pending.len() < GATHERED {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.work.wait_timeout(queue, left);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        std::mem::swap(&mut queue.pending, batch);
        queue.in_hand = batch.len();
        Some(Taken {
            lines: std::mem::take(&mut queue.lines),
            reopen: std::mem::take(&mut queue.reopen),
        })
    }

    /// The batch is through (or lost): gives what was dropped meanwhile.
    fn finish(&self, batch: &mut Vec<u8>) -> Losses {
        batch.clear();
        batch.shrink_to(KEPT_CAPACITY);
        let mut queue = lock(&self.queue);
        queue.in_hand = 0;
        queue.losses
    }

    fn forget(&self, told: Losses) {
        let mut queue = lock(&self.queue);
        queue.losses.dropped -= told.dropped;
        queue.losses.failed -= told.failed;
    }
}

struct Taken {
    lines: u64,
    reopen: bool,
}

struct Writer {
    output: Output,
    gather: Duration,
    tell: Tell,
    untold: Losses,
    told: Option<Instant>,
}

impl Writer {
    fn run(mut self, queued: &Queued) {
        let mut batch = Vec::new();
        while let Some(taken) = queued.take(self.gather, &mut batch) {
            let outcome = self.output.write(&batch);
            if outcome.is_err() {
                lock(&queued.queue).losses.failed += taken.lines;
            }
            if taken.reopen {
                report(self.output.reopen());
            }
            self.untold = queued.finish(&mut batch);
            if outcome.is_ok() {
                self.tell_losses(queued);
            }
        }
        lock(&queued.queue).finished = true;
        queued.done.notify_all();
    }

    fn tell_losses(&mut self, queued: &Queued) {
        let recently = self.told.is_some_and(|at| at.elapsed() < TELL_EVERY);
        if self.untold == Losses::default() || recently {
            return;
        }
        self.told = Some(Instant::now());
        let lines = (self.tell)(self.untold);
        if self.output.write(&lines).is_ok() {
            queued.forget(self.untold);
        }
    }
}

fn report(reopened: io::Result<()>) {
    if let Err(error) = reopened {
        tracing::error!("{error}; hint: lines still go to the old file");
    }
}

fn line_count(lines: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', lines).count() as u64
}

/// A thread that panicked while it held the lock left the queue as it was: numbers and whole lines.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::OwnedFd;
    use std::path::PathBuf;
    use std::sync::mpsc;

    use super::*;
    use crate::logs::scratch::Scratch;

    fn silent() -> Tell {
        Box::new(|_| Vec::new())
    }

    const SOON: Duration = Duration::from_secs(20);

    /// A FIFO as a target: its reader decides when it takes anything.
    fn fifo(scratch: &Scratch) -> (Target, File) {
        let path = scratch.path("fifo");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK;
        let reader: OwnedFd = rustix::fs::open(&path, flags, rustix::fs::Mode::empty()).unwrap();
        rustix::fs::fcntl_setfl(&reader, rustix::fs::OFlags::empty()).unwrap();
        (Target::Path(path), File::from(reader))
    }

    #[test]
    fn lines_reach_a_file_in_order() {
        let scratch = Scratch::new("sink");
        scratch.write("log", "before\n");
        let target = Target::Path(scratch.path("log"));
        for sink in [
            Sink::direct(&target).unwrap(),
            Sink::queued(&target, Duration::ZERO, silent()).unwrap(),
        ] {
            for number in 0..100 {
                assert!(sink.push(format!("{number}\n").as_bytes()));
            }
            assert!(sink.close(SOON));
        }
        let expected: String = (0..100).map(|number| format!("{number}\n")).collect();
        let seen = std::fs::read_to_string(scratch.path("log")).unwrap();
        assert_eq!(seen, format!("before\n{expected}{expected}"));
    }

    #[test]
    fn a_rotated_file_is_opened_anew() {
        let long = Duration::from_secs(60);
        let open: [fn(&Target, Duration) -> Sink; 2] = [
            |target, _| Sink::direct(target).unwrap(),
            |target, gather| Sink::queued(target, gather, silent()).unwrap(),
        ];
        for open in open {
            let scratch = Scratch::new("rotate");
            let sink = open(&Target::Path(scratch.path("log")), long);
            sink.push(b"old\n");
            std::fs::rename(scratch.path("log"), scratch.path("log.1")).unwrap();
            sink.reopen();
            // The new file appears when the old one has everything.
            while !scratch.path("log").exists() {
                std::thread::yield_now();
            }
            sink.push(b"new\n");
            assert!(sink.close(SOON));
            let read = |name| std::fs::read_to_string(scratch.path(name)).unwrap();
            assert_eq!((&read("log.1")[..], &read("log")[..]), ("old\n", "new\n"));
        }
    }

    #[test]
    fn a_path_that_cannot_be_reopened_keeps_the_old_file() {
        let scratch = Scratch::new("reopen");
        scratch.write("dir/log", "");
        let sink = Sink::direct(&Target::Path(scratch.path("dir/log"))).unwrap();
        std::fs::rename(scratch.path("dir"), scratch.path("moved")).unwrap();
        sink.reopen();
        assert!(sink.push(b"still here\n"));
        assert_eq!(
            std::fs::read_to_string(scratch.path("moved/log")).unwrap(),
            "still here\n"
        );
    }

    #[test]
    fn a_flood_blocks_nobody_and_its_drops_are_told_when_room_returns() {
        let scratch = Scratch::new("flood");
        let (target, mut reader) = fifo(&scratch);
        let (told, hear) = mpsc::channel();
        let tell: Tell = Box::new(move |losses| {
            told.send(losses).unwrap();
            format!("dropped {}\n", losses.dropped).into_bytes()
        });
        let sink = Sink::queued(&target, Duration::ZERO, tell).unwrap();
        // Nobody reads: every push still comes back. One that waited would hang this test for ever.
        let line = [&[b'x'; 199][..], b"\n"].concat();
        let total = 4 * MAX_IN_FLIGHT as u64 / 200;
        let accepted = (0..total).filter(|_| sink.push(&line)).count() as u64;
        assert!(accepted >= MAX_IN_FLIGHT as u64 / 200 - 1 && accepted < total);
        assert_eq!(
            sink.losses(),
            Losses {
                dropped: total - accepted,
                failed: 0
            }
        );

        let drain = std::thread::spawn(move || {
            let mut seen = String::new();
            reader.read_to_string(&mut seen).unwrap();
            seen
        });
        assert_eq!(hear.recv_timeout(SOON).unwrap().dropped, total - accepted);
        assert!(sink.push(b"room again\n"));
        assert!(sink.close(SOON));
        assert_eq!(sink.losses(), Losses::default());
        drop(sink);
        let seen = drain.join().unwrap();
        assert_eq!(
            seen.lines().filter(|l| l.starts_with('x')).count() as u64,
            accepted
        );
        assert_eq!(seen.lines().filter(|l| l.starts_with("dropped")).count(), 1);
        assert!(seen.ends_with("room again\n"));
    }

    #[test]
    fn a_direct_sink_gives_up_on_a_reader_that_does_not_read() {
        let scratch = Scratch::new("patience");
        let (target, mut reader) = fifo(&scratch);
        let sink = Sink::direct(&target).unwrap();
        let line = [&[b'x'; 999][..], b"\n"].concat();
        let mut accepted = 0;
        while sink.push(&line) {
            accepted += 1;
        }
        assert!(accepted > 0);
        assert_eq!(sink.losses().failed, 1);
        let mut room = vec![0; 32 * 1024];
        reader.read_exact(&mut room).unwrap();
        assert!(sink.push(b"room again\n"));
    }

    #[test]
    fn a_failing_target_is_survived_and_counted() {
        // Every write to it says "no space left on device".
        let target = Target::Path(PathBuf::from("/dev/full"));
        let sink = Sink::queued(&target, Duration::ZERO, silent()).unwrap();
        for _ in 0..10 {
            sink.push(b"one\ntwo\n");
        }
        assert!(sink.close(SOON));
        assert_eq!(
            sink.losses(),
            Losses {
                dropped: 0,
                failed: 20
            }
        );

        let scratch = Scratch::new("gone");
        let (target, reader) = fifo(&scratch);
        let sink = Sink::direct(&target).unwrap();
        drop(reader);
        assert!(!sink.push(b"nobody reads this\n"));
        assert_eq!(sink.losses().failed, 1);
    }

    #[test]
    fn a_stuck_target_does_not_hold_up_the_end() {
        let scratch = Scratch::new("stuck");
        let (target, reader) = fifo(&scratch);
        let sink = Sink::queued(&target, Duration::ZERO, silent()).unwrap();
        sink.push(&vec![b'\n'; 1024 * 1024]);
        assert!(!sink.close(Duration::from_millis(50)));
        assert!(!sink.push(b"too late\n"));
        drop(reader);
        assert!(sink.close(SOON));
    }
}
