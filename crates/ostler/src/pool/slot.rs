//! A WSGI slot: one socket to one Python thread, one request in flight. Bytes and descriptors in
//! and out; what the frames mean is the exchange's affair.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use ostler_wire::{FrameHead, HEAD_LEN, Kind, WireError, frame};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::Worker;

/// The first size of a slot's receive buffer, in bytes: a normal page and its head fit.
const INBUF: usize = 16 * 1024;

/// Descriptors that may wait for the frame that names them. A worker sends one per `RespFile`.
const MAX_PENDING_FDS: usize = 4;

/// Why a slot gave no frame. The worker misbehaved or is gone; the slot is dropped.
#[derive(Debug)]
pub enum Fault {
    /// The worker's end is closed.
    Closed,
    /// The bytes are no frame.
    Wire(WireError),
    /// A frame and its descriptor do not match.
    Descriptor,
    /// It took two requests from the backlog at once.
    Taken,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Closed => f.write_str("its socket is closed"),
            Self::Wire(error) => write!(f, "it sent a bad frame: {error}"),
            Self::Descriptor => f.write_str("a frame and its descriptor do not match"),
            Self::Taken => f.write_str("it took two requests at once"),
        }
    }
}

/// One frame; the payload lives in the receiver's buffer until the next call.
pub struct Frame<'a> {
    pub head: FrameHead,
    pub payload: &'a [u8],
    pub fd: Option<OwnedFd>,
}

/// A socket that is registered with the reactor of the edge thread that used it last.
enum Io {
    Unregistered(OwnedFd),
    Registered {
        fd: AsyncFd<OwnedFd>,
        home: usize,
    },
    /// Only while it moves from one reactor to another.
    Moving,
}

/// One unit of concurrency of a synchronous worker.
pub struct Slot {
    pub worker: Arc<Worker>,
    io: Io,
    inbuf: Vec<u8>,
    start: usize,
    end: usize,
    fds: VecDeque<OwnedFd>,
    /// The ticket of the request in flight; 0 when it was sent over this socket.
    ticket: u32,
    /// The ticket of the request that the worker serves next.
    next: Option<u32>,
}

impl Slot {
    /// Takes a non-blocking socket.
    pub fn new(worker: Arc<Worker>, socket: OwnedFd) -> Self {
        Self {
            worker,
            io: Io::Unregistered(socket),
            inbuf: vec![0; INBUF],
            start: 0,
            end: 0,
            fds: VecDeque::new(),
            ticket: 0,
            next: None,
        }
    }

    /// The request in flight came from the backlog under this ticket; 0 when it did not.
    pub fn ticket(&self) -> u32 {
        self.ticket
    }

    /// The ticket of the request that the worker serves next, told once.
    pub(super) fn take_next(&mut self) -> Option<u32> {
        self.next.take()
    }

    /// From here on the slot is that of a request which its worker has begun.
    pub(super) fn begin_taken(&mut self, ticket: u32) {
        self.ticket = ticket;
    }

    /// From here on the slot is free, or that of a request yet to be sent.
    pub(super) fn begin_anew(&mut self) {
        self.ticket = 0;
    }

    /// The edge thread whose reactor watches this slot, if one does.
    pub fn home(&self) -> Option<usize> {
        match &self.io {
            Io::Registered { home, .. } => Some(*home),
            Io::Unregistered(_) | Io::Moving => None,
        }
    }

    /// Makes the calling edge thread this slot's home.
    pub fn move_to(&mut self, thread: usize) -> io::Result<()> {
        let fd = match std::mem::replace(&mut self.io, Io::Moving) {
            Io::Registered { fd, home } if home == thread => {
                self.io = Io::Registered { fd, home };
                return Ok(());
            }
            Io::Registered { fd, .. } => fd.into_inner(),
            Io::Unregistered(fd) => fd,
            Io::Moving => return Err(io::ErrorKind::NotConnected.into()),
        };
        let fd = crate::sys::fds::watch(fd, Interest::READABLE | Interest::WRITABLE)?;
        self.io = Io::Registered { fd, home: thread };
        Ok(())
    }

    /// Gives the raw socket away (a hijacked slot becomes a tunnel), with bytes that were read
    /// already.
    pub fn into_socket(self) -> Option<(OwnedFd, Vec<u8>)> {
        let rest = self.inbuf[self.start..self.end].to_vec();
        match self.io {
            Io::Registered { fd, .. } => Some((fd.into_inner(), rest)),
            Io::Unregistered(fd) => Some((fd, rest)),
            Io::Moving => None,
        }
    }

    /// True when the slot holds nothing of an earlier exchange, so that it may be leased again.
    pub fn is_clean(&self) -> bool {
        self.start == self.end && self.fds.is_empty()
    }

    /// Sends the first bytes of `frames`; `passed` travels with them. Returns how many went.
    pub fn poll_send(
        &self,
        cx: &mut Context<'_>,
        frames: &[u8],
        passed: Option<BorrowedFd<'_>>,
    ) -> Poll<io::Result<usize>> {
        let Io::Registered { fd, .. } = &self.io else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        loop {
            // Ask the kernel before the reactor: a slot that is leased has an empty socket
            // buffer, so the first attempt nearly always succeeds.
            match send_now(fd.get_ref(), frames, passed) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(fd.poll_write_ready(cx))?.clear_ready();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return Poll::Ready(result),
            }
        }
    }

    /// Ready when the next frame of the exchange is whole in memory; [`Slot::take`] then gives it.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        loop {
            match frame(&self.inbuf[self.start..self.end]) {
                Ok(Some((head, _, used))) if head.kind == Kind::Taken => {
                    self.start += used;
                    if self.next.replace(head.stream).is_some() {
                        return Poll::Ready(Err(Fault::Taken));
                    }
                }
                Ok(Some(_)) => return Poll::Ready(Ok(())),
                Ok(None) => ready!(self.poll_fill(cx))?,
                Err(error) => return Poll::Ready(Err(Fault::Wire(error))),
            }
        }
    }

    /// The frame that [`Slot::poll_frame`] announced.
    pub fn take(&mut self) -> Result<Frame<'_>, Fault> {
        let whole = frame(&self.inbuf[self.start..self.end]).map_err(Fault::Wire)?;
        let (head, _, used) = whole.ok_or(Fault::Closed)?;
        let fd = match head.has_fd() {
            true => Some(self.fds.pop_front().ok_or(Fault::Descriptor)?),
            false => None,
        };
        let payload = self.start + HEAD_LEN..self.start + used;
        self.start += used;
        Ok(Frame {
            head,
            payload: &self.inbuf[payload],
            fd,
        })
    }

    /// Makes room for at least the frame whose head is there.
    fn make_room(&mut self) -> Result<(), Fault> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        let wanted = match FrameHead::decode(&self.inbuf[self.start..self.end]) {
            Ok(Some(head)) => HEAD_LEN + head.len as usize,
            Ok(None) => HEAD_LEN,
            Err(error) => return Err(Fault::Wire(error)),
        };
        if self.start + wanted > self.inbuf.len() {
            self.inbuf.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            if wanted > self.inbuf.len() {
                self.inbuf.resize(wanted, 0);
            }
        }
        Ok(())
    }

    /// Reads once.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        self.make_room()?;
        let Io::Registered { fd, .. } = &self.io else {
            return Poll::Ready(Err(Fault::Closed));
        };
        loop {
            let mut guard = ready!(fd.poll_read_ready(cx)).map_err(|_| Fault::Closed)?;
            let space = &mut self.inbuf[self.end..];
            let (room, had) = (space.len(), self.fds.len());
            match recv_now(fd.get_ref(), space, &mut self.fds) {
                Ok(0) => return Poll::Ready(Err(Fault::Closed)),
                Ok(count) => {
                    // A short read without descriptors has emptied the socket: wait for the next
                    // edge instead of asking in vain. (A read stops early at a descriptor.)
                    if count < room && self.fds.len() == had {
                        guard.clear_ready();
                    }
                    if self.fds.len() > MAX_PENDING_FDS {
                        return Poll::Ready(Err(Fault::Descriptor));
                    }
                    self.end += count;
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Poll::Ready(Err(Fault::Closed)),
            }
        }
    }

    /// Frees what a large response made the receive buffer grow to.
    pub fn shrink(&mut self) {
        if self.inbuf.len() > 4 * INBUF {
            self.inbuf = vec![0; INBUF];
            (self.start, self.end) = (0, 0);
        }
    }
}

/// One non-blocking send, with a descriptor on its first byte when one is given.
pub(super) fn send_now(
    socket: impl AsFd,
    bytes: &[u8],
    passed: Option<BorrowedFd<'_>>,
) -> io::Result<usize> {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let Some(passed) = passed else {
        return Ok(rustix::net::send(socket, bytes, flags)?);
    };
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [passed];
    control.push(SendAncillaryMessage::ScmRights(&fds));
    Ok(sendmsg(
        socket,
        &[IoSlice::new(bytes)],
        &mut control,
        flags,
    )?)
}

/// One non-blocking receive; descriptors that came are appended to `fds`, close-on-exec.
pub(super) fn recv_now(
    socket: impl AsFd,
    space: &mut [u8],
    fds: &mut VecDeque<OwnedFd>,
) -> io::Result<usize> {
    let mut control_space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = RecvAncillaryBuffer::new(&mut control_space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(socket, &mut [IoSliceMut::new(space)], &mut control, flags)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    Ok(received.bytes)
}
