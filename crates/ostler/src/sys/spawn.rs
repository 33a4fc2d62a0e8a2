//! The one door through which every program is started. Whatever runs behind it has exactly the
//! descriptors it was given, its own process group, and ends when we do.

use std::{
    ffi::{CString, OsStr, OsString},
    io::{self, Read},
    os::{
        fd::{AsRawFd, BorrowedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
    ptr,
};

use super::{Pidfd, User, signal};

/// What to start.
#[derive(Debug)]
pub struct Spawn<'a> {
    /// What the program is to us: `server`, `zygote`. Part of every error.
    pub name: &'a str,
    /// Its file; without a `/` it is searched in `PATH`.
    pub program: &'a Path,
    /// The whole argument vector, the zeroth included.
    pub args: Vec<OsString>,
    /// The whole environment.
    pub env: Vec<(OsString, OsString)>,
    /// Descriptors it starts with, as 3, 4, 5 … beside the standard three.
    pub fds: Vec<BorrowedFd<'a>>,
    /// Who it runs as; `None` keeps the user of this process.
    pub user: Option<&'a User>,
    /// Lift the soft limit of open descriptors to the hard one.
    pub raise_open_files: bool,
}

/// A started program. Dropping it does not end it.
#[derive(Debug)]
pub struct Child {
    pub pid: u32,
    pub pidfd: Pidfd,
}

impl Spawn<'_> {
    /// Starts the program. It gets `SIGKILL` when the calling *thread* ends (`prctl(2)`,
    /// `PR_SET_PDEATHSIG`), so call this from a thread that lives as long as the process.
    ///
    /// # Errors
    /// What kept the program from starting, in the child too (no such file, no permission to
    /// become that user), with its name.
    pub fn start(&self) -> io::Result<Child> {
        self.try_start().map_err(|error| {
            let program = self.program.display();
            io::Error::new(
                error.kind(),
                format!("cannot start {} ({program}): {error}", self.name),
            )
        })
    }

    fn try_start(&self) -> io::Result<Child> {
        let (failed, report) = io::pipe()?;
        let plan = Plan::new(self, &report)?;
        let parent = rustix::process::getpid();
        let blocked = signal::block_all();
        // SAFETY: between fork and exec the child only runs `Plan::run`, which makes system calls
        // on memory prepared before the fork and allocates nothing, as signal-safety(7) asks of
        // the child of a process that may have threads.
        let pid = unsafe {
            match libc::fork() {
                -1 => return Err(io::Error::last_os_error()),
                0 => plan.run(parent.as_raw_nonzero().get()),
                pid => pid.unsigned_abs(),
            }
        };
        drop(blocked);
        drop(report);
        let pidfd = Pidfd::open(pid)?;
        let errno = read_errno(failed)?;
        if errno != 0 {
            // It has ended or is about to: nobody else will wait for it.
            super::process::wait_for(pid)?;
            return Err(io::Error::from_raw_os_error(errno));
        }
        Ok(Child { pid, pidfd })
    }
}

/// This process's environment without the variables that speak to it alone.
pub fn own_env() -> Vec<(OsString, OsString)> {
    const OURS: [&str; 4] = [
        "LISTEN_FDS",
        "LISTEN_PID",
        "LISTEN_FDNAMES",
        "NOTIFY_SOCKET",
    ];
    std::env::vars_os()
        .filter(|(name, _)| !OURS.iter().any(|ours| name == ours))
        .collect()
}

/// Everything the child needs, made before the fork.
struct Plan {
    program: CString,
    argv: Vec<CString>,
    envp: Vec<CString>,
    /// Pointers into `argv` and `envp`, ended by null.
    argv_pointers: Vec<*const libc::c_char>,
    envp_pointers: Vec<*const libc::c_char>,
    fds: Vec<RawFd>,
    /// Room for the descriptors on their way to their places.
    moved: Vec<RawFd>,
    user: Option<User>,
    raise_open_files: bool,
    report: RawFd,
}

impl Plan {
    fn new(spawn: &Spawn<'_>, report: &impl AsRawFd) -> io::Result<Self> {
        let argv = spawn
            .args
            .iter()
            .map(|arg| c_string(arg))
            .collect::<io::Result<Vec<_>>>()?;
        let envp = spawn
            .env
            .iter()
            .map(variable)
            .collect::<io::Result<Vec<_>>>()?;
        let mut plan = Self {
            program: c_string(find_program(spawn.program)?.as_os_str())?,
            argv_pointers: Vec::new(),
            envp_pointers: Vec::new(),
            fds: spawn.fds.iter().map(|fd| fd.as_raw_fd()).collect(),
            moved: vec![-1; spawn.fds.len()],
            user: spawn.user.cloned(),
            raise_open_files: spawn.raise_open_files,
            report: report.as_raw_fd(),
            argv,
            envp,
        };
        plan.argv_pointers = pointers(&plan.argv);
        plan.envp_pointers = pointers(&plan.envp);
        Ok(plan)
    }

    /// The child's way from fork to exec. Returns never: it becomes the program, or reports the
    /// error number over the pipe and ends.
    ///
    /// # Safety
    /// Only in a child fresh from `fork`, once; `parent` is the pid of the forking process.
    unsafe fn run(mut self, parent: i32) -> ! {
        // SAFETY: system calls on memory that this plan owns; nothing allocates or locks.
        unsafe {
            let errno = match self.prepare(parent) {
                Ok(()) => {
                    let (argv, envp) = (self.argv_pointers.as_ptr(), self.envp_pointers.as_ptr());
                    libc::execve(self.program.as_ptr(), argv, envp);
                    *libc::__errno_location()
                }
                Err(errno) => errno,
            };
            let bytes = errno.to_ne_bytes();
            libc::write(self.report, bytes.as_ptr().cast(), bytes.len());
            libc::_exit(127)
        }
    }

    /// # Safety
    /// As [`Plan::run`].
    unsafe fn prepare(&mut self, parent: i32) -> Result<(), i32> {
        // SAFETY: as for `run`, which is the only caller.
        unsafe {
            check(libc::setpgid(0, 0))?;
            reset_signals();
            self.place_fds()?;
            if self.raise_open_files {
                raise_open_files();
            }
            if let Some(user) = &self.user {
                switch_user(user)?;
            }
            // After the change of user, which clears it. If the parent died before this line, the
            // signal never comes: hence the look at who the parent is now.
            check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))?;
            if libc::getppid() != parent {
                libc::_exit(127);
            }
            unblock_signals();
            Ok(())
        }
    }

    /// Puts the descriptors at 3, 4, 5 … and marks all others close-on-exec. Each is first copied
    /// above its place, so that none is overwritten before its turn.
    ///
    /// # Safety
    /// As [`Plan::run`].
    unsafe fn place_fds(&mut self) -> Result<(), i32> {
        let end = FIRST_FD + self.fds.len() as RawFd;
        // SAFETY: descriptor numbers only; a number that is not open gives an error.
        unsafe {
            self.report = check(libc::fcntl(self.report, libc::F_DUPFD_CLOEXEC, end))?;
            for (moved, fd) in self.moved.iter_mut().zip(&self.fds) {
                *moved = check(libc::fcntl(*fd, libc::F_DUPFD_CLOEXEC, end))?;
            }
            for (place, moved) in (FIRST_FD..).zip(&self.moved) {
                check(libc::dup2(*moved, place))?;
            }
            // Descriptors that our own parent left open are no business of our children. Kernels
            // before 5.11 do not know the flag; there, only those stay.
            let first = end.unsigned_abs();
            libc::syscall(
                libc::SYS_close_range,
                first,
                u32::MAX,
                libc::CLOSE_RANGE_CLOEXEC,
            );
        }
        Ok(())
    }
}

/// The first descriptor after the standard three.
const FIRST_FD: RawFd = 3;

/// Highest signal number of Linux.
const SIGNAL_MAX: i32 = 64;

/// # Safety
/// Only in a child fresh from `fork`.
unsafe fn reset_signals() {
    for number in 1..=SIGNAL_MAX {
        // SAFETY: SIG_DFL is no handler, so nothing of ours is called; numbers that cannot be
        // changed (SIGKILL, SIGSTOP, glibc's own two) give an error, which is of no interest.
        unsafe { libc::signal(number, libc::SIG_DFL) };
    }
}

/// # Safety
/// Only in a child fresh from `fork`.
unsafe fn unblock_signals() {
    let mut none = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set before it is used.
    unsafe {
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), ptr::null_mut());
    }
}

/// # Safety
/// Only in a child fresh from `fork`.
unsafe fn raise_open_files() {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is valid for reads and writes; failing leaves the old limit, which is fine.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        }
    }
}

/// Groups first, uid last: after it there is no right left to change the others. By system call,
/// not through glibc, whose version talks to all threads under a lock that the fork may have
/// left taken; a fresh child has one thread.
///
/// # Safety
/// Only in a child fresh from `fork`.
unsafe fn switch_user(user: &User) -> Result<(), i32> {
    let User { uid, gid, groups } = user;
    // SAFETY: the pointer and length are those of the vector, alive during the call.
    unsafe {
        // A process that is not root may only keep what it has; asking for that is no error.
        let same = libc::geteuid() == *uid && libc::getegid() == *gid;
        if libc::geteuid() != 0 && same {
            return Ok(());
        }
        check_long(libc::syscall(
            libc::SYS_setgroups,
            groups.len(),
            groups.as_ptr(),
        ))?;
        check_long(libc::syscall(libc::SYS_setresgid, *gid, *gid, *gid))?;
        check_long(libc::syscall(libc::SYS_setresuid, *uid, *uid, *uid))
    }
}

fn check(result: libc::c_int) -> Result<libc::c_int, i32> {
    if result == -1 {
        Err(errno())
    } else {
        Ok(result)
    }
}

fn check_long(result: libc::c_long) -> Result<(), i32> {
    if result == -1 { Err(errno()) } else { Ok(()) }
}

fn errno() -> i32 {
    // SAFETY: the address of this thread's errno is always valid.
    unsafe { *libc::__errno_location() }
}

fn read_errno(mut pipe: io::PipeReader) -> io::Result<i32> {
    let mut bytes = Vec::new();
    (&mut pipe).take(4).read_to_end(&mut bytes)?;
    Ok(bytes.try_into().map_or(0, i32::from_ne_bytes))
}

fn find_program(program: &Path) -> io::Result<PathBuf> {
    if program.as_os_str().as_bytes().contains(&b'/') {
        return Ok(program.to_owned());
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
        .ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings
        .iter()
        .map(|text| text.as_ptr())
        .chain([ptr::null()])
        .collect()
}

fn c_string(text: &OsStr) -> io::Result<CString> {
    CString::new(text.as_bytes())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a NUL in an argument"))
}

fn variable((name, value): &(OsString, OsString)) -> io::Result<CString> {
    c_string(&[name.as_os_str(), value.as_os_str()].join(OsStr::new("=")))
}
