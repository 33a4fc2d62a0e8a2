//! Messages with descriptors over `AF_UNIX` `SOCK_SEQPACKET`, for tokio tasks. What a message
//! means is not known here.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use serde::Serialize;
use tokio::io::{Interest, unix::AsyncFd};

/// Longest message in bytes; a longer one is refused on both sides. Half of what the kernel's
/// default socket buffer (208 KiB) takes in one piece.
pub const MESSAGE_MAX: usize = 128 * 1024;

/// Most descriptors in one message; the kernel's own limit is 253 (`SCM_MAX_FD`).
pub const FDS_MAX: usize = 200;

/// One end of a message socket.
#[derive(Debug)]
pub struct Channel {
    io: AsyncFd<OwnedFd>,
}

/// One received message.
#[derive(Debug, Default)]
pub struct Message {
    pub bytes: Vec<u8>,
    pub fds: Vec<OwnedFd>,
}

impl Channel {
    /// Takes one end of a `SOCK_SEQPACKET` pair; must be called inside a tokio runtime.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        super::fds::set_nonblocking(&fd)?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        Ok(Self {
            io: super::fds::watch(fd, interest)?,
        })
    }

    /// Sends `value` as JSON together with `fds`.
    ///
    /// # Errors
    /// `EPIPE` when the other end is gone, `InvalidInput` when the message is too long.
    pub async fn send_json(
        &self,
        value: &impl Serialize,
        fds: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        let bytes = serde_json::to_vec(value).map_err(io::Error::other)?;
        self.send(&bytes, fds).await
    }

    /// Sends one message, waiting for room.
    pub async fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        if bytes.is_empty() || bytes.len() > MESSAGE_MAX || fds.len() > FDS_MAX {
            let text = format!(
                "message of {} bytes and {} descriptors",
                bytes.len(),
                fds.len()
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        self.io
            .async_io(Interest::WRITABLE, |fd| send(fd, bytes, fds))
            .await
    }

    /// Receives one message; `None` once the other end is closed.
    pub async fn recv(&self) -> io::Result<Option<Message>> {
        let received = self.io.async_io(Interest::READABLE, receive).await;
        match received {
            // A peer that died with unread messages of ours in its queue.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(None),
            other => other,
        }
    }

    /// A message that is there already; `WouldBlock` when there is none, `None` at the end.
    pub fn try_recv(&self) -> io::Result<Option<Message>> {
        receive(self.io.get_ref())
    }

    /// The descriptor, for handing a copy to another process.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        AsFd::as_fd(self.io.get_ref())
    }

    /// Gives the descriptor back; it stays non-blocking.
    pub fn into_fd(self) -> OwnedFd {
        self.io.into_inner()
    }
}

fn send(socket: &OwnedFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "too many descriptors",
        ));
    }
    let sent = rustix::net::sendmsg(
        socket,
        &[IoSlice::new(bytes)],
        &mut control,
        SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
    )?;
    debug_assert_eq!(sent, bytes.len(), "SEQPACKET sends all or nothing");
    Ok(())
}

fn receive(socket: &OwnedFd) -> io::Result<Option<Message>> {
    let mut bytes = vec![0; MESSAGE_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::net::recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT,
    )?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if received
        .flags
        .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
    {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "message longer than agreed",
        ));
    }
    // No message is empty, so an empty one is the end.
    if received.bytes == 0 {
        return Ok(None);
    }
    bytes.truncate(received.bytes);
    bytes.shrink_to_fit();
    Ok(Some(Message { bytes, fds }))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::super::fds::{seqpacket_pair, stream_pair};
    use super::*;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("runtime")
            .block_on(future)
    }

    #[test]
    fn descriptors_arrive_with_their_message_and_close_on_exec() {
        block_on(async {
            let (left, right) = seqpacket_pair().expect("pair");
            let (left, right) = (
                Channel::new(left).expect("l"),
                Channel::new(right).expect("r"),
            );
            let (one, other) = stream_pair().expect("pair");
            left.send(b"first", &[]).await.expect("send");
            left.send(b"second", &[one.as_fd(), other.as_fd()])
                .await
                .expect("send");
            drop(left);
            let first = right.recv().await.expect("recv").expect("message");
            assert_eq!(
                (first.bytes.as_slice(), first.fds.len()),
                (&b"first"[..], 0)
            );
            let second = right.recv().await.expect("recv").expect("message");
            assert_eq!(
                (second.bytes.as_slice(), second.fds.len()),
                (&b"second"[..], 2)
            );
            for fd in &second.fds {
                let flags = rustix::io::fcntl_getfd(fd).expect("flags");
                assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
            }
            assert!(right.recv().await.expect("recv").is_none(), "closed");
        });
    }

    #[test]
    fn the_longest_message_passes_and_a_longer_one_is_refused() {
        block_on(async {
            let (left, right) = seqpacket_pair().expect("pair");
            let (left, right) = (
                Channel::new(left).expect("l"),
                Channel::new(right).expect("r"),
            );
            left.send(&vec![7; MESSAGE_MAX], &[]).await.expect("fits");
            let message = right.recv().await.expect("recv").expect("message");
            assert_eq!(message.bytes.len(), MESSAGE_MAX);
            let refused = left.send(&vec![7; MESSAGE_MAX + 1], &[]).await;
            assert_eq!(
                refused.expect_err("too long").kind(),
                io::ErrorKind::InvalidInput
            );
        });
    }

    #[test]
    fn two_hundred_descriptors_fit_in_one_message() {
        block_on(async {
            let (left, right) = seqpacket_pair().expect("pair");
            let (left, right) = (
                Channel::new(left).expect("l"),
                Channel::new(right).expect("r"),
            );
            let (one, _other) = stream_pair().expect("pair");
            left.send(b"slots", &vec![one.as_fd(); FDS_MAX])
                .await
                .expect("send");
            let message = right.recv().await.expect("recv").expect("message");
            assert_eq!(message.fds.len(), FDS_MAX);
        });
    }
}
