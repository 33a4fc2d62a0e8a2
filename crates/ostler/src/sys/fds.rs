//! Descriptors: socket pairs, inherited ones, sealed memory files.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd},
};

use tokio::io::{Interest, unix::AsyncFd};

use rustix::{
    fs::{MemfdFlags, SealFlags},
    io::FdFlags,
    net::{AddressFamily, SocketFlags, SocketType},
};

/// A pair of connected `SOCK_SEQPACKET` sockets: one message in, the same message out.
pub fn seqpacket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    pair(SocketType::SEQPACKET)
}

/// A pair of connected `SOCK_STREAM` sockets, both blocking.
pub fn stream_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    pair(SocketType::STREAM)
}

fn pair(kind: SocketType) -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(
        AddressFamily::UNIX,
        kind,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// Makes every further read and write of this open file description return at once.
pub fn set_nonblocking(fd: &impl AsFd) -> io::Result<()> {
    Ok(rustix::io::ioctl_fionbio(fd, true)?)
}

/// Bytes written to a connected stream socket that its other end has not taken (`SIOCOUTQ`): over
/// TCP those that are not acknowledged (tcp(7)), on a UNIX socket those that are not read, with what
/// the kernel spends on them.
pub fn unsent(socket: &impl AsFd) -> io::Result<u64> {
    let mut unsent: libc::c_int = 0;
    // SAFETY: the descriptor is borrowed for this call, which writes one int to the place it is given.
    let result =
        unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut unsent) };
    match result {
        0 => Ok(unsent.max(0) as u64),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Takes possession of a descriptor this process was started with, and keeps it from our own
/// children. Fails when nothing is open under that number.
///
/// The caller answers for the number being one that it was promised (`LISTEN_FDS`, `fd://N`, our
/// own start protocol) and for claiming each number once: two owners would close it twice.
pub fn claim(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: the borrow lasts for this one call, which asks the kernel whether the number is
    // open and touches no memory.
    rustix::io::fcntl_getfd(unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) })?;
    // SAFETY: the number is open (just asked), and by this function's contract nobody else in
    // this process owns it.
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    rustix::io::fcntl_setfd(&owned, FdFlags::CLOEXEC)?;
    Ok(owned)
}

/// Takes possession of a listening socket this process was started with; it becomes non-blocking.
///
/// # Errors
/// `InvalidInput` when the number is open but no listening stream socket. It is left alone then: a
/// wrong `fd://N` may well name a descriptor that this process opened for itself.
pub fn claim_listener(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: as in `claim`: the borrow serves two questions to the kernel about a number.
    let seen = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
    let listens = rustix::net::sockopt::socket_acceptconn(seen);
    let kind = rustix::net::sockopt::socket_type(seen);
    match (listens, kind) {
        (Ok(true), Ok(SocketType::STREAM)) => {}
        (Err(rustix::io::Errno::BADF), _) => return Err(io::Error::from_raw_os_error(libc::EBADF)),
        _ => {
            let text = "not a listening socket";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
    }
    let owned = claim(fd)?;
    set_nonblocking(&owned)?;
    Ok(owned)
}

/// An anonymous file in memory that holds `bytes` and that nobody can change any more.
/// `name` is what `/proc/PID/maps` shows.
pub fn sealed(name: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
    let fd = match rustix::fs::memfd_create(name, sealable() | MemfdFlags::EXEC) {
        // Kernels before 6.3 do not know the flag, and give executable files without it.
        Err(rustix::io::Errno::INVAL) => rustix::fs::memfd_create(name, sealable())?,
        other => other?,
    };
    let mut file = File::from(fd);
    file.write_all(bytes)?;
    file.seek(SeekFrom::Start(0))?;
    let fd = OwnedFd::from(file);
    rustix::fs::fcntl_add_seals(
        &fd,
        SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL,
    )?;
    Ok(fd)
}

fn sealable() -> MemfdFlags {
    MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING
}

/// An anonymous file in memory for another program to write to.
pub fn writable(name: &str) -> io::Result<OwnedFd> {
    Ok(rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC)?)
}

/// Reads a file descriptor from its start to its end; more than `limit` bytes is an error.
pub fn read_all(fd: OwnedFd, limit: u64) -> io::Result<Vec<u8>> {
    let mut file = File::from(fd);
    file.seek(SeekFrom::Start(0))?;
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "file longer than agreed",
        ));
    }
    Ok(bytes)
}

/// Registers a descriptor with the runtime of the calling thread.
///
/// # Errors
/// Outside a runtime this panics; a full epoll set is an error.
pub fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is owned by the `AsyncFd` and given back only by `into_inner`, which
    // ends the registration first, so it stays open for as long as it is registered.
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest) }?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_file_keeps_its_bytes_and_refuses_new_ones() {
        let fd = sealed("test", b"horses").expect("memfd");
        let mut writer = File::from(fd.try_clone().expect("dup"));
        assert_eq!(
            writer
                .write_all(b"mules")
                .expect_err("sealed")
                .raw_os_error(),
            Some(libc::EPERM)
        );
        assert_eq!(
            read_all(fd.try_clone().expect("dup"), 6).expect("read"),
            b"horses"
        );
        assert!(read_all(fd, 5).is_err(), "longer than agreed");
    }

    #[test]
    fn what_is_not_read_is_not_taken() {
        let (one, other) = stream_pair().expect("pair");
        assert_eq!(unsent(&one).expect("a socket"), 0);
        let (mut one, mut other) = (File::from(one), File::from(other));
        one.write_all(&[0; 1000]).expect("room");
        assert!(unsent(&one).expect("a socket") >= 1000);
        other.read_exact(&mut [0; 1000]).expect("it is there");
        assert_eq!(unsent(&one).expect("a socket"), 0);
    }

    #[test]
    fn claiming_a_closed_number_is_an_error() {
        assert_eq!(
            claim(-1).expect_err("negative").raw_os_error(),
            Some(libc::EBADF)
        );
        assert_eq!(
            claim(1_000_000).expect_err("closed").raw_os_error(),
            Some(libc::EBADF)
        );
    }

    #[test]
    fn only_a_listening_socket_is_claimed_as_one() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        let number = std::os::fd::IntoRawFd::into_raw_fd(listener);
        assert_eq!(claim_listener(number).expect("listens").as_raw_fd(), number);
        let (one, _other) = stream_pair().expect("pair");
        assert!(claim_listener(one.as_raw_fd()).is_err());
        let still_open = rustix::io::fcntl_getfd(&one);
        assert!(still_open.is_ok(), "what was refused was not closed");
        assert_eq!(
            claim_listener(999_999).expect_err("closed").raw_os_error(),
            Some(libc::EBADF)
        );
    }

    #[test]
    fn a_claimed_descriptor_is_not_inherited() {
        let (one, _other) = stream_pair().expect("pair");
        let inheritable = rustix::io::dup(&one).expect("dup");
        let number = std::os::fd::IntoRawFd::into_raw_fd(inheritable);
        let owned = claim(number).expect("open");
        assert_eq!(owned.as_raw_fd(), number);
        assert!(
            rustix::io::fcntl_getfd(&owned)
                .expect("flags")
                .contains(FdFlags::CLOEXEC)
        );
    }
}
