//! A client connection's bytes, whatever carries them. Knows nothing of HTTP.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll};

use rustix::net::SendFlags;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;

/// A connection from a client.
#[derive(Debug)]
pub enum Io {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Runs `$body` with `$io` bound to the pinned stream inside.
macro_rules! each {
    ($self:expr, $io:ident => $body:expr) => {
        match $self.get_mut() {
            Io::Tcp(stream) => {
                let $io = Pin::new(stream);
                $body
            }
            Io::Unix(stream) => {
                let $io = Pin::new(stream);
                $body
            }
            Io::Tls(stream) => {
                let $io = Pin::new(stream.as_mut());
                $body
            }
        }
    };
}

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(self, io => io.poll_read(cx, buf))
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        each!(self, io => io.poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, io => io.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, io => io.poll_shutdown(cx))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, io => io.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

impl Io {
    /// The bare socket that a file's bytes may be sent to by `sendfile(2)`; `None` under TLS.
    fn bare(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Tcp(stream) => Some(stream.as_fd()),
            Self::Unix(stream) => Some(stream.as_fd()),
            Self::Tls(_) => None,
        }
    }

    pub fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// Hands `bytes` to the kernel as the start of something larger, which it puts into the same
    /// packet (`MSG_MORE`, send(2)): at most as many as it takes now. 0 under TLS.
    pub fn send_ahead(&self, bytes: &[u8]) -> usize {
        let flags = SendFlags::MORE | SendFlags::NOSIGNAL;
        let send = |fd: BorrowedFd<'_>| Ok(rustix::net::send(fd, bytes, flags)?);
        let sent = match self {
            Self::Tcp(stream) => stream.try_io(Interest::WRITABLE, || send(stream.as_fd())),
            Self::Unix(stream) => stream.try_io(Interest::WRITABLE, || send(stream.as_fd())),
            Self::Tls(_) => return 0,
        };
        // What is wrong with the connection shows again when the rest is sent.
        sent.unwrap_or(0)
    }

    /// Sends at most `len` bytes of `file` from `offset` without copying them through us. `None`
    /// when the connection cannot do that (TLS); 0 at the file's end.
    pub async fn send_file(
        &self,
        file: BorrowedFd<'_>,
        mut offset: u64,
        len: usize,
    ) -> Option<io::Result<usize>> {
        self.bare()?;
        loop {
            let mut attempt = || {
                let out = self.bare().ok_or(io::ErrorKind::Unsupported)?;
                Ok(rustix::fs::sendfile(out, file, Some(&mut offset), len)?)
            };
            let ready = match self {
                Self::Tcp(stream) => match stream.try_io(Interest::WRITABLE, &mut attempt) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        stream.writable().await
                    }
                    result => return Some(result),
                },
                Self::Unix(stream) => match stream.try_io(Interest::WRITABLE, &mut attempt) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        stream.writable().await
                    }
                    result => return Some(result),
                },
                Self::Tls(_) => return None,
            };
            if let Err(error) = ready {
                return Some(Err(error));
            }
        }
    }
}
