//! What a zygote and its workers ask of the kernel that CPython's `os` does not offer everywhere.
//!
//! It knows nothing of workers or messages; the life of a process is told in `py/`.

use std::ffi::{CString, c_int, c_ulong};
use std::io;

use pyo3::prelude::*;

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(set_pdeathsig, module)?)?;
    module.add_function(wrap_pyfunction!(take_group_along, module)?)?;
    module.add_function(wrap_pyfunction!(set_dumpable, module)?)?;
    module.add_function(wrap_pyfunction!(pidfd_open, module)?)?;
    module.add_function(wrap_pyfunction!(set_title, module)?)?;
    module.add_function(wrap_pyfunction!(take_no_more, module)?)?;
    module.add_function(wrap_pyfunction!(take_no_more_on_signal, module)?)?;
    Ok(())
}

/// The calling process gets `signum` when the thread that forked it ends (prctl(2),
/// PR_SET_PDEATHSIG). A change of user clears it, and a parent that is gone already is not
/// noticed: set it after the change, then compare the parent's pid.
#[pyfunction]
fn set_pdeathsig(signum: c_int) -> PyResult<()> {
    let signum = signum as c_ulong;
    // SAFETY: PR_SET_PDEATHSIG takes one integer and touches no memory of ours.
    match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signum) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error().into()),
    }
}

/// The leader of a process group takes the whole group along when its parent ends: also what an app
/// has started, which gets no death signal of its own. Gives the signal to ask for; a program that
/// the group starts has it at its default again.
#[pyfunction]
fn take_group_along() -> PyResult<c_int> {
    extern "C" fn end_group(_: c_int) {
        // SAFETY: kill is async-signal-safe; 0 is the caller's own group.
        unsafe { libc::kill(0, libc::SIGKILL) };
    }
    let signum = libc::SIGRTMIN() + 5;
    // SAFETY: a zeroed sigaction is a valid one, and the handler is async-signal-safe.
    let result = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = end_group as extern "C" fn(c_int) as libc::sighandler_t;
        libc::sigaction(signum, &action, std::ptr::null_mut())
    };
    match result {
        0 => Ok(signum),
        _ => Err(io::Error::last_os_error().into()),
    }
}

/// This worker serves what it has and takes nothing more from the backlog.
#[pyfunction]
fn take_no_more() {
    crate::wsgi::take_no_more();
}

/// The same when the server asks for it. The handler is none of Python's: it need not wait for the app,
/// and no exception comes of it. Waits that no handler leaves alone (`poll`, `nanosleep`: signal(7)) end
/// early, which Python makes good.
#[pyfunction]
fn take_no_more_on_signal() -> PyResult<()> {
    extern "C" fn heed(_: c_int) {
        crate::wsgi::take_no_more();
    }
    // SAFETY: a zeroed sigaction is a valid one, and the handler stores to an atomic only.
    let result = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = heed as extern "C" fn(c_int) as libc::sighandler_t;
        action.sa_flags = libc::SA_RESTART;
        libc::sigaction(libc::SIGRTMIN() + 6, &action, std::ptr::null_mut())
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error().into()),
    }
}

/// A change of user hides a process even from others of its new user (prctl(2), PR_SET_DUMPABLE), and
/// its memory could not be measured. This takes that back.
#[pyfunction]
fn set_dumpable() -> PyResult<()> {
    // SAFETY: PR_SET_DUMPABLE takes one integer and touches no memory of ours.
    match unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1 as c_ulong) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error().into()),
    }
}

/// A close-on-exec descriptor of the process `pid`, readable once it has ended. `os.pidfd_open` is
/// the same call, but is missing from Pythons that were built on an older system (uv's are).
#[pyfunction]
fn pidfd_open(pid: c_int) -> PyResult<c_int> {
    // SAFETY: takes two integers and returns a new descriptor or -1.
    match unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) } {
        -1 => Err(io::Error::last_os_error().into()),
        fd => Ok(fd as c_int),
    }
}

/// Names this process for `top` (15 bytes: `name`) and for `ps` (`title`, cut to the room the
/// command line left). Best effort: a kernel that hides its numbers leaves the title as it was.
#[pyfunction]
fn set_title(name: &str, title: &str) -> PyResult<()> {
    let name = CString::new(name)?;
    // SAFETY: PR_SET_NAME reads at most 16 bytes of a NUL-terminated string that outlives the call.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
    let Some((start, end)) = command_line_area() else {
        return Ok(());
    };
    // The last byte stays NUL: by it proc(5) knows that the command line did not grow past its end.
    let room = end - start;
    let title = &title.as_bytes()[..title.len().min(room - 1)];
    let area = start as *mut u8;
    // SAFETY: [start, end) is the writable stack area in which the kernel laid out argv for this
    // process; CPython copied its arguments at start-up, and the GIL keeps this the only writer.
    unsafe {
        area.copy_from_nonoverlapping(title.as_ptr(), title.len());
        area.add(title.len()).write_bytes(0, room - title.len());
    }
    Ok(())
}

/// Where argv lies: `arg_start` and `arg_end`, fields 48 and 49 of /proc/self/stat (proc(5)).
fn command_line_area() -> Option<(usize, usize)> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // Field 2 is the name in brackets and may hold spaces: count from behind its bracket.
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut addresses = fields.split(' ').skip(45);
    let start: usize = addresses.next()?.parse().ok()?;
    let end: usize = addresses.next()?.parse().ok()?;
    (start != 0 && start < end).then_some((start, end))
}
