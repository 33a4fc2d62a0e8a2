//! This process and the ones it watches: pidfds, reaping, limits, names.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::process::{Pid, PidfdFlags, WaitIdOptions, WaitOptions, getpid};
use tokio::io::Interest;

use super::{Exit, Signal};

/// Writes a line to standard error in one piece: other processes of ours write there too, and `eprintln!` writes each
/// part by itself.
pub fn say(line: impl std::fmt::Display) {
    // Nobody can be told when standard error is closed.
    drop(io::Write::write_all(
        &mut io::stderr(),
        format!("{line}\n").as_bytes(),
    ));
}

/// A handle on one process that can never mean another one, however pids are reused.
#[derive(Debug)]
pub struct Pidfd {
    fd: OwnedFd,
}

impl Pidfd {
    /// Opens a handle on a child of this process that was not waited for yet.
    pub fn open(pid: u32) -> io::Result<Self> {
        Ok(Self {
            fd: rustix::process::pidfd_open(to_pid(pid)?, PidfdFlags::empty())?,
        })
    }

    /// Takes a descriptor that another process sent. Whether it is a pidfd is checked where the
    /// kernel offers a way (`/proc/self/fdinfo`), since the sender is not trusted.
    ///
    /// # Errors
    /// `InvalidData` when the descriptor is something else, or a handle on another process than
    /// `pid`.
    pub fn from_fd(fd: OwnedFd, pid: u32) -> io::Result<Self> {
        let number = std::os::fd::AsRawFd::as_raw_fd(&fd);
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}"))?;
        let seen = info.lines().find_map(|line| line.strip_prefix("Pid:"));
        match seen.and_then(|text| text.trim().parse::<i64>().ok()) {
            // -1: already ended, which is fine, the handle still says so.
            Some(seen) if seen == i64::from(pid) || seen == -1 => Ok(Self { fd }),
            Some(seen) => {
                let text = format!("a handle on process {seen} in place of {pid}");
                Err(io::Error::new(io::ErrorKind::InvalidData, text))
            }
            None => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "not a process handle",
            )),
        }
    }

    /// Sends a signal; a process that has already ended is not an error.
    pub fn send(&self, signal: Signal) -> io::Result<()> {
        match rustix::process::pidfd_send_signal(&self.fd, signal.to_rustix()) {
            Err(rustix::io::Errno::SRCH) => Ok(()),
            other => Ok(other?),
        }
    }

    /// Waits until the process has ended (it may be a zombie still). Must run inside tokio.
    pub async fn ended(&self) -> io::Result<()> {
        let fd = super::fds::watch(self.fd.try_clone()?, Interest::READABLE)?;
        let _ready = fd.readable().await?;
        Ok(())
    }

    /// The descriptor, for handing a copy to another process.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// A second handle on the same process.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            fd: self.fd.try_clone()?,
        })
    }
}

/// Orphaned descendants become our children from now on, so that we reap them.
pub fn become_subreaper() -> io::Result<()> {
    Ok(rustix::process::set_child_subreaper(Some(getpid()))?)
}

/// What [`next_child`] sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Children {
    /// This one has ended like this, and waits to be reaped.
    Ended { pid: u32, exit: Exit },
    /// There are some, and none has ended.
    Running,
    /// There is none.
    Nobody,
}

/// Looks for a child that has ended, without reaping it: until then its pid, and with it the id of
/// its process group, cannot mean anybody else.
pub fn next_child() -> io::Result<Children> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    loop {
        // Through libc, because rustix does not tell the pid of a `waitid` result.
        match waitid_any(options) {
            Err(error) if error.raw_os_error() == Some(libc::ECHILD) => {
                return Ok(Children::Nobody);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(None) => return Ok(Children::Running),
            Ok(Some((pid, exit))) => return Ok(Children::Ended { pid, exit }),
            Err(error) => return Err(error),
        }
    }
}

/// Reaps an ended child.
pub fn reap(pid: u32) -> io::Result<Exit> {
    let status = rustix::process::waitpid(Some(to_pid(pid)?), WaitOptions::NOHANG)?;
    let exit = status.and_then(|(_, status)| Exit::from_wait_status(status.as_raw()));
    exit.ok_or_else(|| io::Error::other("the child has not ended"))
}

/// Waits for a child that is about to end.
pub(super) fn wait_for(pid: u32) -> io::Result<()> {
    loop {
        match rustix::process::waitpid(Some(to_pid(pid)?), WaitOptions::empty()) {
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => return Ok(()),
        }
    }
}

/// Kills every process of the group `pgid`. Only sound while the group's leader is our child and
/// not reaped: after that the number may belong to somebody else.
pub fn kill_group(pgid: u32) -> io::Result<()> {
    match rustix::process::kill_process_group(to_pid(pgid)?, rustix::process::Signal::KILL) {
        // Nobody left, or only the zombie itself.
        Err(rustix::io::Errno::SRCH | rustix::io::Errno::PERM) => Ok(()),
        other => Ok(other?),
    }
}

/// Whether a process with this pid is there now. Racy by nature: only for stale pid files.
pub fn exists(pid: u32) -> bool {
    let Ok(pid) = to_pid(pid) else { return false };
    !matches!(
        rustix::process::test_kill_process(pid),
        Err(rustix::io::Errno::SRCH)
    )
}

/// This process's pid.
pub fn own_pid() -> u32 {
    getpid().as_raw_nonzero().get().unsigned_abs()
}

/// Whether this process is root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The name that `top` shows for the calling thread, which should be the first one (at most 15
/// bytes; the kernel cuts the rest off).
pub fn set_name(name: &std::ffi::CStr) {
    // Only a bad pointer can make this fail.
    let _ = rustix::thread::set_name(name);
}

/// Leaves the terminal: the caller's process ends with exit 0 and a child in a session of its own
/// goes on, with `/dev/null` for its three standard descriptors (gunicorn's `-D`).
/// Must be called while this process has one thread and no child it needs.
pub fn daemonize() -> io::Result<()> {
    fork_and_leave()?;
    rustix::process::setsid()?;
    fork_and_leave()?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(())
}

fn fork_and_leave() -> io::Result<()> {
    // SAFETY: the caller has one thread, so the child is a complete copy of this process.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(()),
        // SAFETY: ends this process without running destructors: all of it lives on in the child.
        _ => unsafe { libc::_exit(0) },
    }
}

fn waitid_any(options: WaitIdOptions) -> io::Result<Option<(u32, Exit)>> {
    let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
    let flags = i32::try_from(options.bits()).expect("wait flags are small");
    // SAFETY: `info` is valid for writes, and zeroed, so reading it is defined whatever the
    // kernel fills in; si_pid and si_status are what waitid sets, and si_pid stays 0 when no child
    // has ended.
    let (pid, status, code) = unsafe {
        if libc::waitid(libc::P_ALL, 0, info.as_mut_ptr(), flags) == -1 {
            return Err(io::Error::last_os_error());
        }
        let info = info.assume_init_ref();
        (info.si_pid(), info.si_status(), info.si_code)
    };
    let exit = match code {
        libc::CLD_EXITED => Exit::Code(status),
        _ => Exit::Signal {
            number: status,
            core_dumped: code == libc::CLD_DUMPED,
        },
    };
    Ok((pid > 0).then_some((pid.unsigned_abs(), exit)))
}

fn to_pid(pid: u32) -> io::Result<Pid> {
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
    raw.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("pid {pid}")))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_handle_is_taken_only_for_what_it_is() {
        let own = own_pid();
        let pidfd = Pidfd::open(own).expect("pidfd");
        let copy = || pidfd.as_fd().try_clone_to_owned().expect("dup");
        assert!(Pidfd::from_fd(copy(), own).is_ok());
        let error = Pidfd::from_fd(copy(), 1).expect_err("another process");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        let null = OwnedFd::from(File::open("/dev/null").expect("open"));
        assert!(null.as_fd().try_clone_to_owned().is_ok());
        assert!(Pidfd::from_fd(null, own).is_err(), "not a handle at all");
    }

    #[test]
    fn processes_are_there_or_not() {
        assert!(exists(own_pid()));
        assert!(!exists(0));
        assert!(!exists(u32::MAX));
    }
}
