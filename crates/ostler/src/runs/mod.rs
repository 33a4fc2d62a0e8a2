//! Runs: what workers have written about the time of their calls, as `<folder>/<number>/<pid>.log`. Reads only.
//!
//! Apps write these files, and root may read them: nothing is followed, waited for or believed.

mod compare;
mod histogram;
mod line;
mod read;
mod summary;

pub use compare::{Compared, Verdict, compare};
pub use read::{Glance, glance, read, size};
pub use summary::{Call, Summary};

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Dir, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use serde::Deserialize;

/// Digits of a run's or a process's number: as many as a worker writes.
const MOST_DIGITS: usize = 18;

/// Entries of a folder that are looked at: the writers stop far below.
const MOST_ENTRIES: usize = 1_000_000;

/// What a worker notes beside the files of a run, and how much of it is read.
const ABOUT: &str = "run.json";
const MOST_ABOUT: u64 = 4096;

const FOLDER: OFlags = OFlags::DIRECTORY.union(OFlags::CLOEXEC);
const FILE: OFlags = OFlags::NOFOLLOW
    .union(OFlags::NONBLOCK)
    .union(OFlags::CLOEXEC);

/// The folder of all runs.
pub struct Runs {
    folder: OwnedFd,
    /// In ascending order: the last is the most recent one.
    pub numbers: Vec<u64>,
}

/// The folder of one run.
pub struct Run {
    pub number: u64,
    folder: OwnedFd,
    /// The processes that have a file.
    pub workers: Vec<u64>,
    /// Entries that are none of ours.
    pub foreign: u64,
    about: About,
}

/// What the workers noted at the start.
#[derive(Default, Deserialize)]
#[serde(default)]
struct About {
    /// µs since the epoch.
    start: Option<u64>,
    app: String,
}

impl Runs {
    /// Looks what runs there are.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn open(folder: &Path) -> io::Result<Self> {
        let folder = rustix::fs::open(folder, FOLDER, Mode::empty())?;
        let (numbers, _) = numbered(&folder, "")?;
        Ok(Self { folder, numbers })
    }

    /// One of them; `None` when it is not there.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn run(&self, number: u64) -> io::Result<Option<Run>> {
        let flags = FOLDER.union(OFlags::NOFOLLOW);
        let folder =
            match rustix::fs::openat(&self.folder, number.to_string(), flags, Mode::empty()) {
                Ok(folder) => folder,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
                Err(error) => return Err(error.into()),
            };
        let (workers, mut foreign) = numbered(&folder, ".log")?;
        let mut about = About::default();
        if let Ok(file) = regular(&folder, ABOUT) {
            foreign = foreign.saturating_sub(1);
            let mut text = Vec::new();
            if file.take(MOST_ABOUT).read_to_end(&mut text).is_ok() {
                about = serde_json::from_slice(&text).unwrap_or_default();
            }
        }
        Ok(Some(Run {
            number,
            folder,
            workers,
            foreign,
            about,
        }))
    }
}

impl Run {
    /// Whether a process of it lives: all of them hold a lock on its folder.
    pub fn is_open(&self) -> bool {
        let tried = rustix::fs::flock(&self.folder, FlockOperation::NonBlockingLockExclusive);
        if tried.is_ok() {
            // Nobody can be kept waiting by a lock that was not given back: closing does that.
            let _ = rustix::fs::flock(&self.folder, FlockOperation::Unlock);
        }
        tried == Err(Errno::WOULDBLOCK)
    }

    fn file(&self, worker: u64) -> io::Result<File> {
        regular(&self.folder, &format!("{worker}.log"))
    }
}

/// The numbers of a folder's entries that are called so, in order, and how many others there are.
fn numbered(folder: &OwnedFd, ending: &str) -> io::Result<(Vec<u64>, u64)> {
    let (mut numbers, mut foreign) = (Vec::new(), 0);
    for entry in Dir::read_from(folder)?.take(MOST_ENTRIES) {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        match number(name.strip_suffix(ending.as_bytes()).unwrap_or_default()) {
            Some(number) => numbers.push(number),
            None => foreign += 1,
        }
    }
    numbers.sort_unstable();
    Ok((numbers, foreign))
}

/// A number as we write it.
fn number(name: &[u8]) -> Option<u64> {
    let digits = (1..=MOST_DIGITS).contains(&name.len()) && name.iter().all(u8::is_ascii_digit);
    let plain = name == b"0" || name.first() != Some(&b'0');
    (digits && plain).then(|| std::str::from_utf8(name).ok()?.parse().ok())?
}

/// A regular file, and nothing that one waits at or that leads elsewhere.
fn regular(folder: &OwnedFd, name: &str) -> io::Result<File> {
    let file = rustix::fs::openat(folder, name, FILE, Mode::empty())?;
    let mode = rustix::fs::fstat(&file)?.st_mode;
    match FileType::from_raw_mode(mode) {
        FileType::RegularFile => Ok(File::from(file)),
        _ => Err(io::Error::other("no regular file")),
    }
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn a_number_is_written_in_one_way() {
        for (name, expected) in [
            ("0", Some(0)),
            ("17", Some(17)),
            ("017", None),
            ("", None),
            ("+1", None),
            ("1 ", None),
            ("999999999999999999", Some(999_999_999_999_999_999)),
            ("1000000000000000000", None),
        ] {
            assert_eq!(number(name.as_bytes()), expected, "{name}");
        }
    }
}
