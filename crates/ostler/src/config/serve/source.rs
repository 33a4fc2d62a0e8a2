//! The files that were read, and places in them. Reads files, and knows nothing of what they say.

use std::fs::File;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

/// Largest file that is read, in bytes: far above any configuration, and quickly read.
pub const LARGEST: u64 = 1 << 20;

/// Every file that was read, by number.
#[derive(Debug, Default)]
pub struct Sources(Vec<(Source, Vec<usize>)>);

/// One file.
#[derive(Debug)]
pub struct Source {
    /// As messages name it.
    pub name: String,
    /// What its relative paths start at; absolute.
    pub folder: PathBuf,
    pub text: String,
    /// The checkout whose repository gave the file, with links resolved; `None` for a file of the operator.
    pub checkout: Option<PathBuf>,
}

/// A place: bytes `from` to `to` of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct At {
    pub file: usize,
    pub from: usize,
    pub to: usize,
}

impl Sources {
    /// Keeps a file; gives its number.
    pub fn add(&mut self, source: Source) -> usize {
        let ends = memchr::memchr_iter(b'\n', source.text.as_bytes()).collect();
        self.0.push((source, ends));
        self.0.len() - 1
    }

    /// The file that a place is in.
    pub fn of(&self, at: At) -> &Source {
        &self.0[at.file].0
    }

    /// A path as it is written at a place: as messages name it, and absolute.
    pub fn path(&self, at: At, written: &Path) -> (String, PathBuf) {
        let source = self.of(at);
        let beside = Path::new(&source.name).parent().unwrap_or(Path::new(""));
        let name = clean(&beside.join(written)).display().to_string();
        (name, clean(&source.folder.join(written)))
    }

    /// The file of this number.
    pub fn file(&self, number: usize) -> &Source {
        &self.0[number].0
    }

    /// The line of a place, from 1.
    pub fn line(&self, at: At) -> usize {
        1 + self.0[at.file].1.partition_point(|end| *end < at.from)
    }
}

/// The text of a file of at most [`LARGEST`] bytes.
///
/// # Errors
/// Why it cannot be read: goes behind the file's name.
pub fn text_of(path: &Path) -> Result<String, String> {
    let told = |error: std::io::Error| format!("cannot be read: {error}");
    // A FIFO would be waited for, a device may never end.
    if !path.metadata().map_err(told)?.is_file() {
        return Err("is no regular file".to_owned());
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(told)?;
    file.take(LARGEST + 1)
        .read_to_end(&mut bytes)
        .map_err(told)?;
    if bytes.len() as u64 > LARGEST {
        return Err(format!("is larger than {} MiB", LARGEST >> 20));
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + memchr::memchr_iter(b'\n', good).count();
        format!("is not UTF-8 text (line {line})")
    })
}

/// `path` without its `.` segments. (`..` stays: behind a link it is not what it looks like.)
pub fn clean(path: &Path) -> PathBuf {
    path.components()
        .filter(|part| *part != Component::CurDir)
        .collect()
}
