//! Signals: the few we send, the names of all of them, and the mask we start with.

use std::{io, mem::MaybeUninit, ptr};

/// A signal that ostler sends to a process it watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Finish what you do and end.
    Term,
    /// Leave what you do and end in order.
    Quit,
    /// End at once, with a trace (Python's faulthandler).
    Abort,
    /// Write the stack of every thread and go on.
    Dump,
    /// Serve what you have, and take nothing more from the backlog.
    TakeNoMore,
    /// The kernel ends the process, stopped or not.
    Kill,
}

/// Above `SIGRTMIN`, where the worker's stack dump listens; the first few belong to libraries.
const DUMP_ABOVE_SIGRTMIN: i32 = 4;

/// Where the worker listens for its last request; the zygote has the one before this.
const LAST_ABOVE_SIGRTMIN: i32 = 6;

/// `SIGRTMIN` as programs see it (glibc keeps the kernel's first two for itself).
fn sigrtmin() -> i32 {
    libc::SIGRTMIN()
}

impl Signal {
    /// The signal's number on this machine.
    pub fn number(self) -> i32 {
        match self {
            Self::Term => libc::SIGTERM,
            Self::Quit => libc::SIGQUIT,
            Self::Abort => libc::SIGABRT,
            Self::Dump => sigrtmin() + DUMP_ABOVE_SIGRTMIN,
            Self::TakeNoMore => sigrtmin() + LAST_ABOVE_SIGRTMIN,
            Self::Kill => libc::SIGKILL,
        }
    }

    pub(super) fn to_rustix(self) -> rustix::process::Signal {
        match self {
            Self::Term => rustix::process::Signal::TERM,
            Self::Quit => rustix::process::Signal::QUIT,
            Self::Abort => rustix::process::Signal::ABORT,
            Self::Kill => rustix::process::Signal::KILL,
            // SAFETY: both lie between SIGRTMIN and SIGRTMAX (64), so they are signal numbers of
            // this system, and none of the two that glibc keeps for itself.
            Self::Dump | Self::TakeNoMore => unsafe {
                rustix::process::Signal::from_raw_unchecked(self.number())
            },
        }
    }
}

/// The name of a signal number, `SIGSEGV`; real-time signals as `SIGRTMIN+4`.
pub fn name(number: i32) -> String {
    if let Some((_, name)) = NAMES.iter().find(|(known, _)| *known == number) {
        return (*name).to_owned();
    }
    match number - sigrtmin() {
        0 => "SIGRTMIN".to_owned(),
        above @ 1..=30 => format!("SIGRTMIN+{above}"),
        _ => format!("signal {number}"),
    }
}

/// Unblocks every signal: whoever started us may have blocked some, and the mask is inherited.
pub fn unblock_all() {
    let _ = set_mask(Mask::None);
}

/// Blocks every signal until the guard is dropped: no handler runs between a fork and the moment
/// the child has put the default handlers back.
pub fn block_all() -> Blocked {
    Blocked {
        before: set_mask(Mask::All),
    }
}

pub struct Blocked {
    before: io::Result<libc::sigset_t>,
}

impl Drop for Blocked {
    fn drop(&mut self) {
        if let Ok(before) = &self.before {
            // SAFETY: `before` is a signal set that the kernel filled in; a null pointer for the
            // old set is allowed.
            unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before, ptr::null_mut()) };
        }
    }
}

enum Mask {
    All,
    None,
}

fn set_mask(mask: Mask) -> io::Result<libc::sigset_t> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigfillset and sigemptyset initialise the whole set they are given, and
    // pthread_sigmask fills `before` when it returns 0; both pointers are valid for writes.
    unsafe {
        match mask {
            Mask::All => libc::sigfillset(set.as_mut_ptr()),
            Mask::None => libc::sigemptyset(set.as_mut_ptr()),
        };
        match libc::pthread_sigmask(libc::SIG_SETMASK, set.as_ptr(), before.as_mut_ptr()) {
            0 => Ok(before.assume_init()),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }
}

const NAMES: &[(i32, &str)] = &[
    (libc::SIGHUP, "SIGHUP"),
    (libc::SIGINT, "SIGINT"),
    (libc::SIGQUIT, "SIGQUIT"),
    (libc::SIGILL, "SIGILL"),
    (libc::SIGTRAP, "SIGTRAP"),
    (libc::SIGABRT, "SIGABRT"),
    (libc::SIGBUS, "SIGBUS"),
    (libc::SIGFPE, "SIGFPE"),
    (libc::SIGKILL, "SIGKILL"),
    (libc::SIGUSR1, "SIGUSR1"),
    (libc::SIGSEGV, "SIGSEGV"),
    (libc::SIGUSR2, "SIGUSR2"),
    (libc::SIGPIPE, "SIGPIPE"),
    (libc::SIGALRM, "SIGALRM"),
    (libc::SIGTERM, "SIGTERM"),
    (libc::SIGSTKFLT, "SIGSTKFLT"),
    (libc::SIGCHLD, "SIGCHLD"),
    (libc::SIGCONT, "SIGCONT"),
    (libc::SIGSTOP, "SIGSTOP"),
    (libc::SIGTSTP, "SIGTSTP"),
    (libc::SIGTTIN, "SIGTTIN"),
    (libc::SIGTTOU, "SIGTTOU"),
    (libc::SIGURG, "SIGURG"),
    (libc::SIGXCPU, "SIGXCPU"),
    (libc::SIGXFSZ, "SIGXFSZ"),
    (libc::SIGVTALRM, "SIGVTALRM"),
    (libc::SIGPROF, "SIGPROF"),
    (libc::SIGWINCH, "SIGWINCH"),
    (libc::SIGIO, "SIGIO"),
    (libc::SIGPWR, "SIGPWR"),
    (libc::SIGSYS, "SIGSYS"),
];
