//! Bytes that wait for a slow side: in memory first, then in an unlinked file, within one budget.
//!
//! A request body is collected here before a synchronous app is called; a response is held here
//! while its client reads slowly, so that the worker is free meanwhile.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{Mode, OFlags};

use super::share::Share;

/// Disk that all spool files of the server may take together, and where they are made.
#[derive(Debug)]
pub struct Budget {
    folder: PathBuf,
    left: AtomicU64,
}

impl Budget {
    /// `bytes` is the budget in bytes; `folder` must be writable.
    pub fn new(folder: PathBuf, bytes: u64) -> Self {
        Self {
            folder,
            left: AtomicU64::new(bytes),
        }
    }

    /// A frame of any size would still fit.
    pub fn has_room(&self) -> bool {
        self.left.load(Ordering::Relaxed) > 4 * u64::from(ostler_wire::MAX_PAYLOAD)
    }

    fn take(&self, bytes: u64) -> bool {
        self.left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(bytes)
            })
            .is_ok()
    }

    fn give_back(&self, bytes: u64) {
        self.left.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Why a spool takes no more bytes.
#[derive(Debug)]
pub enum SpoolError {
    /// The budget of all spool files is used up.
    Full,
    /// What one address may have of it is.
    Crowded,
    /// The disk refused.
    Io(io::Error),
}

/// An unlinked file that grows at its end and is read from its start.
#[derive(Debug)]
pub struct SpoolFile {
    file: File,
    budget: Arc<Budget>,
    share: Share,
    len: u64,
    read: u64,
}

impl SpoolFile {
    /// Makes an empty file without a name, for which `share` is held.
    pub fn create(budget: &Arc<Budget>, share: Share) -> Result<Self, SpoolError> {
        let file = unnamed(&budget.folder).map_err(SpoolError::Io)?;
        Ok(Self {
            file,
            budget: Arc::clone(budget),
            share,
            len: 0,
            read: 0,
        })
    }

    /// Appends; the bytes are counted against the budget.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), SpoolError> {
        if !self.share.hold(self.len + bytes.len() as u64) {
            return Err(SpoolError::Crowded);
        }
        if !self.budget.take(bytes.len() as u64) {
            return Err(SpoolError::Full);
        }
        self.len += bytes.len() as u64;
        self.file
            .write_all_at(bytes, self.len - bytes.len() as u64)
            .map_err(SpoolError::Io)
    }

    /// Bytes that were appended and not read.
    pub fn unread(&self) -> u64 {
        self.len - self.read
    }

    /// Whether no more should be appended for the moment.
    pub fn should_wait(&self) -> bool {
        self.share.should_wait()
    }

    /// Total bytes appended.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Appends up to `limit` unread bytes to `out`.
    pub fn read_into(&mut self, out: &mut Vec<u8>, limit: usize) -> io::Result<()> {
        let count = self.unread().min(limit as u64) as usize;
        let start = out.len();
        out.resize(start + count, 0);
        self.file.read_exact_at(&mut out[start..], self.read)?;
        self.read += count as u64;
        Ok(())
    }

    /// A read-only descriptor of the file, for a worker: it can neither write nor grow it.
    pub fn read_only(&self) -> io::Result<OwnedFd> {
        use std::os::fd::AsRawFd;
        let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        Ok(rustix::fs::open(
            path,
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )?)
    }
}

impl Drop for SpoolFile {
    fn drop(&mut self) {
        self.budget.give_back(self.len);
    }
}

/// A file without a name in `folder`: `O_TMPFILE`, or created and unlinked where the file system
/// does not know that flag.
pub fn unnamed(folder: &Path) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR;
    match rustix::fs::open(folder, flags | OFlags::TMPFILE, mode) {
        Ok(fd) => Ok(fd.into()),
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR | rustix::io::Errno::INVAL) => {
            static NUMBER: AtomicU64 = AtomicU64::new(0);
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let path = folder.join(format!(".ostler-spool-{}-{number}", std::process::id()));
            let fd = rustix::fs::open(&path, flags | OFlags::CREATE | OFlags::EXCL, mode)?;
            std::fs::remove_file(&path)?;
            Ok(fd.into())
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(bytes: u64) -> Arc<Budget> {
        Arc::new(Budget::new(std::env::temp_dir(), bytes))
    }

    #[test]
    fn what_goes_in_comes_out_in_order() {
        let budget = budget(100);
        let mut file = SpoolFile::create(&budget, Share::default()).expect("a file");
        file.append(b"hello ").expect("room");
        file.append(b"world").expect("room");
        let mut out = Vec::new();
        file.read_into(&mut out, 4).expect("read");
        file.read_into(&mut out, 400).expect("read");
        assert_eq!(out, b"hello world");
        assert_eq!((file.unread(), file.len()), (0, 11));
    }

    #[test]
    fn the_budget_is_one_for_all_and_comes_back() {
        let budget = budget(10);
        let mut first = SpoolFile::create(&budget, Share::default()).expect("a file");
        let mut second = SpoolFile::create(&budget, Share::default()).expect("a file");
        first.append(b"12345678").expect("room");
        assert!(matches!(second.append(b"123"), Err(SpoolError::Full)));
        drop(first);
        second.append(b"123").expect("the budget is back");
    }

    #[test]
    fn a_worker_cannot_write_to_what_it_is_given() {
        let budget = budget(10);
        let mut file = SpoolFile::create(&budget, Share::default()).expect("a file");
        file.append(b"body").expect("room");
        let given = File::from(file.read_only().expect("a descriptor"));
        assert!(given.write_at(b"x", 0).is_err());
        let mut back = [0; 4];
        given.read_exact_at(&mut back, 0).expect("readable");
        assert_eq!(&back, b"body");
    }
}
