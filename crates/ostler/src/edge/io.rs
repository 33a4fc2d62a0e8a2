//! A client connection's bytes, whatever carries them. Knows nothing of HTTP.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll};

use rustix::net::SendFlags;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;

use super::counted::Counted;
use super::http2::Stream;

/// A connection from a client.
#[derive(Debug)]
pub enum Io {
    Tcp(Counted<TcpStream>),
    Unix(Counted<UnixStream>),
    Tls(Box<TlsStream<Counted<TcpStream>>>),
    /// One stream of an HTTP/2 connection.
    Stream(Box<Stream>),
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
            Io::Stream(stream) => {
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
    /// The client speaks TLS to us.
    pub fn is_tls(&self) -> bool {
        match self {
            Self::Tls(_) => true,
            Self::Stream(stream) => stream.is_tls(),
            Self::Tcp(_) | Self::Unix(_) => false,
        }
    }

    /// The client has shown a certificate, in this handshake or in the one whose session it resumes.
    pub fn has_client_certificate(&self) -> bool {
        match self {
            Self::Tls(stream) => stream.get_ref().1.peer_certificates().is_some(),
            Self::Tcp(_) | Self::Unix(_) | Self::Stream(_) => false,
        }
    }

    pub fn is_stream(&self) -> bool {
        matches!(self, Self::Stream(_))
    }

    /// TLS negotiated HTTP/2.
    pub fn chose_http2(&self) -> bool {
        matches!(self, Self::Tls(stream) if stream.get_ref().1.alpn_protocol() == Some(b"h2"))
    }

    /// Something between us and the socket may keep what was written until it is flushed.
    pub fn keeps_bytes(&self) -> bool {
        matches!(self, Self::Tls(_) | Self::Stream(_))
    }

    /// [`Io::send_file`] works.
    pub fn sends_files(&self) -> bool {
        !self.keeps_bytes()
    }

    /// Bytes on the wire that the client has taken since it connected.
    pub fn taken(&self) -> u64 {
        match self {
            Self::Tcp(stream) => stream.taken(),
            Self::Unix(stream) => stream.taken(),
            Self::Tls(stream) => stream.get_ref().0.taken(),
            Self::Stream(stream) => stream.taken(),
        }
    }

    /// Ready when there may be something to read. Under TLS and HTTP/2 always: only
    /// rustls and h2 know.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.socket.poll_read_ready(cx),
            Self::Unix(stream) => stream.socket.poll_read_ready(cx),
            Self::Tls(_) | Self::Stream(_) => Poll::Ready(Ok(())),
        }
    }

    /// Makes the end of a connection over TCP a reset, and resets a stream.
    pub fn end_by_reset(&mut self) {
        match self {
            Self::Tcp(stream) => drop(stream.socket.set_zero_linger()),
            Self::Stream(stream) => stream.reset(),
            Self::Unix(_) | Self::Tls(_) => {}
        }
    }

    /// Hands `bytes` to the kernel as the start of something larger, which it puts into the same
    /// packet (`MSG_MORE`, send(2)): at most as many as it takes now. 0 under TLS and HTTP/2.
    pub fn send_ahead(&mut self, bytes: &[u8]) -> usize {
        let flags = SendFlags::MORE | SendFlags::NOSIGNAL;
        // What is wrong with the connection shows again when the rest is sent.
        let sent = self.try_write(|socket| Ok(rustix::net::send(socket, bytes, flags)?));
        sent.and_then(Result::ok).unwrap_or(0)
    }

    /// Sends at most `len` bytes of `file` from `offset` without copying them through us: their
    /// number, 0 at the file's end.
    ///
    /// # Errors
    /// `WouldBlock` when the client takes nothing now, `Unsupported` when the connection cannot do
    /// that ([`Io::sends_files`]).
    pub fn send_file(
        &mut self,
        file: BorrowedFd<'_>,
        mut offset: u64,
        len: usize,
    ) -> io::Result<usize> {
        let sent = self
            .try_write(|socket| Ok(rustix::fs::sendfile(socket, file, Some(&mut offset), len)?));
        sent.unwrap_or_else(|| Err(io::ErrorKind::Unsupported.into()))
    }

    /// Runs `write` on the bare socket; `None` where nothing may be written past rustls or h2.
    fn try_write(
        &mut self,
        write: impl FnOnce(BorrowedFd<'_>) -> io::Result<usize>,
    ) -> Option<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => {
                let socket = &stream.socket;
                let written = socket.try_io(Interest::WRITABLE, || write(socket.as_fd()));
                stream.count(&written);
                Some(written)
            }
            Self::Unix(stream) => {
                let socket = &stream.socket;
                let written = socket.try_io(Interest::WRITABLE, || write(socket.as_fd()));
                stream.count(&written);
                Some(written)
            }
            Self::Tls(_) | Self::Stream(_) => None,
        }
    }

    /// Ready when the client takes more, or is gone.
    pub fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.socket.poll_write_ready(cx),
            Self::Unix(stream) => stream.socket.poll_write_ready(cx),
            Self::Tls(_) | Self::Stream(_) => Poll::Ready(Ok(())),
        }
    }
}
