//! This process as another program: same pid, same children, and the descriptors it is to have.

use std::convert::Infallible;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::io::FdFlags;

use super::signal;
use super::spawn::{c_string, pointers, variable};

/// The variable that tells a program which descriptor says what it was left.
pub const HERITAGE: &str = "OSTLER_HERITAGE";

/// Where our binary is to be looked for later, when it may have been replaced: as it was called, so that a link is
/// followed anew, where that leads to it.
pub fn own_program() -> io::Result<PathBuf> {
    let itself = std::fs::metadata("/proc/self/exe")?;
    let called = std::env::args_os().next().map(PathBuf::from);
    let found = called.and_then(|name| match name.components().count() {
        0 => None,
        1 if !name.is_absolute() => {
            let path = std::env::var_os("PATH")?;
            let mut found = std::env::split_paths(&path).map(|folder| folder.join(&name));
            found.find(|path| path.is_file())
        }
        _ => Some(name),
    });
    let found = found.and_then(|path| std::path::absolute(path).ok());
    let same = |path: &PathBuf| {
        let seen = std::fs::metadata(path);
        seen.is_ok_and(|seen| (seen.dev(), seen.ino()) == (itself.dev(), itself.ino()))
    };
    match found.filter(same) {
        Some(path) => Ok(path),
        None => std::fs::read_link("/proc/self/exe"),
    }
}

/// The file of the running program, whatever has been put in its place since.
pub fn own_binary() -> io::Result<OwnedFd> {
    Ok(File::open("/proc/self/exe")?.into())
}

/// The path of a program that is held open.
pub fn held(binary: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", binary.as_raw_fd()))
}

/// Executes `program` in this process, with the arguments it was started with; `kept` descriptors keep their
/// numbers, and of those one says in [`HERITAGE`] what they are. Signals stay blocked, so that none is lost before the
/// program has its handlers: it unblocks them ([`signal::unblock_all`]).
///
/// Returns only what kept it from that; then everything is as it was.
pub fn execute(program: &Path, heritage: &OwnedFd, kept: &[BorrowedFd<'_>]) -> io::Error {
    match try_execute(program, heritage, kept) {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

fn try_execute(
    program: &Path,
    heritage: &OwnedFd,
    kept: &[BorrowedFd<'_>],
) -> io::Result<Infallible> {
    let args: Vec<OsString> = std::env::args_os().collect();
    let args = args.iter().map(|arg| c_string(arg));
    let args = args.collect::<io::Result<Vec<_>>>()?;
    let named = (
        OsString::from(HERITAGE),
        OsString::from(heritage.as_raw_fd().to_string()),
    );
    let others = std::env::vars_os().filter(|(name, _)| name != HERITAGE);
    let env = others.chain([named]).map(|pair| variable(&pair));
    let env = env.collect::<io::Result<Vec<_>>>()?;
    let program = c_string(program.as_os_str())?;
    let (args, env) = (pointers(&args), pointers(&env));
    let blocked = signal::block_all();
    let inherited = |flags: FdFlags| {
        let own = heritage.as_fd();
        kept.iter()
            .chain([&own])
            .try_for_each(|fd| Ok(rustix::io::fcntl_setfd(fd, flags)?))
    };
    let failed = match inherited(FdFlags::empty()) {
        // SAFETY: all three are strings and arrays of strings that end with null and are alive until here; when
        // the call returns, nothing has changed.
        Ok(()) => unsafe {
            libc::execve(program.as_ptr(), args.as_ptr(), env.as_ptr());
            io::Error::last_os_error()
        },
        Err(error) => error,
    };
    // Open descriptors, so this cannot fail.
    let _: io::Result<()> = inherited(FdFlags::CLOEXEC);
    drop(blocked);
    Err(failed)
}
