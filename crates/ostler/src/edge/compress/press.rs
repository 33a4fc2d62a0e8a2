//! Copies of static files in a content coding: made once, away from the edge threads, and kept for all of them within
//! one budget. While a copy is not there, the file is sent as it is.
//!
//! A copy belongs to one state of one file. Small ones are bytes, larger ones files without a name, which go out by
//! `sendfile(2)` as any other: 250 KiB take 23 µs so, 33 µs out of a memory file, whose pages are small ones, and 47 µs
//! when they are written from our memory; and the kernel may forget what it can read again. Knows no request and no
//! path.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, Weak};
use std::time::Instant;

use rustix::fs::{MemfdFlags, SealFlags};

use super::engine::{Effort, Engine};
use crate::edge::disk::{self, Reach, Stored};
use crate::edge::files::{Content, Identity, Representation, SMALL};
use crate::edge::h1::coding::{Coding, choose};
use crate::edge::h1::compressible::is_compressible;
use crate::edge::h1::recode::LEAST;
use crate::edge::lock;
use crate::edge::spool::unnamed;

/// Bytes of the largest file that is coded: 16 MiB take a third of a second by zstd and most of one by Brotli, and a
/// thread that does that for larger ones has no time for the others.
const LARGEST: u64 = 16 << 20;

/// Bytes that all copies may take together: 64 MiB, some hundred scripts and style sheets of each kind.
const BUDGET: u64 = 64 << 20;

/// Copies, and files known not to get smaller, together: bounds the table.
const MOST: usize = 4096;

/// Copies that are files: each keeps a descriptor, of which a process usually has 1,024.
const MOST_FILES: usize = 128;

/// Files that wait to be coded. Who finds the line full asks again with the next request.
const LINE: usize = 64;

/// What a copy may have of the file's size, in percent: less than this is not worth a client's work.
const WORTH: u64 = 95;

/// How much the thread yields to those that serve: it works on when there is nothing else to do.
const NICE: i32 = 10;

/// Bytes read and coded at once.
const PIECE: usize = 256 * 1024;

/// Makes copies and keeps them.
pub struct Press {
    folder: PathBuf,
    /// Bytes that copies may take together.
    budget: u64,
    /// Guards the table; held for a look-up, or for a walk through all of it when something has to go.
    shelf: Mutex<Shelf>,
    /// Bytes of copies that are there, on the shelf or on their way to somebody.
    bytes: Arc<AtomicU64>,
    /// When it was made: copies remember in seconds since when they were used last.
    began: Instant,
}

#[derive(Default)]
struct Shelf {
    places: HashMap<Key, Place>,
    /// Where files go to be coded; made with the first one.
    line: Option<SyncSender<Job>>,
}

/// One state of one file, in one coding, under one type: its head says the type, and the same file may have two names.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    identity: Identity,
    content_type: Box<str>,
    coding: Coding,
}

struct Place {
    copy: Copy,
    /// Seconds since the press began.
    used: u64,
}

enum Copy {
    /// Somebody works on it.
    Awaited,
    /// It did not get smaller, or could not be read.
    Useless,
    Kept(Arc<Kept>),
}

/// A copy that is there.
#[derive(Debug)]
pub struct Kept {
    pub representation: Representation,
    used: AtomicU64,
    _charge: Arc<Charge>,
}

/// Bytes of the budget, given back with the last use.
#[derive(Debug)]
pub struct Charge {
    of: Arc<AtomicU64>,
    bytes: u64,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.of.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

struct Job {
    key: Key,
    content: Content,
    /// Not held by the line: a press that nobody uses any more ends its thread.
    press: Weak<Press>,
}

impl Press {
    /// Copies are made in `folder`.
    pub fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            budget: BUDGET,
            shelf: Mutex::default(),
            bytes: Arc::default(),
            began: Instant::now(),
        }
    }

    /// Whether there may be copies of a file.
    pub fn takes(content_type: &str, size: u64) -> bool {
        (LEAST..=LARGEST).contains(&size) && is_compressible(content_type.as_bytes())
    }

    /// The copy that a client would rather have than the file. When it is not there it will be, unless the file does
    /// not get smaller. `known` remembers copies for the one who asks.
    pub fn copy_of(
        self: &Arc<Self>,
        plain: &Representation,
        known: &mut [Weak<Kept>; 3],
        accept_encoding: Option<&[u8]>,
        now: Instant,
    ) -> Option<Arc<Kept>> {
        if !plain.is_settled() || !Self::takes(&plain.content_type, plain.size) {
            return None;
        }
        let coding = choose(accept_encoding, Coding::ALL)?;
        let known = &mut known[coding.index()];
        let now = now.saturating_duration_since(self.began).as_secs();
        if let Some(kept) = known.upgrade() {
            kept.used.store(now, Ordering::Relaxed);
            return Some(kept);
        }
        let kept = self.look(plain, coding, now)?;
        *known = Arc::downgrade(&kept);
        Some(kept)
    }

    fn look(
        self: &Arc<Self>,
        plain: &Representation,
        coding: Coding,
        now: u64,
    ) -> Option<Arc<Kept>> {
        let key = Key {
            identity: plain.identity,
            content_type: plain.content_type.clone(),
            coding,
        };
        let mut shelf = lock(&self.shelf);
        if let Some(place) = shelf.places.get_mut(&key) {
            place.used = now;
            return match &place.copy {
                Copy::Kept(kept) => Some(Arc::clone(kept)),
                Copy::Awaited | Copy::Useless => None,
            };
        }
        let job = Job {
            key: key.clone(),
            content: plain.content.clone(),
            press: Arc::downgrade(self),
        };
        if shelf.line()?.try_send(job).is_ok() {
            if shelf.places.len() >= MOST {
                shelf.drop_least_used(|_| true);
            }
            let copy = Copy::Awaited;
            shelf.places.insert(key, Place { copy, used: now });
        }
        None
    }

    /// Codes a file and puts the copy on the shelf.
    fn press(&self, key: Key, content: &Content) {
        let copy = match coded(&key, content) {
            Some(bytes) => self.keep(&key, bytes),
            None => Some(Copy::Useless),
        };
        let mut shelf = lock(&self.shelf);
        match copy {
            None => drop(shelf.places.remove(&key)),
            Some(copy) => {
                // What was awaited may have been dropped for others meanwhile.
                if let Some(place) = shelf.places.get_mut(&key) {
                    place.copy = copy;
                }
            }
        }
    }

    /// `None` when there is no room for it now.
    fn keep(&self, key: &Key, bytes: Vec<u8>) -> Option<Copy> {
        let size = bytes.len() as u64;
        let is_file = size > SMALL;
        let charge = self.charge(size, is_file)?;
        let content = match is_file {
            true => {
                // A disk that is full or read-only is no reason to send more.
                let file = file_of(&self.folder, &bytes);
                let file = file.or_else(|_| memory_file(&bytes)).ok()?;
                Content::File(Arc::new(Stored::charged(file, &charge)))
            }
            false => Content::Memory(bytes.as_slice().into()),
        };
        let coding = key.coding;
        // The same bytes have the same tag, whichever version of an encoder has made them.
        let representation =
            Representation::copy(key.identity, &key.content_type, coding, content, &bytes);
        Some(Copy::Kept(Arc::new(Kept {
            representation,
            used: AtomicU64::new(self.began.elapsed().as_secs()),
            _charge: charge,
        })))
    }

    /// Takes bytes of the budget, for which copies go that were not used for longest.
    fn charge(&self, bytes: u64, is_file: bool) -> Option<Arc<Charge>> {
        let mut shelf = lock(&self.shelf);
        if is_file && shelf.files() >= MOST_FILES {
            shelf.drop_least_used(Copy::is_file);
        }
        // Only this thread adds; what is still on its way to somebody is not free before it is there.
        while self.bytes.load(Ordering::Relaxed) + bytes > self.budget {
            if !shelf.drop_least_used(|copy| matches!(copy, Copy::Kept(_))) {
                return None;
            }
        }
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        Some(Arc::new(Charge {
            of: Arc::clone(&self.bytes),
            bytes,
        }))
    }
}

impl fmt::Debug for Press {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Press({:?} bytes)", self.bytes)
    }
}

impl Shelf {
    /// The line of a thread that codes; `None` when there can be none.
    fn line(&mut self) -> Option<&SyncSender<Job>> {
        if self.line.is_none() {
            let (line, jobs) = sync_channel(LINE);
            let thread = std::thread::Builder::new().name("press".to_owned());
            thread.spawn(move || work(&jobs)).ok()?;
            self.line = Some(line);
        }
        self.line.as_ref()
    }

    fn files(&self) -> usize {
        let copies = self.places.values();
        copies.filter(|place| place.copy.is_file()).count()
    }

    /// False when there is none.
    fn drop_least_used(&mut self, which: impl Fn(&Copy) -> bool) -> bool {
        let candidates = self.places.iter().filter(|(_, place)| which(&place.copy));
        let least = candidates.min_by_key(|(_, place)| match &place.copy {
            Copy::Kept(kept) => kept.used.load(Ordering::Relaxed).max(place.used),
            Copy::Awaited | Copy::Useless => place.used,
        });
        let Some(key) = least.map(|(key, _)| key.clone()) else {
            return false;
        };
        self.places.remove(&key);
        true
    }
}

impl Copy {
    fn is_file(&self) -> bool {
        matches!(self, Self::Kept(kept) if kept.representation.holds_descriptor())
    }
}

/// Codes files until nobody sends any more.
fn work(jobs: &Receiver<Job>) {
    // Of this thread alone (setpriority(2), "C library/kernel differences"). Without it the work is done all the same.
    let _ = rustix::process::setpriority_process(None, NICE);
    while let Ok(job) = jobs.recv() {
        if let Some(press) = job.press.upgrade() {
            press.press(job.key, &job.content);
        }
    }
}

/// The bytes of a file in a coding; `None` when they are not worth it, or the file is not what it was.
fn coded(key: &Key, content: &Content) -> Option<Vec<u8>> {
    let mut engine = Engine::new(key.coding, Effort::Once).ok()?;
    let mut out = Vec::new();
    let size = match content {
        Content::Memory(bytes) => {
            engine.write(bytes, &mut out).ok()?;
            bytes.len() as u64
        }
        Content::File(file) => {
            let mut piece = vec![0; PIECE];
            let mut at = 0;
            loop {
                let count = disk::read(file, at, &mut piece, Reach::Disk).ok()?;
                if count == 0 || at > LARGEST {
                    break;
                }
                engine.write(&piece[..count], &mut out).ok()?;
                at += count as u64;
            }
            // Written to while it was read, it is another file.
            let now = rustix::fs::fstat(file.as_fd()).ok()?;
            if Identity::of(&now)? != key.identity {
                return None;
            }
            at
        }
    };
    engine.finish(&mut out).ok()?;
    (out.len() as u64 * 100 < size * WORTH).then_some(out)
}

/// A file without a name.
fn file_of(folder: &Path, bytes: &[u8]) -> io::Result<OwnedFd> {
    let mut file = unnamed(folder)?;
    file.write_all(bytes)?;
    Ok(file.into())
}

/// The same in memory alone; nobody can change it any more.
fn memory_file(bytes: &[u8]) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = std::fs::File::from(rustix::fs::memfd_create("ostler-copy", flags)?);
    file.write_all(bytes)?;
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&file, seals)?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::edge::files::Presentation;
    use crate::logs::scratch::Scratch;

    /// Text of which no half says anything about the other.
    fn text(seed: u32, length: usize) -> Vec<u8> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            b'a' + (state >> 24) as u8 % 16
        };
        (0..length).map(|_| next()).collect()
    }

    fn plain(scratch: &Scratch, name: &str, bytes: Vec<u8>) -> Representation {
        scratch.write(name, bytes);
        let file = std::fs::File::open(scratch.path(name)).expect("a file");
        file.set_modified(SystemTime::now() - Duration::from_secs(60))
            .expect("older");
        let identity = Identity::of(&rustix::fs::fstat(&file).expect("known")).expect("a file");
        let how = Presentation {
            name: name.as_bytes(),
            may_be_copied: true,
            ..Presentation::default()
        };
        Representation::load(file.into(), identity, how, Reach::Disk).expect("read")
    }

    fn key(plain: &Representation, coding: Coding) -> Key {
        Key {
            identity: plain.identity,
            content_type: plain.content_type.clone(),
            coding,
        }
    }

    /// Has a copy made here and now.
    fn made(press: &Arc<Press>, plain: &Representation) -> Option<Arc<Kept>> {
        let key = key(plain, Coding::Gzip);
        let (copy, used) = (Copy::Awaited, 0);
        lock(&press.shelf)
            .places
            .insert(key.clone(), Place { copy, used });
        press.press(key, &plain.content);
        found(press, plain)
    }

    fn found(press: &Arc<Press>, plain: &Representation) -> Option<Arc<Kept>> {
        let shelf = lock(&press.shelf);
        match &shelf.places.get(&key(plain, Coding::Gzip))?.copy {
            Copy::Kept(kept) => Some(Arc::clone(kept)),
            Copy::Awaited | Copy::Useless => None,
        }
    }

    #[test]
    fn who_asks_gets_it_later_and_then_at_once() {
        let scratch = Scratch::new("press-asked");
        let press = Arc::new(Press::new(scratch.path("")));
        let file = plain(&scratch, "a.css", b"body {} ".repeat(1000));
        let mut known = Default::default();
        let mut ask =
            |accept: &[u8]| press.copy_of(&file, &mut known, Some(accept), Instant::now());
        assert!(ask(b"identity").is_none() && lock(&press.shelf).places.is_empty());
        let late = Instant::now() + Duration::from_secs(20);
        let kept = loop {
            if let Some(kept) = ask(b"gzip, zstd") {
                break kept;
            }
            assert!(Instant::now() < late, "it never comes");
            std::thread::yield_now();
        };
        assert!(Arc::ptr_eq(&kept, &ask(b"zstd").expect("still there")));
        let head = String::from_utf8_lossy(&kept.representation.head).into_owned();
        for line in [
            "Content-Encoding: zstd",
            "Vary: Accept-Encoding",
            "Content-Type: text/css",
        ] {
            assert!(head.contains(line), "{head}");
        }
        assert_eq!(lock(&press.shelf).places.len(), 1);
    }

    #[test]
    fn the_least_used_make_room_and_what_is_in_use_counts() {
        let scratch = Scratch::new("press-room");
        let mut press = Press::new(scratch.path(""));
        // Each is a file of some 100 KiB in a coding.
        press.budget = 350_000;
        let press = Arc::new(press);
        let files: Vec<_> = (0..5)
            .map(|n| plain(&scratch, &format!("{n}.txt"), text(n, 200_000)))
            .collect();
        for (age, file) in files[..3].iter().enumerate() {
            let kept = made(&press, file).expect("there is room");
            assert!(kept.representation.holds_descriptor());
            kept.used.store(10 - age as u64, Ordering::Relaxed);
        }
        assert!(made(&press, &files[3]).is_some());
        let there = files.iter().map(|file| found(&press, file).is_some());
        assert_eq!(there.collect::<Vec<_>>(), [true, true, false, true, false]);
        // Nothing is free while it is on its way to somebody.
        let held: Vec<_> = files
            .iter()
            .filter_map(|file| found(&press, file))
            .collect();
        assert!(made(&press, &files[4]).is_none());
        assert!(press.bytes.load(Ordering::Relaxed) <= press.budget);
        drop(held);
        assert_eq!(press.bytes.load(Ordering::Relaxed), 0);
        assert!(made(&press, &files[4]).is_some());
    }

    #[test]
    fn what_does_not_get_smaller_or_has_changed_is_no_copy() {
        let scratch = Scratch::new("press-useless");
        let press = Arc::new(Press::new(scratch.path("")));
        let mut noise = vec![0; 100_000];
        rustix::rand::getrandom(&mut noise, rustix::rand::GetRandomFlags::empty()).expect("noise");
        assert!(made(&press, &plain(&scratch, "noise.txt", noise)).is_none());
        let file = plain(&scratch, "b.txt", text(1, 200_000));
        scratch.write("b.txt", text(2, 200_000));
        assert!(made(&press, &file).is_none());
        assert_eq!(press.bytes.load(Ordering::Relaxed), 0);
    }
}
