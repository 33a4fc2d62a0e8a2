//! Who is at the other end of a UNIX socket, as the kernel says it, and where that process comes from.

use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec};

/// The process that connected.
#[derive(Debug)]
pub struct Peer {
    pub uid: u32,
    /// 0 for a process that this one's pid namespace does not have.
    pub pid: u32,
    /// Before Linux 6.5 there is none.
    handle: Option<OwnedFd>,
}

/// Parents that are followed: deeper trees are made by those who want them deep.
const DEEPEST: usize = 1000;

/// A pidfd of the peer (`SO_PEERPIDFD`, Linux 6.5); libc has it only for some targets.
const SO_PEERPIDFD: libc::c_int = 77;

/// The process that connected `socket`, as it was then (unix(7), `SO_PEERCRED`).
pub fn of(socket: &impl AsFd) -> io::Result<Peer> {
    let credentials: libc::ucred = option(socket, libc::SO_PEERCRED)?;
    let handle = match option::<libc::c_int>(socket, SO_PEERPIDFD) {
        // SAFETY: the kernel has just made this descriptor for us, and nobody else knows its number.
        Ok(fd) => Some(unsafe { OwnedFd::from_raw_fd(fd) }),
        Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => None,
        Err(error) => return Err(error),
    };
    Ok(Peer {
        uid: credentials.uid,
        pid: u32::try_from(credentials.pid).unwrap_or(0),
        handle,
    })
}

/// # Errors
/// The kernel's; `T` must be what it gives for this option of `SOL_SOCKET`.
fn option<T>(socket: &impl AsFd, name: libc::c_int) -> io::Result<T> {
    let mut value = MaybeUninit::<T>::zeroed();
    let mut length = size_of::<T>() as libc::socklen_t;
    // SAFETY: the descriptor is borrowed for this call, which writes at most `length` bytes to `value`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            name,
            value.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    match result {
        // SAFETY: both types this is called with are plain numbers, for which any bytes are a value.
        0 => Ok(unsafe { value.assume_init() }),
        _ => Err(io::Error::last_os_error()),
    }
}

impl Peer {
    /// Whether it is `ancestor` or was started by it, however indirectly. Orphans of a subreaper's
    /// descendants become its children (prctl(2)), so none of them gets away.
    ///
    /// # Errors
    /// That cannot be found out: it has ended meanwhile, or belongs to a world we do not see.
    pub fn descends_from(&self, ancestor: u32) -> io::Result<bool> {
        let mut pid = self.pid;
        for _ in 0..DEEPEST {
            if pid == ancestor {
                return Ok(true);
            }
            if pid == 0 {
                break;
            }
            pid = parent(pid)?;
        }
        // A pid that was given to another process meanwhile tells nothing.
        match pid == 0 && self.pid != 0 && self.is_alive()? {
            true => Ok(false),
            false => Err(io::Error::from_raw_os_error(libc::ESRCH)),
        }
    }

    fn is_alive(&self) -> io::Result<bool> {
        let Some(handle) = &self.handle else {
            return Ok(true);
        };
        let mut polled = [PollFd::new(handle, PollFlags::IN)];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // A pidfd is readable once its process has ended.
        Ok(rustix::event::poll(&mut polled, Some(&now))? == 0)
    }
}

/// The parent of a process; 0 for the first one of this namespace.
fn parent(pid: u32) -> io::Result<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name may hold anything, parentheses too; state and parent follow the last one (proc(5)).
    let parent = stat
        .rsplit_once(')')
        .and_then(|(_, rest)| rest.split_ascii_whitespace().nth(1)?.parse().ok());
    parent.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

#[cfg(test)]
mod tests {
    use super::super::fds::stream_pair;
    use super::*;

    #[test]
    fn a_peer_is_known_with_its_ancestors() {
        let (one, _other) = stream_pair().expect("pair");
        let peer = of(&one).expect("credentials");
        let own = std::process::id();
        assert_eq!(peer.pid, own);
        assert_eq!(peer.uid, rustix::process::geteuid().as_raw());
        assert!(peer.descends_from(own).expect("ourselves"));
        let parent = parent(own).expect("a parent");
        assert!(peer.descends_from(parent).expect("our parent"));
        assert!(!peer.descends_from(u32::MAX).expect("nobody"));
    }

    #[test]
    fn who_has_ended_or_is_of_another_world_is_not_judged() {
        for pid in [0, u32::MAX] {
            let (uid, handle) = (0, None);
            let stranger = Peer { uid, pid, handle };
            assert!(stranger.descends_from(1_000_000_000).is_err(), "{pid}");
        }
    }
}
