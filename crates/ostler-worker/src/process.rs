//! What a zygote and its workers ask of the kernel that CPython's `os` does not offer everywhere.
//!
//! It knows nothing of workers or messages; the life of a process is told in `py/`.

use std::ffi::{CString, c_int, c_ulong};
use std::io;

use pyo3::prelude::*;

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(set_pdeathsig, module)?)?;
    module.add_function(wrap_pyfunction!(pidfd_open, module)?)?;
    module.add_function(wrap_pyfunction!(set_title, module)?)?;
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
