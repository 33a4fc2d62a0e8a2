//! A socket, and how much of what was handed to the kernel its other end has taken.

use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A socket that counts what is written to it.
#[derive(Debug)]
pub struct Counted<S> {
    pub socket: S,
    /// Bytes handed to the kernel.
    handed: u64,
}

impl<S> From<S> for Counted<S> {
    fn from(socket: S) -> Self {
        Self { socket, handed: 0 }
    }
}

impl<S> Counted<S> {
    /// Counts what was written past this type (`send`, `sendfile`).
    pub fn count(&mut self, written: &io::Result<usize>) {
        self.handed += written.as_ref().map_or(0, |&count| count as u64);
    }

    fn counted(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(written) = &written {
            self.count(written);
        }
        written
    }
}

impl<S: AsFd> Counted<S> {
    /// Bytes that the other end has taken: over TCP those it has acknowledged. On a UNIX socket a
    /// write counts once it was read to its end.
    pub fn taken(&self) -> u64 {
        let unsent = crate::sys::fds::unsent(&self.socket).unwrap_or(0);
        self.handed.saturating_sub(unsent)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(cx, buf);
        self.counted(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(cx, bufs);
        self.counted(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }
}
