//! `recvmsg` and `sendmsg` on a slot's socket, with descriptors. The GIL is the caller's business.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Descriptors one `recvmsg` can take. A request has at most one; more than fit are closed by the
/// kernel, those that no frame claims by us.
const MOST_FDS: usize = 4;

/// Room for one control message with [`MOST_FDS`] descriptors, aligned as `cmsghdr` wants it.
#[repr(C, align(8))]
struct Control([u8; 64]);

/// Receives what is there into `buf`, without waiting; descriptors that come along are pushed to
/// `fds`. 0 is the end of the socket.
pub fn recv(fd: RawFd, buf: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut control = Control([0; 64]);
    let mut iov = libc::iovec {
        iov_base: buf.as_mut_ptr().cast(),
        iov_len: buf.len(),
    };
    // SAFETY: `msghdr` is plain data for which all zeroes is a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &mut iov;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    // SAFETY: arithmetic on a constant.
    message.msg_controllen =
        unsafe { libc::CMSG_SPACE((MOST_FDS * size_of::<RawFd>()) as u32) } as _;
    let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT;
    // SAFETY: `message` points at `iov` and `control`, which outlive the call.
    let count = unsafe { libc::recvmsg(fd, &mut message, flags) };
    if count < 0 {
        return Err(io::Error::last_os_error());
    }
    if message.msg_controllen != 0 {
        take_fds(&message, fds);
    }
    Ok(count as usize)
}

fn take_fds(message: &libc::msghdr, fds: &mut Vec<OwnedFd>) {
    // SAFETY: the kernel filled the control buffer that `message` points at and set its length; the
    // CMSG functions stay within it.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_RIGHTS {
                let bytes = (*header).cmsg_len as usize - libc::CMSG_LEN(0) as usize;
                let data = libc::CMSG_DATA(header).cast::<RawFd>();
                for index in 0..bytes / size_of::<RawFd>() {
                    // The kernel installed this descriptor for us: nobody else owns it.
                    fds.push(OwnedFd::from_raw_fd(data.add(index).read_unaligned()));
                }
            }
            header = libc::CMSG_NXTHDR(message, header);
        }
    }
}

/// Sends what it can of `parts`, or waits until all of it is sent; `passed` travels with the first
/// byte.
pub fn send(
    fd: RawFd,
    parts: &[IoSlice<'_>],
    passed: Option<BorrowedFd<'_>>,
    wait: bool,
) -> io::Result<usize> {
    let mut control = Control([0; 64]);
    // SAFETY: `msghdr` is plain data for which all zeroes is a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = parts.as_ptr() as *mut libc::iovec;
    message.msg_iovlen = parts.len() as _;
    if let Some(passed) = passed {
        const LEN: u32 = size_of::<RawFd>() as u32;
        message.msg_control = control.0.as_mut_ptr().cast();
        // SAFETY: the control buffer is zeroed, aligned and larger than one message with one
        // descriptor, so that the first header lies inside.
        unsafe {
            message.msg_controllen = libc::CMSG_SPACE(LEN) as _;
            let header = libc::CMSG_FIRSTHDR(&message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(LEN) as _;
            libc::CMSG_DATA(header)
                .cast::<RawFd>()
                .write_unaligned(passed.as_raw_fd());
        }
    }
    let flags = libc::MSG_NOSIGNAL | if wait { 0 } else { libc::MSG_DONTWAIT };
    // SAFETY: `message` points at `parts` (an `IoSlice` is an `iovec`) and `control`; both outlive
    // the call, which only reads them.
    let count = unsafe { libc::sendmsg(fd, &message, flags) };
    if count < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(count as usize)
}

/// Waits until `fd` has something to receive or has ended; returns early on a signal.
///
/// A `recvmsg` that waits itself would be woken as well when the peer takes what we sent: on an
/// `AF_UNIX` socket both wait in the same queue, and only `poll` says which of the two it is for.
pub fn wait_readable(fd: RawFd) -> io::Result<()> {
    let mut wanted = libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one `pollfd`, alive during the call.
    if unsafe { libc::poll(&mut wanted, 1, -1) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Makes sending on `fd` wait unless it says otherwise.
pub fn set_blocking(fd: RawFd) {
    // SAFETY: system calls on a number; a wrong one gives an error that changes nothing.
    unsafe {
        let flags = libc::fcntl(fd, libc::F_GETFL);
        if flags >= 0 {
            libc::fcntl(fd, libc::F_SETFL, flags & !libc::O_NONBLOCK);
        }
    }
}

/// Ends both directions of a socket, whoever else still holds a descriptor of it.
pub fn shutdown(fd: RawFd) {
    // SAFETY: a system call on a number; a wrong one gives an error that changes nothing.
    unsafe { libc::shutdown(fd, libc::SHUT_RDWR) };
}

/// A second descriptor of the same open file, closed on exec.
pub fn duplicate(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: a system call on a number; on success the new descriptor belongs to us alone.
    unsafe {
        let copy = libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 0);
        if copy < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(copy))
    }
}

/// The size in bytes of the regular file behind `fd`; `None` for anything else.
pub fn regular_file_size(fd: RawFd) -> Option<u64> {
    // SAFETY: `stat` is plain data, filled by the call when it returns 0.
    unsafe {
        let mut stat: libc::stat = std::mem::zeroed();
        let regular =
            libc::fstat(fd, &mut stat) == 0 && stat.st_mode & libc::S_IFMT == libc::S_IFREG;
        regular.then_some(stat.st_size as u64)
    }
}
