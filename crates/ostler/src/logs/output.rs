//! An open log target: standard output, standard error or a file that is appended to.
//!
//! It must not know about buffers or threads.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Stdout,
    Stderr,
    /// Appended to, created with mode 0644 less the umask.
    Path(PathBuf),
}

/// An open target.
#[derive(Debug)]
pub struct Output {
    target: Target,
    /// For [`Target::Path`].
    file: Option<File>,
    /// The last write ended within a line; the next one begins with a line end.
    torn: bool,
    /// How long a target that takes nothing is waited for; `None`: as long as it takes.
    patience: Option<Duration>,
}

impl Output {
    /// Opens a target; errors are the file's.
    pub fn open(target: &Target, patience: Option<Duration>) -> io::Result<Output> {
        let file = match target {
            Target::Stdout | Target::Stderr => None,
            Target::Path(path) => Some(append(path, OFlags::empty())?),
        };
        Ok(Output {
            target: target.clone(),
            file,
            torn: false,
            patience,
        })
    }

    /// Opens the path anew; on failure the old file stays in use.
    pub fn reopen(&mut self) -> io::Result<()> {
        if let Target::Path(path) = &self.target {
            let again =
                |error| io::Error::other(format!("cannot reopen {}: {error}", path.display()));
            self.file = Some(append(path, OFlags::empty()).map_err(again)?);
            self.torn = false;
        }
        Ok(())
    }

    /// Writes whole lines. On an error some of them may be written, the last one in part.
    pub fn write(&mut self, lines: &[u8]) -> Result<(), Errno> {
        if lines.is_empty() {
            return Ok(());
        }
        if self.torn {
            self.write_all(b"\n")?;
            self.torn = false;
        }
        self.write_all(lines)
    }

    fn write_all(&mut self, bytes: &[u8]) -> Result<(), Errno> {
        let mut rest = bytes;
        while !rest.is_empty() {
            match self.write_some(rest) {
                Ok(count) => rest = &rest[count..],
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.wait_for_room()?,
                Err(errno) => {
                    let written = &bytes[..bytes.len() - rest.len()];
                    self.torn |= written.last().is_some_and(|&b| b != b'\n');
                    return Err(errno);
                }
            }
        }
        Ok(())
    }

    fn write_some(&self, bytes: &[u8]) -> Result<usize, Errno> {
        if self.patience.is_none() {
            return rustix::io::write(self.descriptor(), bytes);
        }
        // A blocking descriptor would block the whole process: ask first, and take no more than is promised.
        self.wait_for_room()?;
        rustix::io::write(self.descriptor(), &bytes[..bytes.len().min(PIPE_BUF)])
    }

    fn wait_for_room(&self) -> Result<(), Errno> {
        let descriptor = self.descriptor();
        let mut watched = [PollFd::new(&descriptor, PollFlags::OUT)];
        let timeout = self.patience.map(|patience| Timespec {
            tv_sec: i64::try_from(patience.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(patience.subsec_nanos()),
        });
        match poll(&mut watched, timeout.as_ref()) {
            Ok(0) => Err(Errno::TIMEDOUT),
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        match (&self.file, &self.target) {
            (Some(file), _) => file.as_fd(),
            (None, Target::Stdout) => rustix::stdio::stdout(),
            (None, Target::Stderr | Target::Path(_)) => rustix::stdio::stderr(),
        }
    }
}

/// Makes a log file beforehand and gives it to the user who will write it: to be called while still root, as
/// gunicorn does. An existing file keeps its content.
pub fn prepare(path: &Path, user: Option<u32>, group: Option<u32>) -> io::Result<()> {
    // What the user has put there in the meantime is not given to it: a link, or another name of another file.
    let file = match append(path, OFlags::NOFOLLOW) {
        Err(error) if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => {
            append(path, OFlags::empty())?;
            return Ok(());
        }
        opened => opened?,
    };
    let meta = file.metadata()?;
    if meta.is_file() && meta.nlink() == 1 && (user.is_some() || group.is_some()) {
        let user = user.map(rustix::fs::Uid::from_raw);
        let group = group.map(rustix::fs::Gid::from_raw);
        rustix::fs::fchown(&file, user, group)?;
    }
    Ok(())
}

/// `poll` promises room for this many bytes in a pipe (`PIPE_BUF`).
const PIPE_BUF: usize = 4096;

fn append(path: &Path, flags: OFlags) -> io::Result<File> {
    File::options()
        .custom_flags(flags.bits().cast_signed())
        .append(true)
        .create(true)
        .mode(0o644)
        .open(path)
}

#[cfg(test)]
mod tests {
    use super::super::scratch::Scratch;
    use super::*;

    /// Whose folder the log is in may put a link there; only root could give away what it leads to.
    #[test]
    fn what_a_link_leads_to_is_given_to_nobody() {
        if !rustix::process::getuid().is_root() {
            return;
        }
        let scratch = Scratch::new("prepare-link");
        let (victim, link, hard) = (
            scratch.path("victim"),
            scratch.path("link.log"),
            scratch.path("hard.log"),
        );
        std::fs::write(&victim, "").unwrap();
        std::os::unix::fs::symlink(&victim, &link).unwrap();
        std::fs::hard_link(&victim, &hard).unwrap();
        for log in [&link, &hard] {
            prepare(log, Some(65534), None).unwrap();
        }
        assert_eq!(std::fs::metadata(&victim).unwrap().uid(), 0);
        let own = scratch.path("own.log");
        prepare(&own, Some(65534), None).unwrap();
        assert_eq!(std::fs::metadata(&own).unwrap().uid(), 65534);
    }

    #[test]
    fn a_file_is_made_for_the_user_who_writes_it() {
        let scratch = Scratch::new("prepare");
        let path = scratch.path("log");
        let me = rustix::process::getuid().as_raw();
        prepare(&path, Some(me), None).unwrap();
        assert!(path.exists());
        prepare(Path::new("/dev/null"), Some(me), None).unwrap();
        assert!(prepare(&scratch.path("missing/log"), None, None).is_err());
    }
}
