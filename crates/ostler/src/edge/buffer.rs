//! The bytes a client has sent and nobody has consumed yet.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

use super::io::Io;

/// The first size of the buffer, in bytes: a normal request fits.
const FIRST: usize = 4 * 1024;

/// The size it may grow to, in bytes: the longest head, or a good piece of a body.
const MOST: usize = 64 * 1024;

/// A read buffer that gives its memory back while a connection is idle.
#[derive(Debug, Default)]
pub struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Buffer {
    /// What came and was not consumed.
    pub fn data(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// False while the connection is idle and holds no buffer.
    pub fn has_memory(&self) -> bool {
        !self.bytes.is_empty()
    }

    /// Drops the first `count` bytes of [`Buffer::data`].
    pub fn consume(&mut self, count: usize) {
        self.start += count;
        debug_assert!(self.start <= self.end);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Gives the memory back, unless there is something in it.
    pub fn release(&mut self) {
        if self.is_empty() {
            *self = Self::default();
        }
    }

    /// Reads once, growing when full; 0 is the end of the stream. A full buffer of [`MOST`] bytes
    /// is an error: the caller's own limits are lower.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>, io: &mut Io) -> Poll<io::Result<usize>> {
        if self.end == self.bytes.len() {
            self.make_room()?;
        }
        let mut space = ReadBuf::new(&mut self.bytes[self.end..]);
        ready!(Pin::new(io).poll_read(cx, &mut space))?;
        let count = space.filled().len();
        self.end += count;
        Poll::Ready(Ok(count))
    }

    fn make_room(&mut self) -> io::Result<()> {
        if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        } else if self.bytes.len() < MOST {
            self.bytes
                .resize((self.bytes.len() * 4).clamp(FIRST, MOST), 0);
        } else {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        Ok(())
    }
}
