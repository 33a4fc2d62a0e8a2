//! What a client sends, by kinds of frames: the breaker of floods that cost little to send and more
//! to receive (threats E-12), and of frames that are none. Pure: bytes and the time in, a verdict out.
//!
//! `h2` limits what one kind may take of memory; nobody there counts work that leaves nothing behind. It ends a
//! connection over a frame of a wrong length, on a closed stream or with a broken header block as well, but with
//! PROTOCOL_ERROR, whatever the standard names.

use std::time::{Duration, Instant};

use h2::Reason;

use super::block::Block;
use super::opened::{Head, Opened};

/// RFC 9113 section 3.4.
const PREFACE: usize = 24;

/// Length, type, flags, stream (RFC 9113 section 4.1).
const HEAD: usize = 9;

/// Where a head says the kind of its frame.
const KIND: usize = 3;

/// The kind of frame that says that its sender goes away (section 6.8).
const GOAWAY: u8 = 7;

/// A kind of frame that no document names; who does not know one ignores it (section 5.5).
const UNKNOWN: u8 = 0xff;

/// What is counted is forgotten after this time.
const WINDOW: Duration = Duration::from_secs(10);

/// Streams that a client may reset within [`WINDOW`]: a browser does so for each image of a page that
/// is left, an attacker for each request (CVE-2023-44487).
const RESETS: u32 = 200;

/// Frames within [`WINDOW`] that carry nothing: a hundred a second is more than any client has.
const IDLE_FRAMES: u32 = 1000;

/// The largest window (RFC 9113 section 6.9.1).
const MOST_WINDOW: u32 = i32::MAX as u32;

/// SETTINGS_INITIAL_WINDOW_SIZE (RFC 9113 section 6.5.2).
const INITIAL_WINDOW: u16 = 4;

/// Identifier and value of one setting.
const SETTING: usize = 6;

// Flags of DATA and HEADERS (RFC 9113 sections 6.1 and 6.2); the second one is that of CONTINUATION too.
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 32;

/// Why a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breach {
    Resets,
    IdleFrames,
    /// A frame has another length than its kind (RFC 9113 section 4.2).
    FrameSize,
    /// A window larger than there is (section 6.5.2).
    Window,
    /// Only servers push (section 8.4).
    Push,
    /// The end of one stream by a GOAWAY (section 6.8).
    GoAway,
    /// More on a stream that the client has ended (section 5.1).
    Closed,
    /// A header block that cannot be decoded (section 4.3).
    Block,
    /// Pseudo-header fields in trailers (section 8.1).
    Trailers,
}

impl Breach {
    /// What there was too much of, when it was that.
    pub fn flood(self) -> Option<&'static str> {
        match self {
            Self::Resets => Some("resets"),
            Self::IdleFrames => Some("frames without a request"),
            Self::FrameSize
            | Self::Window
            | Self::Push
            | Self::GoAway
            | Self::Closed
            | Self::Block
            | Self::Trailers => None,
        }
    }

    /// What the client is told.
    pub fn reason(self) -> Reason {
        match self {
            Self::Resets | Self::IdleFrames => Reason::ENHANCE_YOUR_CALM,
            Self::FrameSize => Reason::FRAME_SIZE_ERROR,
            Self::Window => Reason::FLOW_CONTROL_ERROR,
            Self::Push | Self::GoAway | Self::Trailers => Reason::PROTOCOL_ERROR,
            Self::Closed => Reason::STREAM_CLOSED,
            Self::Block => Reason::COMPRESSION_ERROR,
        }
    }
}

/// What a meter says of bytes that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    pub breach: Option<Breach>,
    /// So many of them may be looked at by others.
    pub good: usize,
}

/// Counts the frames of one connection.
#[derive(Debug)]
pub struct Meter {
    /// Bytes of the present head that came.
    head: [u8; HEAD],
    filled: usize,
    /// Bytes until the next head.
    skip: usize,
    since: Instant,
    clients: u32,
    resets: u32,
    idle: u32,
    /// Since when a head is on its way: HEADERS until the frame that ends the block.
    head_since: Option<Instant>,
    /// The present frame ends the block.
    ends_head: bool,
    payload: Payload,
    /// The header block that is on its way, or was last.
    block: Block,
    is_trailers: bool,
    opened: Opened,
}

/// The present frame's payload.
#[derive(Debug)]
enum Payload {
    /// Of no interest here.
    Other,
    /// A setting, as far as it came.
    Settings([u8; SETTING], usize),
    /// A piece of a header block: its padding's length, the bytes before it, and those of itself.
    Fields {
        is_padded: bool,
        before: usize,
        length: usize,
    },
}

impl Meter {
    /// The limits hold for each of so many `clients`: one, or those of a proxy.
    pub fn new(now: Instant, clients: u32) -> Self {
        Self {
            clients,
            head: [0; HEAD],
            filled: 0,
            skip: PREFACE,
            since: now,
            resets: 0,
            idle: 0,
            head_since: None,
            ends_head: false,
            payload: Payload::Other,
            block: Block::new(),
            is_trailers: false,
            opened: Opened::default(),
        }
    }

    /// Since when the head of a request is on its way and not whole.
    pub fn head_since(&self) -> Option<Instant> {
        self.head_since
    }

    /// Counts what came, up to what ends the connection. A GOAWAY becomes a frame of a kind that nobody knows: a client
    /// says by it that it takes no streams of ours, which there are none of, and may go on (section 6.8), but `h2` would
    /// end a connection that has no stream just then.
    pub fn take(&mut self, bytes: &mut [u8], now: Instant) -> Taken {
        if now.duration_since(self.since) >= WINDOW {
            (self.since, self.resets, self.idle) = (now, 0, 0);
        }
        let mut at = 0;
        while at < bytes.len() {
            let rest = &mut bytes[at..];
            let (count, breach) = match self.skip {
                0 => self.take_head(rest, now),
                _ => self.take_payload(rest),
            };
            if breach.is_some() {
                // The frame's last byte never comes.
                return Taken { breach, good: at };
            }
            at += count;
        }
        Taken {
            breach: None,
            good: at,
        }
    }

    /// Takes bytes of a frame's head; gives their number.
    fn take_head(&mut self, rest: &mut [u8], now: Instant) -> (usize, Option<Breach>) {
        let count = (HEAD - self.filled).min(rest.len());
        self.head[self.filled..self.filled + count].copy_from_slice(&rest[..count]);
        let kind = KIND
            .checked_sub(self.filled)
            .and_then(|at| rest.get_mut(at));
        if let Some(kind @ &mut GOAWAY) = kind {
            *kind = UNKNOWN;
        }
        self.filled += count;
        if self.filled < HEAD {
            return (count, None);
        }
        self.filled = 0;
        let breach = self.flaw().or_else(|| self.count());
        (count, breach.or_else(|| self.begin(now)))
    }

    /// Takes bytes of a frame's payload, and before the first frame those of the preface.
    fn take_payload(&mut self, rest: &[u8]) -> (usize, Option<Breach>) {
        let count = self.skip.min(rest.len());
        let breach = self.look_at(&rest[..count]);
        self.skip -= count;
        (count, breach.or_else(|| self.end_head()))
    }

    /// What is wrong with the frame whose head is there.
    fn flaw(&self) -> Option<Breach> {
        const ACK: u8 = 1;
        let [_, _, _, kind, flags, ..] = self.head;
        let length = self.length();
        let good = match kind {
            // PRIORITY, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE
            2 => length == 5,
            3 | 8 => length == 4,
            4 if flags & ACK != 0 => length == 0,
            4 => length.is_multiple_of(SETTING),
            // PUSH_PROMISE
            5 => return Some(Breach::Push),
            6 => length == 8,
            GOAWAY if self.stream() != 0 => return Some(Breach::GoAway),
            GOAWAY => length >= 8,
            _ => true,
        };
        (!good).then_some(Breach::FrameSize)
    }

    fn length(&self) -> usize {
        let [a, b, c, ..] = self.head;
        usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c)
    }

    fn stream(&self) -> u32 {
        let [.., a, b, c, d] = self.head;
        // The highest bit means nothing (section 4.1).
        u32::from_be_bytes([a, b, c, d]) & (u32::MAX >> 1)
    }

    /// Begins the frame whose head is there: what it does to its stream, and what is looked at in it.
    fn begin(&mut self, now: Instant) -> Option<Breach> {
        let [_, _, _, kind, flags, ..] = self.head;
        let (length, stream) = (self.length(), self.stream());
        let ends = flags & END_STREAM != 0;
        let goes_on = self.head_since.is_some();
        self.payload = match kind {
            // Between the frames of a block `h2` takes nothing but CONTINUATION.
            0 | 1 if goes_on => Payload::Other,
            0 if self.opened.has_ended(stream) => return Some(Breach::Closed),
            1 => {
                let head = self.opened.head(stream, ends);
                if head == Head::Late {
                    return Some(Breach::Closed);
                }
                self.is_trailers = head == Head::Trailers;
                self.block = Block::new();
                fields(length, flags)
            }
            9 if goes_on => fields(length, 0),
            4 => Payload::Settings([0; SETTING], 0),
            _ => Payload::Other,
        };
        if (kind, ends) == (0, true) || kind == 3 {
            self.opened.end(stream);
        }
        if matches!(kind, 1 | 9) {
            self.head_since.get_or_insert(now);
            self.ends_head = flags & END_HEADERS != 0;
        }
        self.end_head()
    }

    /// Looks through a piece of the present frame's payload.
    fn look_at(&mut self, piece: &[u8]) -> Option<Breach> {
        match &mut self.payload {
            Payload::Other => None,
            Payload::Settings(setting, filled) => {
                let good = piece.iter().all(|&byte| {
                    setting[*filled] = byte;
                    *filled = (*filled + 1) % SETTING;
                    let [a, b, value @ ..] = *setting;
                    let is_window = *filled == 0 && u16::from_be_bytes([a, b]) == INITIAL_WINDOW;
                    !is_window || u32::from_be_bytes(value) <= MOST_WINDOW
                });
                (!good).then_some(Breach::Window)
            }
            Payload::Fields {
                is_padded,
                before,
                length,
            } => {
                if std::mem::take(is_padded) {
                    match length.checked_sub(piece[0].into()) {
                        Some(without) => *length = without,
                        // `h2` says what is wrong with it.
                        None => {
                            self.payload = Payload::Other;
                            return None;
                        }
                    }
                }
                let skipped = piece.len().min(*before);
                *before -= skipped;
                let fields = &piece[skipped..];
                let fields = &fields[..fields.len().min(*length)];
                *length -= fields.len();
                self.block.take(fields).err().map(|_| Breach::Block)
            }
        }
    }

    /// Ends the head of a request or its trailers, when the last byte of it is there.
    fn end_head(&mut self) -> Option<Breach> {
        if self.skip > 0 || !std::mem::take(&mut self.ends_head) {
            return None;
        }
        self.head_since = None;
        match std::mem::replace(&mut self.payload, Payload::Other) {
            Payload::Fields { .. } if !self.block.is_whole() => Some(Breach::Block),
            Payload::Fields { .. } if self.is_trailers && self.block.names_pseudo() => {
                Some(Breach::Trailers)
            }
            Payload::Fields { .. } | Payload::Settings(..) | Payload::Other => None,
        }
    }

    /// Counts the frame whose head is there.
    fn count(&mut self) -> Option<Breach> {
        let [_, _, _, kind, flags, ..] = self.head;
        self.skip = self.length();
        match kind {
            // DATA; an empty one may say that a body ends.
            0 if self.skip == 0 && flags & END_STREAM == 0 => self.idle += 1,
            // HEADERS and CONTINUATION: `h2` bounds how many of these belong together. WINDOW_UPDATE: a
            // client with small windows sends two for each of our frames, and one that lets us send a few
            // bytes at a time (CVE-2019-9511) costs less than one that sends requests.
            0 | 1 | 8 | 9 => {}
            // RST_STREAM
            3 => self.resets += 1,
            // PRIORITY, SETTINGS, PING, and what nobody knows.
            _ => self.idle += 1,
        }
        if self.resets > RESETS * self.clients {
            Some(Breach::Resets)
        } else if self.idle > IDLE_FRAMES * self.clients {
            Some(Breach::IdleFrames)
        } else {
            None
        }
    }
}

/// The payload of a frame of a header block (section 6.2); one that has no room for what its flags say is for `h2`.
fn fields(length: usize, flags: u8) -> Payload {
    let is_padded = flags & PADDED != 0;
    let before = usize::from(is_padded) + if flags & PRIORITY != 0 { 5 } else { 0 };
    match length.checked_sub(before) {
        Some(length) => Payload::Fields {
            is_padded,
            before,
            length,
        },
        None => Payload::Other,
    }
}

#[cfg(test)]
mod tests;
