//! Reading a request body: its framing, its limits, and where it waits for the app.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use ostler_wire::BodyKind;

use super::Times;
use super::buffer::Buffer;
use super::h1::chunked;
use super::h1::head::Framing;
use super::io::Io;
use super::reason::Reason;
use super::share::Share;
use super::spool::{Budget, SpoolError, SpoolFile};

/// Bytes of a request body that are kept in memory; a longer one is spooled.
pub const IN_MEMORY: usize = 64 * 1024;

/// Decodes a body from a connection, piece by piece.
pub struct BodyReader {
    framing: Decoder,
    /// Bytes decoded so far.
    received: u64,
    /// Bytes allowed; 0 is no limit.
    limit: u64,
    started: Instant,
    /// The client last sent something.
    heard: Instant,
}

enum Decoder {
    Done,
    Length(u64),
    Chunked(chunked::Decoder),
    UntilEnd,
}

impl BodyReader {
    /// Refuses at once a length that is over `limit` (bytes, 0 for none).
    pub fn new(framing: Framing, limit: u64, now: Instant) -> Result<Self, Reason> {
        let framing = match framing {
            Framing::None | Framing::Length(0) => Decoder::Done,
            Framing::Length(len) if limit > 0 && len > limit => return Err(Reason::BodyTooLarge),
            Framing::Length(len) => Decoder::Length(len),
            Framing::Chunked => Decoder::Chunked(chunked::Decoder::default()),
            Framing::UntilEnd => Decoder::UntilEnd,
        };
        Ok(Self {
            framing,
            received: 0,
            limit,
            started: now,
            heard: now,
        })
    }

    /// Bytes decoded so far.
    pub fn received(&self) -> u64 {
        self.received
    }

    pub fn is_done(&self) -> bool {
        matches!(self.framing, Decoder::Done)
    }

    /// When the body must have got further: no long silence, and after a grace a minimum average rate,
    /// so that any honest upload may take as long as it needs.
    pub fn deadline(&self, times: &Times) -> Instant {
        let slowest = self.started + times.body_grace + times.earned(self.received);
        slowest.min(self.heard + times.body_silence)
    }

    /// Leaves `time` out of the account: something else held the body up.
    pub fn excuse(&mut self, time: Duration) {
        self.started += time;
        self.heard += time;
    }

    /// Appends decoded bytes to `out`: ready after at least one byte, or when the body is whole.
    pub fn poll_piece(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut Io,
        buffer: &mut Buffer,
        out: &mut Vec<u8>,
    ) -> Poll<Result<(), Reason>> {
        let before = out.len();
        while !self.is_done() && out.len() == before {
            if buffer.is_empty() {
                match ready!(buffer.poll_fill(cx, io)) {
                    Ok(0) if matches!(self.framing, Decoder::UntilEnd) => {
                        self.framing = Decoder::Done;
                        break;
                    }
                    Ok(0) | Err(_) => return Poll::Ready(Err(Reason::BodyIncomplete)),
                    Ok(_) => self.heard = Instant::now(),
                }
            }
            self.decode(buffer, out)?;
            self.received += (out.len() - before) as u64;
            if self.limit > 0 && self.received > self.limit {
                return Poll::Ready(Err(Reason::BodyTooLarge));
            }
        }
        Poll::Ready(Ok(()))
    }

    fn decode(&mut self, buffer: &mut Buffer, out: &mut Vec<u8>) -> Result<(), Reason> {
        match &mut self.framing {
            Decoder::Done => {}
            Decoder::Length(left) => {
                let data = buffer.data();
                let count = data.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                out.extend_from_slice(&data[..count]);
                buffer.consume(count);
                *left -= count as u64;
                if *left == 0 {
                    self.framing = Decoder::Done;
                }
            }
            Decoder::UntilEnd => {
                out.extend_from_slice(buffer.data());
                buffer.consume(buffer.data().len());
            }
            Decoder::Chunked(decoder) => {
                let decoded = decoder.decode(buffer.data(), out)?;
                buffer.consume(decoded.consumed);
                if decoded.done {
                    self.framing = Decoder::Done;
                }
            }
        }
        Ok(())
    }
}

/// A whole request body.
#[derive(Debug, Default)]
pub enum Body {
    #[default]
    None,
    /// And the part of its address's memory that it has.
    Memory(
        Vec<u8>,
        #[expect(dead_code, reason = "held as long as the bytes are")] Share,
    ),
    File(SpoolFile),
}

impl Body {
    /// Bytes of the body.
    pub fn len(&self) -> u64 {
        match self {
            Self::None => 0,
            Self::Memory(bytes, _) => bytes.len() as u64,
            Self::File(file) => file.len(),
        }
    }

    /// Bytes it holds in memory.
    pub fn memory(&self) -> usize {
        match self {
            Self::None | Self::File(_) => 0,
            Self::Memory(bytes, _) => bytes.len(),
        }
    }

    /// A descriptor of a spooled body for a worker, which reads it from its start.
    pub fn readable(&self) -> Result<Option<OwnedFd>, Reason> {
        match self {
            Self::None | Self::Memory(..) => Ok(None),
            Self::File(file) => match file.read_only() {
                Ok(file) => Ok(Some(file)),
                Err(error) => Err(spool_refused(SpoolError::Io(error))),
            },
        }
    }

    /// How a worker gets it.
    pub fn kind(&self) -> BodyKind {
        match self {
            Self::None => BodyKind::None,
            Self::Memory(..) => BodyKind::Inline,
            Self::File(_) => BodyKind::File,
        }
    }

    /// The piece of the body in memory; empty for a spooled one.
    pub fn inline(&self) -> &[u8] {
        match self {
            Self::Memory(bytes, _) => bytes,
            Self::None | Self::File(_) => &[],
        }
    }
}

/// Collects a whole body.
pub struct Collector {
    memory: Vec<u8>,
    file: Option<SpoolFile>,
    budget: Arc<Budget>,
    share: Share,
}

impl Collector {
    pub fn new(budget: &Arc<Budget>, share: Share) -> Self {
        Self {
            memory: Vec::new(),
            file: None,
            budget: Arc::clone(budget),
            share,
        }
    }

    /// Where the next piece is appended.
    pub fn space(&mut self) -> &mut Vec<u8> {
        &mut self.memory
    }

    /// Moves what no longer fits in memory to the spool file.
    pub fn settle(&mut self) -> Result<(), Reason> {
        let held = self.memory.len() as u64;
        if held <= IN_MEMORY as u64 && self.share.hold_of_half(held) {
            return Ok(());
        }
        self.spill()
    }

    fn spill(&mut self) -> Result<(), Reason> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(
                SpoolFile::create(&self.budget, self.share.of_disk()).map_err(spool_refused)?,
            ),
        };
        file.append(&self.memory).map_err(spool_refused)?;
        self.memory.clear();
        Ok(())
    }

    /// The whole body.
    pub fn finish(mut self) -> Result<Body, Reason> {
        if self.file.is_some() && !self.memory.is_empty() {
            self.spill()?;
        }
        Ok(match self.file {
            Some(file) => Body::File(file),
            None if self.memory.is_empty() => Body::None,
            None => Body::Memory(self.memory, self.share),
        })
    }
}

/// What a request gets whose body, or whose answer, has no place to wait.
pub fn spool_refused(error: SpoolError) -> Reason {
    match error {
        SpoolError::Full => Reason::SpoolFull,
        SpoolError::Crowded => Reason::AddressFull,
        SpoolError::Io(error) => match error.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE) => {
                tracing::error!(%error, "cannot spool a body; hint: raise the descriptor limit (ulimit -n)");
                Reason::Overloaded
            }
            Some(libc::ENOSPC | libc::EDQUOT) => {
                tracing::error!(%error, "cannot spool a body; hint: is the disk full?");
                Reason::SpoolFull
            }
            // As in a container whose root is read-only: other requests are served.
            Some(libc::EROFS | libc::EACCES | libc::ENOENT) => {
                tracing::error!(%error, "cannot spool a body; hint: give a folder that is writable as TMPDIR or tmp_upload_dir");
                Reason::SpoolFull
            }
            _ => {
                tracing::error!(%error, "cannot spool a body; hint: is TMPDIR writable?");
                Reason::Internal
            }
        },
    }
}
