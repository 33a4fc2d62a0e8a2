//! Bytes on their way to a client: in memory, then in a spool file while the client reads slowly.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

use super::http2::{FRAME, Stream};
use super::io::Io;
use super::share::{STEP, Share};
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
    /// Of the memory that the client's address may take.
    share: Share,
    /// Everything in memory is written, but TLS may hold some of it.
    needs_flush: bool,
}

impl Outgoing {
    pub fn new(share: Share) -> Self {
        Self {
            share,
            ..Self::default()
        }
    }

    /// Where the next bytes for the client are appended; [`Outgoing::settle`] follows.
    pub fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Nothing waits: not in memory, not in the file, not in what TLS keeps for itself.
    pub fn is_empty(&self) -> bool {
        self.sent == self.bytes.len() && self.file.is_none() && !self.needs_flush
    }

    /// More may be appended without holding more than [`IN_MEMORY`] bytes.
    pub fn has_room(&self) -> bool {
        self.file.is_none() && self.bytes.len() - self.sent < IN_MEMORY
    }

    /// Notes what is held; false when the client's address holds too much.
    pub fn note_held(&mut self) -> bool {
        self.share.hold(self.bytes.len() as u64)
    }

    /// The client's address holds as much as it may, most of it here.
    pub fn should_wait(&self) -> bool {
        self.file.as_ref().is_some_and(SpoolFile::should_wait)
    }

    /// Moves what memory may not hold to the spool file.
    pub fn settle(&mut self, budget: &Arc<Budget>) -> Result<(), SpoolError> {
        if self.file.is_none() {
            let keep = self.most(self.bytes.len().min(IN_MEMORY) as u64);
            if self.bytes.len() - self.sent <= keep {
                return Ok(());
            }
            self.file = Some(SpoolFile::create(budget, self.share.of_disk())?);
            self.boundary = self.sent + keep;
        }
        let Some(file) = &mut self.file else {
            return Ok(());
        };
        file.append(&self.bytes[self.boundary..])?;
        self.bytes.truncate(self.boundary);
        // A frame has up to 1 MiB; where little may be kept of it, its room is not kept either.
        if self.bytes.capacity() > 2 * self.boundary.max(KEEP) {
            self.bytes.shrink_to(self.boundary);
        }
        Ok(())
    }

    /// How many of `wanted` bytes may be appended now, which are noted as held: what is in a file already has no need to
    /// be in memory as well.
    pub fn room(&mut self, wanted: usize) -> usize {
        let held = (self.bytes.len() + wanted).min(IN_MEMORY);
        wanted.min(self.most(held as u64))
    }

    /// Bytes that memory may hold, of which so many are noted as held.
    fn most(&mut self, held: u64) -> usize {
        if self.share.hold_of_half(held) {
            return IN_MEMORY;
        }
        let few = STEP as usize - 1;
        // It may have had more before.
        self.bytes.shrink_to(few);
        few
    }

    /// Hands what is in memory to the kernel together with what follows next.
    pub fn send_ahead(&mut self, io: &mut Io) {
        if self.file.is_none() && self.sent < self.bytes.len() {
            self.sent += io.send_ahead(&self.bytes[self.sent..]);
            if self.sent == self.bytes.len() {
                self.bytes.clear();
                self.sent = 0;
            }
        }
    }

    /// Nothing is appended any more: a stream ends with what is here.
    pub fn finish(&mut self, io: &mut Io) {
        if let Io::Stream(stream) = io {
            stream.finish();
            self.needs_flush = true;
        }
    }

    /// Takes a response head from `mark` to the end for a stream, which sends it before the bytes
    /// that follow.
    pub fn take_head(&mut self, mark: usize, stream: &mut Stream) {
        stream.set_head(self.bytes.split_off(mark));
        self.needs_flush = true;
    }

    /// Sends as much as the connection takes; ready when nothing waits any more.
    pub fn poll_send(&mut self, cx: &mut Context<'_>, io: &mut Io) -> Poll<Result<(), ClientGone>> {
        while self.sent < self.bytes.len() {
            if let Io::Stream(stream) = io {
                stream.set_more(self.file.is_some());
            }
            let wrote = Pin::new(&mut *io).poll_write(cx, &self.bytes[self.sent..]);
            let Ok(count @ 1..) = ready!(wrote) else {
                return Poll::Ready(Err(ClientGone));
            };
            self.sent += count;
            self.needs_flush = io.keeps_bytes();
            if self.sent == self.bytes.len() {
                self.refill()?;
            } else if self.sent >= IN_MEMORY {
                // A reader who is always a little behind would have all of it kept.
                self.bytes.drain(..self.sent);
                self.boundary = self.boundary.saturating_sub(self.sent);
                self.sent = 0;
            }
        }
        if self.needs_flush {
            let flushed = ready!(Pin::new(io).poll_flush(cx));
            flushed.map_err(|_| ClientGone)?;
            self.needs_flush = false;
        }
        Poll::Ready(Ok(()))
    }

    /// As [`Outgoing::poll_send`], for what is read in steps: a stream keeps the last bytes of one for the
    /// next, with which they fill a frame.
    pub fn poll_step(&mut self, cx: &mut Context<'_>, io: &mut Io) -> Poll<Result<(), ClientGone>> {
        if io.is_stream() && self.file.is_none() && self.bytes.len() - self.sent < FRAME {
            return Poll::Ready(Ok(()));
        }
        self.poll_send(cx, io)
    }

    /// Takes the next spooled bytes into memory, whose own have all been sent.
    fn refill(&mut self) -> Result<(), ClientGone> {
        self.bytes.clear();
        (self.sent, self.boundary) = (0, 0);
        let Some(file) = &self.file else {
            // Its room stays for what follows, and TLS may make us wait here.
            if !self.share.hold(self.bytes.capacity() as u64) {
                self.bytes = Vec::new();
                self.share.hold(0);
            }
            return Ok(());
        };
        let unread = file.unread().min(IN_MEMORY as u64);
        let most = self.most(unread);
        let Some(file) = &mut self.file else {
            return Ok(());
        };
        self.bytes.shrink_to(most);
        file.read_into(&mut self.bytes, most)
            .map_err(|_| ClientGone)?;
        self.boundary = self.bytes.len();
        if file.unread() == 0 {
            self.file = None;
        }
        Ok(())
    }

    /// Gives the memory back; only when nothing waits.
    pub fn release(&mut self) {
        if self.is_empty() {
            self.share.hold(0);
            *self = Self::new(std::mem::take(&mut self.share));
        }
    }

    /// Frees what a large answer made the buffer grow to.
    pub fn shrink(&mut self) {
        if self.bytes.capacity() > KEEP {
            self.release();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::AsyncReadExt;
    use tokio::net::UnixStream;

    use super::*;

    fn on_a_runtime(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .expect("a runtime")
            .block_on(test);
    }

    #[test]
    fn what_was_sent_is_not_kept_for_a_reader_who_is_always_behind() {
        on_a_runtime(async {
            let (ours, mut theirs) = UnixStream::pair().expect("a pair");
            let (mut io, mut out) = (Io::Unix(ours.into()), Outgoing::default());
            let piece = [b'x'; 64 * 1024];
            let write = poll_fn(|cx| -> Poll<()> {
                loop {
                    if out.has_room() {
                        out.bytes().extend_from_slice(&piece);
                    }
                    ready!(out.poll_send(cx, &mut io)).expect("the reader is there");
                }
            });
            let read = async {
                let mut taken = [0; 64 * 1024];
                for _ in 0..500 {
                    theirs.read_exact(&mut taken).await.expect("bytes");
                }
            };
            tokio::select! { () = write => {}, () = read => {} }
            let kept = out.bytes().capacity();
            assert!(kept <= 4 * IN_MEMORY, "{kept} bytes");
        });
    }

    #[test]
    fn bytes_from_memory_and_file_come_in_order() {
        on_a_runtime(async {
            let budget = Arc::new(Budget::new(std::env::temp_dir(), 1 << 30));
            let (ours, mut theirs) = UnixStream::pair().expect("a pair");
            let (mut io, mut out) = (Io::Unix(ours.into()), Outgoing::default());
            let whole: Vec<u8> = (0..500_000_u32).flat_map(u32::to_be_bytes).collect();
            for piece in whole.chunks(70_000) {
                out.bytes().extend_from_slice(piece);
                out.settle(&budget).expect("room");
            }
            assert!(out.bytes().len() <= IN_MEMORY, "the rest is in the file");
            let mut taken = vec![0; whole.len()];
            let read = theirs.read_exact(&mut taken);
            let write = poll_fn(|cx| out.poll_send(cx, &mut io));
            let (read, sent) = tokio::join!(read, write);
            assert_eq!((read.expect("all of it"), sent), (whole.len(), Ok(())));
            assert!(taken == whole);
        });
    }
}
