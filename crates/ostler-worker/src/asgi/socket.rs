//! A non-blocking stream socket as two buffers: frames in, frames out, descriptors beside them.
//!
//! Knows system calls and frame boundaries; knows nothing of Python or of what a frame means.

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use ostler_wire::{FrameHead, HEAD_LEN, WireError};

/// Bytes the inbox starts with: one system call takes a burst of small requests, or one request
/// with the largest inline body.
const INBOX: usize = 128 * 1024;

/// Bytes the outbox may keep allocated while it is empty.
const OUTBOX: usize = 128 * 1024;

/// Descriptors taken from one `recvmsg`. The kernel ends a read at the first bytes that carry
/// some, and a frame carries at most one, so this is plenty.
const FDS: usize = 8;

/// What a read gave.
pub enum Filled {
    Some,
    Blocked,
    Eof,
}

/// Bytes received and not yet taken as frames.
#[derive(Default)]
pub struct Inbox {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    fds: VecDeque<OwnedFd>,
}

impl Inbox {
    /// Reads once from `socket`.
    pub fn fill(&mut self, socket: BorrowedFd<'_>) -> io::Result<Filled> {
        self.make_room();
        let mut control = Control::new();
        let free = &mut self.buffer[self.end..];
        let mut part = libc::iovec {
            iov_base: free.as_mut_ptr().cast(),
            iov_len: free.len(),
        };
        let mut message = control.message(&mut part);
        let got = loop {
            // SAFETY: `message` points at `part`, `free` and `control`, which outlive the call and
            // are as long as it says.
            let got = unsafe {
                libc::recvmsg(
                    socket.as_raw_fd(),
                    &mut message,
                    libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC,
                )
            };
            if got >= 0 {
                break got as usize;
            }
            match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => continue,
                error if error.kind() == io::ErrorKind::WouldBlock => return Ok(Filled::Blocked),
                error if error.raw_os_error() == Some(libc::ECONNRESET) => return Ok(Filled::Eof),
                error => return Err(error),
            }
        };
        take_fds(&message, &mut self.fds);
        if message.msg_flags & libc::MSG_CTRUNC != 0 {
            return Err(io::Error::other("descriptors were lost on the way"));
        }
        self.end += got;
        Ok(if got == 0 { Filled::Eof } else { Filled::Some })
    }

    /// Takes the next whole frame: its head, where its payload lies (see [`Inbox::payload`]), and
    /// its descriptor when it says that it has one.
    pub fn next(&mut self) -> Result<Option<Frame>, WireError> {
        let unread = &self.buffer[self.start..self.end];
        let Some((head, payload, used)) = ostler_wire::frame(unread)? else {
            return Ok(None);
        };
        let at = self.start + HEAD_LEN;
        let len = payload.len();
        self.start += used;
        let fd = match head.has_fd() {
            true => Some(
                self.fds
                    .pop_front()
                    .ok_or(WireError::Invalid("descriptor"))?,
            ),
            false => None,
        };
        Ok(Some(Frame { head, at, len, fd }))
    }

    /// The payload of a frame that [`Inbox::next`] gave since the last [`Inbox::fill`].
    pub fn payload(&self, frame: &Frame) -> &[u8] {
        &self.buffer[frame.at..frame.at + frame.len]
    }

    /// Moves an unfinished frame to the front, and grows the buffer to the frame's length when it
    /// is longer (at most `MAX_PAYLOAD`, which `FrameHead::decode` has checked).
    fn make_room(&mut self) {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let needed = match FrameHead::decode(&self.buffer[..self.end]) {
            Ok(Some(head)) => HEAD_LEN + head.len as usize,
            Ok(None) | Err(_) => 0,
        };
        let size = needed.max(INBOX);
        if self.buffer.len() < size {
            self.buffer.resize(size, 0);
        }
    }
}

/// A frame that was taken from an [`Inbox`].
pub struct Frame {
    pub head: FrameHead,
    at: usize,
    len: usize,
    pub fd: Option<OwnedFd>,
}

/// Whether everything is out.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Flushed {
    All,
    Blocked,
}

/// Frames that wait to be sent, in order, with their descriptors.
#[derive(Default)]
pub struct Outbox {
    bytes: Vec<u8>,
    sent: usize,
    /// Where in `bytes` the frame starts that a descriptor belongs to; increasing.
    fds: VecDeque<(usize, OwnedFd)>,
}

impl Outbox {
    /// The buffer that frames are appended to.
    pub fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Says that the frame which is appended next carries `fd`.
    pub fn attach(&mut self, fd: OwnedFd) {
        self.fds.push_back((self.bytes.len(), fd));
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Bytes that wait.
    pub fn len(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// Forgets what was not sent, because nobody reads it any more.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.sent = 0;
        self.fds.clear();
    }

    /// Sends until everything is out or the socket is full.
    pub fn flush(&mut self, socket: BorrowedFd<'_>) -> io::Result<Flushed> {
        while self.sent < self.bytes.len() {
            // One call sends up to the next frame that carries a descriptor, because a descriptor
            // arrives with the first byte of the call it was sent with.
            let carried = self.fds.front().filter(|(at, _)| *at == self.sent);
            let stop = self.fds.get(usize::from(carried.is_some()));
            let part = &self.bytes[self.sent..stop.map_or(self.bytes.len(), |(at, _)| *at)];
            match send(socket, part, carried.map(|(_, fd)| fd)) {
                Ok(sent) => {
                    if carried.is_some() {
                        self.fds.pop_front();
                    }
                    self.sent += sent;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Flushed::Blocked);
                }
                Err(error) => return Err(error),
            }
        }
        self.bytes.clear();
        self.bytes.shrink_to(OUTBOX);
        self.sent = 0;
        Ok(Flushed::All)
    }
}

fn send(socket: BorrowedFd<'_>, part: &[u8], fd: Option<&OwnedFd>) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    let sent = match fd {
        // SAFETY: the pointer and the length are those of one slice.
        None => unsafe { libc::send(socket.as_raw_fd(), part.as_ptr().cast(), part.len(), flags) },
        Some(fd) => {
            let mut vector = libc::iovec {
                iov_base: part.as_ptr().cast_mut().cast(),
                iov_len: part.len(),
            };
            let mut control = Control::new();
            let message = control.carry(&mut vector, fd.as_raw_fd());
            // SAFETY: `message` points at `vector`, `part` and `control`, which outlive the call.
            unsafe { libc::sendmsg(socket.as_raw_fd(), &message, flags) }
        }
    };
    match sent {
        sent if sent >= 0 => Ok(sent as usize),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Room for ancillary data, aligned as `cmsghdr` wants it.
struct Control([u64; 8]);

impl Control {
    fn new() -> Self {
        const { assert!(mem::size_of::<Control>() >= 16 + FDS * 4) };
        Self([0; 8])
    }

    /// A message head for receiving.
    fn message(&mut self, part: &mut libc::iovec) -> libc::msghdr {
        // SAFETY: all-zero is a valid `msghdr`.
        let mut message: libc::msghdr = unsafe { mem::zeroed() };
        message.msg_iov = part;
        message.msg_iovlen = 1;
        message.msg_control = self.0.as_mut_ptr().cast();
        message.msg_controllen = mem::size_of::<Self>() as _;
        message
    }

    /// A message head for sending one descriptor.
    fn carry(&mut self, part: &mut libc::iovec, fd: libc::c_int) -> libc::msghdr {
        let mut message = self.message(part);
        let len = mem::size_of::<libc::c_int>() as u32;
        // SAFETY: `control` is large enough for one header and one descriptor (asserted in `new`),
        // and `CMSG_FIRSTHDR` points into it.
        unsafe {
            message.msg_controllen = libc::CMSG_SPACE(len) as _;
            let head = libc::CMSG_FIRSTHDR(&message);
            (*head).cmsg_level = libc::SOL_SOCKET;
            (*head).cmsg_type = libc::SCM_RIGHTS;
            (*head).cmsg_len = libc::CMSG_LEN(len) as _;
            libc::CMSG_DATA(head)
                .cast::<libc::c_int>()
                .write_unaligned(fd);
        }
        message
    }
}

/// Takes ownership of every descriptor that came with a received message.
fn take_fds(message: &libc::msghdr, fds: &mut VecDeque<OwnedFd>) {
    // SAFETY: the kernel filled `message` and its control buffer, which still live; the macros
    // stay within `msg_controllen`. Each descriptor in it is new and ours.
    unsafe {
        let mut head = libc::CMSG_FIRSTHDR(message);
        while !head.is_null() {
            if (*head).cmsg_level == libc::SOL_SOCKET && (*head).cmsg_type == libc::SCM_RIGHTS {
                let bytes = (*head).cmsg_len as usize - libc::CMSG_LEN(0) as usize;
                let data = libc::CMSG_DATA(head).cast::<libc::c_int>();
                for index in 0..bytes / mem::size_of::<libc::c_int>() {
                    fds.push_back(OwnedFd::from_raw_fd(data.add(index).read_unaligned()));
                }
            }
            head = libc::CMSG_NXTHDR(message, head);
        }
    }
}
