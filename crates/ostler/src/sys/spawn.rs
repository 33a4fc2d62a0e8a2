//! The one door through which every program is started. Whatever runs behind it has exactly the
//! descriptors it was given, its own process group, and ends when we do.

use std::{
    collections::BTreeSet,
    ffi::{CString, OsStr, OsString},
    io::{self, Read},
    os::{
        fd::{AsRawFd, BorrowedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
    ptr,
};

use super::{Pidfd, User, anew, signal};

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

/// Becomes another program, found in `PATH`, with this process's descriptors, terminal and environment. Returns
/// only what kept it from that.
pub fn become_program(program: &str, args: &[String]) -> io::Error {
    use std::os::unix::process::CommandExt;
    std::process::Command::new(program).args(args).exec()
}

/// This process's environment without the variables that speak to it alone.
pub fn own_env() -> Vec<(OsString, OsString)> {
    env_without(&BTreeSet::new())
}

/// The same without these.
pub fn env_without(hidden: &BTreeSet<String>) -> Vec<(OsString, OsString)> {
    const OURS: [&str; 5] = [
        anew::HERITAGE,
        "LISTEN_FDS",
        "LISTEN_PID",
        "LISTEN_FDNAMES",
        "NOTIFY_SOCKET",
    ];
    std::env::vars_os()
        .filter(|(name, _)| !OURS.iter().any(|ours| name == ours))
        .filter(|(name, _)| !name.to_str().is_some_and(|name| hidden.contains(name)))
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

pub(super) fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings
        .iter()
        .map(|text| text.as_ptr())
        .chain([ptr::null()])
        .collect()
}

pub(super) fn c_string(text: &OsStr) -> io::Result<CString> {
    CString::new(text.as_bytes())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a NUL in an argument"))
}

pub(super) fn variable((name, value): &(OsString, OsString)) -> io::Result<CString> {
    c_string(&[name.as_os_str(), value.as_os_str()].join(OsStr::new("=")))
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::fd::AsFd};

    use super::*;
    use crate::sys::{Exit, process};

    fn sh<'a>(script: &str, fds: Vec<BorrowedFd<'a>>) -> Spawn<'a> {
        Spawn {
            name: "a test program",
            program: Path::new("/bin/sh"),
            args: vec!["sh".into(), "-c".into(), script.into()],
            env: vec![("GREETING".into(), "hello".into())],
            fds,
            user: None,
            raise_open_files: false,
        }
    }

    fn end_of(child: &Child) -> Exit {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("runtime")
            .block_on(child.pidfd.ended())
            .expect("watched");
        process::reap(child.pid).expect("reaped")
    }

    /// Runs a script whose descriptor 3 is a pipe, and gives what it wrote there.
    fn written_by(script: &str) -> (String, Exit) {
        let (mut reader, writer) = io::pipe().expect("pipe");
        let child = sh(script, vec![writer.as_fd()]).start().expect("started");
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("read");
        (text, end_of(&child))
    }

    #[test]
    fn the_program_has_its_environment_and_only_its_descriptors() {
        let open = File::open("/dev/null").expect("open");
        let beyond = rustix::io::fcntl_dupfd_cloexec(&open, 50).expect("dup");
        rustix::io::fcntl_setfd(&beyond, rustix::io::FdFlags::empty()).expect("leaky");
        let (text, exit) = written_by("echo $GREETING $(ls /proc/$$/fd | tr '\\n' ' ') >&3");
        assert_eq!(exit, Exit::Code(0));
        let mut words = text.split_whitespace();
        assert_eq!(words.next(), Some("hello"));
        let own = ["0", "1", "2", "3"];
        // The shell may hold a copy (10 and on) while it redirects; 50 would be the leak.
        assert!(words.clone().take(4).eq(own), "{text}");
        assert!(!words.any(|fd| fd == "50"), "{text}");
    }

    #[test]
    fn descriptors_come_at_their_places_in_whatever_order_they_were_opened() {
        let (mut a, a_end) = io::pipe().expect("pipe");
        let (mut b, b_end) = io::pipe().expect("pipe");
        let fds = vec![b_end.as_fd(), a_end.as_fd(), b_end.as_fd()];
        let child = sh("echo three >&3; echo four >&4; echo five >&5", fds)
            .start()
            .expect("starts");
        drop((a_end, b_end));
        let (mut from_a, mut from_b) = (String::new(), String::new());
        a.read_to_string(&mut from_a).expect("read");
        b.read_to_string(&mut from_b).expect("read");
        assert_eq!(
            (from_a.as_str(), from_b.as_str()),
            ("four\n", "three\nfive\n")
        );
        assert_eq!(end_of(&child), Exit::Code(0));
    }

    #[test]
    fn ends_are_told_by_code_and_by_signal() {
        let cases = [
            ("exit 3", "exit 3"),
            ("kill -SEGV $$", "SIGSEGV"),
            ("kill -9 $$", "SIGKILL"),
        ];
        for (script, wanted) in cases {
            let exit = end_of(&sh(script, vec![]).start().expect("started")).to_string();
            assert!(exit.starts_with(wanted), "{script}: {exit}");
        }
    }

    #[test]
    fn the_program_leads_a_process_group_of_its_own() {
        let (text, _) = written_by("ps -o pgid= -o pid= -p $$ >&3");
        let mut ids = text.split_whitespace();
        assert_eq!(
            ids.next().expect("group"),
            ids.next().expect("pid"),
            "{text}"
        );
    }

    #[test]
    fn signal_mask_and_ignored_signals_are_not_inherited() {
        let _blocked = signal::block_all();
        let (text, _) = written_by("grep -E 'Sig(Blk|Ign)' /proc/self/status >&3");
        for line in text.lines() {
            let mask = line.split_whitespace().last().expect("mask");
            let mask = u64::from_str_radix(mask, 16).expect("hexadecimal");
            // Signals 32 and 33 are glibc's own: no program can set them through it.
            assert_eq!(mask & !(3 << 31), 0, "{line}");
        }
        assert_eq!(text.lines().count(), 2);
    }

    #[test]
    fn what_cannot_start_is_said_with_its_name() {
        let missing = Spawn {
            program: Path::new("/nowhere/python3"),
            ..sh("", vec![])
        };
        let error = missing.start().expect_err("no such file");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        let text = error.to_string();
        assert!(
            text.contains("a test program") && text.contains("/nowhere/python3"),
            "{text}"
        );
        let folder = Spawn {
            program: Path::new("/tmp"),
            ..sh("", vec![])
        };
        assert_eq!(
            folder.start().expect_err("a folder").kind(),
            io::ErrorKind::PermissionDenied
        );
        let unknown = Spawn {
            program: Path::new("no-such-program"),
            ..sh("", vec![])
        };
        assert_eq!(
            unknown.start().expect_err("not in PATH").kind(),
            io::ErrorKind::NotFound
        );
    }

    #[test]
    fn it_ends_with_the_thread_that_started_it() {
        let child = std::thread::spawn(|| sh("exec sleep 600", vec![]).start().expect("started"));
        let child = child.join().expect("the thread ended");
        assert_eq!(end_of(&child).to_string(), "SIGKILL");
    }

    #[test]
    fn a_signal_reaches_it_by_its_handle_and_none_reaches_nobody() {
        let child = sh("exec sleep 600", vec![]).start().expect("started");
        child.pidfd.send(crate::sys::Signal::Quit).expect("sent");
        assert_eq!(end_of(&child).to_string(), "SIGQUIT");
        child
            .pidfd
            .send(crate::sys::Signal::Kill)
            .expect("already ended is no error");
        assert!(process::reap(child.pid).is_err(), "reaped once");
    }

    #[test]
    fn the_user_is_switched_for_good() {
        if !process::is_root() {
            return;
        }
        let nobody = User {
            uid: 65534,
            gid: 65534,
            groups: vec![65534, 4711],
        };
        let (mut reader, writer) = io::pipe().expect("pipe");
        let script = "grep -E '^(Uid|Gid|Groups)' /proc/self/status >&3";
        let child = Spawn {
            user: Some(&nobody),
            ..sh(script, vec![writer.as_fd()])
        };
        let child = child.start().expect("started");
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("read");
        assert_eq!(end_of(&child), Exit::Code(0));
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let id = "65534 65534 65534 65534";
        assert_eq!(words, format!("Uid: {id} Gid: {id} Groups: 4711 65534"));
    }
}
