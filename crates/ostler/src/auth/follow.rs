//! A file that may change while it is in use. Knows nothing of what it says.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use zeroize::Zeroizing;

/// A file is looked at this often. Two looks must see the same before it counts, so that one that is just being
/// written does not revoke everything: a change is in force after a second at most, and a good deal less than two.
pub const LOOK: Duration = Duration::from_millis(500);

/// Largest file, in bytes: ten thousand keys.
const LARGEST: u64 = 1 << 20;

/// What tells one state of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    size: u64,
    written: (i64, i64),
    changed: (i64, i64),
}

/// One file.
#[derive(Debug)]
pub struct Followed {
    pub path: PathBuf,
    /// At the last look; `None`: there was nothing to see.
    seen: Option<Stamp>,
    /// What was read last.
    taken: Option<Stamp>,
}

impl Followed {
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            seen: None,
            taken: None,
        }
    }

    /// Its text, whether it has changed or not.
    pub fn read(&mut self) -> io::Result<Zeroizing<String>> {
        let (stamp, text) = read(&self.path)?;
        (self.seen, self.taken) = (Some(stamp), Some(stamp));
        Ok(text)
    }

    /// Its text, when it has changed and settled since it was read.
    pub fn look(&mut self) -> Option<io::Result<Zeroizing<String>>> {
        let stamp = std::fs::metadata(&self.path)
            .ok()
            .map(|about| Stamp::of(&about));
        let settled = self.seen == stamp;
        self.seen = stamp;
        if !settled || stamp == self.taken {
            return None;
        }
        self.taken = stamp;
        let read = read(&self.path);
        if let Ok((stamp, _)) = &read {
            self.taken = Some(*stamp);
        }
        Some(read.map(|(_, text)| text))
    }
}

impl Stamp {
    fn of(about: &std::fs::Metadata) -> Self {
        Self {
            file: (about.dev(), about.ino()),
            size: about.size(),
            written: (about.mtime(), about.mtime_nsec()),
            changed: (about.ctime(), about.ctime_nsec()),
        }
    }
}

/// The text of a regular file, and its state before it was read: what changes meanwhile is seen at the next look.
fn read(path: &Path) -> io::Result<(Stamp, Zeroizing<String>)> {
    // A FIFO would be waited for.
    let flags = libc::O_NONBLOCK | libc::O_CLOEXEC;
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    let about = file.metadata()?;
    if !about.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    // With room for all of it, so that it is never moved and a copy left behind.
    let room = about.len().min(LARGEST) as usize + 2;
    let mut bytes = Zeroizing::new(Vec::with_capacity(room));
    file.take(LARGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST {
        return Err(io::Error::other("it is larger than 1 MiB"));
    }
    // One bad line must not cost all others.
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Ok((Stamp::of(&about), Zeroizing::new(text)))
}

/// Why a file cannot be read, for the log.
pub fn unreadable(path: &Path, cause: &io::Error) -> String {
    let hint = match cause.kind() {
        io::ErrorKind::PermissionDenied => {
            "; hint: the server's user must be able to read it: chgrp its group, chmod 640, and x on the folders above"
        }
        _ => "",
    };
    format!("{} cannot be read: {cause}{hint}", path.display())
}
