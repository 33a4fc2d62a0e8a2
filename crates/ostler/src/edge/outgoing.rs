//! Bytes on their way to a client: in memory, then in a spool file while the client reads slowly.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

use super::io::Io;
use super::spool::{Budget, SpoolError, SpoolFile};

/// Bytes of a response that wait in memory; more goes to a file or waits at the worker.
pub const IN_MEMORY: usize = 256 * 1024;

/// Memory a connection keeps for its next answer, in bytes.
const KEEP: usize = 16 * 1024;

/// The client is gone or takes nothing more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientGone;

/// A queue of bytes. What is in memory is older than what is in the file.
#[derive(Debug, Default)]
pub struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
    /// Where the part of `bytes` ends that is older than the file; only while there is a file.
    boundary: usize,
    file: Option<SpoolFile>,
}

impl Outgoing {
    /// Where the next bytes for the client are appended; [`Outgoing::settle`] follows.
    pub fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Nothing waits in memory.
    pub fn is_empty(&self) -> bool {
        self.sent == self.bytes.len()
    }

    /// More may be appended without holding more than [`IN_MEMORY`] bytes.
    pub fn has_room(&self) -> bool {
        self.file.is_none() && self.bytes.len() - self.sent < IN_MEMORY
    }

    /// Moves what memory may not hold to the spool file.
    pub fn settle(&mut self, budget: &Arc<Budget>) -> Result<(), SpoolError> {
        if self.file.is_none() {
            if self.bytes.len() - self.sent <= IN_MEMORY {
                return Ok(());
            }
            self.file = Some(SpoolFile::create(budget)?);
            self.boundary = self.sent + IN_MEMORY;
        }
        let Some(file) = &mut self.file else {
            return Ok(());
        };
        file.append(&self.bytes[self.boundary..])?;
        self.bytes.truncate(self.boundary);
        Ok(())
    }

    /// Hands what is in memory to the kernel together with what follows next.
    pub fn send_ahead(&mut self, io: &Io) {
        if self.file.is_none() && !self.is_empty() {
            self.sent += io.send_ahead(&self.bytes[self.sent..]);
            if self.is_empty() {
                self.bytes.clear();
                self.sent = 0;
            }
        }
    }

    /// Writes once; ready with the bytes that went. TLS is flushed when memory is empty.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, io: &mut Io) -> Poll<io::Result<usize>> {
        let mut count = 0;
        if !self.is_empty() {
            count = ready!(Pin::new(&mut *io).poll_write(cx, &self.bytes[self.sent..]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += count;
        }
        if self.is_empty() {
            self.bytes.clear();
            (self.sent, self.boundary) = (0, 0);
            if io.is_tls() {
                ready!(Pin::new(io).poll_flush(cx))?;
            }
        }
        Poll::Ready(Ok(count))
    }

    /// Takes the next spooled bytes into memory, once memory is empty.
    pub fn refill(&mut self) -> Result<(), ClientGone> {
        let Some(file) = &mut self.file else {
            return Ok(());
        };
        if file.read_into(&mut self.bytes, IN_MEMORY).is_err() {
            return Err(ClientGone);
        }
        self.boundary = self.bytes.len();
        if file.unread() == 0 {
            self.file = None;
        }
        Ok(())
    }

    /// Gives the memory back; only when nothing waits.
    pub fn release(&mut self) {
        if self.is_empty() {
            *self = Self::default();
        }
    }

    /// Frees what a large answer made the buffer grow to.
    pub fn shrink(&mut self) {
        if self.bytes.capacity() > KEEP {
            self.release();
        }
    }
}
