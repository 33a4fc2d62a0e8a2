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
            Self::Push | Self::Trailers => Reason::PROTOCOL_ERROR,
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

    /// Counts what came, up to what ends the connection.
    pub fn take(&mut self, bytes: &[u8], now: Instant) -> Taken {
        if now.duration_since(self.since) >= WINDOW {
            (self.since, self.resets, self.idle) = (now, 0, 0);
        }
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
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
    fn take_head(&mut self, rest: &[u8], now: Instant) -> (usize, Option<Breach>) {
        let count = (HEAD - self.filled).min(rest.len());
        self.head[self.filled..self.filled + count].copy_from_slice(&rest[..count]);
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
mod tests {
    use super::*;

    /// On stream 1; a header block is many times the field 16 of the static table.
    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let fill = if matches!(kind, 1 | 9) { 0x90 } else { 0 };
        frame_of(1, kind, flags, &vec![fill; payload])
    }

    fn frame_of(stream: u32, kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = &(payload.len() as u32).to_be_bytes()[1..];
        [length, &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }

    /// How many frames are taken before one is too much, however they are cut.
    fn taken(kind: u8, flags: u8, payload: usize) -> Option<usize> {
        let seen = [1, 7, 4096].map(|cut| {
            let now = Instant::now();
            let mut meter = Meter::new(now, 1);
            assert_eq!(meter.take(&[b'x'; PREFACE], now).breach, None);
            (0..20_000).find(|number| {
                let mut frame = frame(kind, flags, payload);
                if kind == 1 {
                    let stream = 2 * *number as u32 + 1;
                    frame[5..HEAD].copy_from_slice(&stream.to_be_bytes());
                }
                frame
                    .chunks(cut)
                    .any(|piece| meter.take(piece, now).breach.is_some())
            })
        });
        assert!(seen.windows(2).all(|pair| pair[0] == pair[1]), "{seen:?}");
        seen[0]
    }

    #[test]
    fn floods_are_told_from_traffic() {
        assert_eq!(taken(3, 0, 4), Some(RESETS as usize));
        for (kind, payload) in [(4, 0), (6, 8), (2, 5), (99, 300), (0, 0)] {
            assert_eq!(
                taken(kind, 0, payload),
                Some(IDLE_FRAMES as usize),
                "{kind}"
            );
        }
        assert_eq!(taken(8, 0, 4), None);
        assert_eq!(taken(0, 1, 0), None, "the ends of bodies");
        assert_eq!(taken(0, 0, 1000), None);
        assert_eq!(taken(1, 5, 100), None);
    }

    #[test]
    fn a_head_is_on_its_way_until_its_last_byte() {
        let now = Instant::now();
        let mut meter = Meter::new(now, 1);
        let mut sees = |bytes: &[u8]| {
            assert_eq!(meter.take(bytes, now).breach, None);
            meter.head_since().is_some()
        };
        assert!(!sees(&[b'x'; PREFACE]));
        assert!(!sees(&frame(1, 4, 10)), "whole at once");
        assert!(!sees(&frame(1, 4, 0)));
        let (start, rest) = (&frame(1, 4, 10)[..15], &frame(1, 4, 10)[15..]);
        assert!(sees(start) && !sees(rest));
        assert!(sees(&frame(1, 0, 10)) && sees(&frame(9, 0, 10)) && sees(&frame(9, 0, 0)));
        assert!(!sees(&frame(9, 4, 10)));
        assert!(!sees(&frame(0, 0, 10)[..12]), "a body");
    }

    #[test]
    fn a_proxy_may_do_what_its_clients_may() {
        let now = Instant::now();
        let mut meter = Meter::new(now, 10);
        assert_eq!(meter.take(&[b'x'; PREFACE], now).breach, None);
        let taken = (0..9999).find(|_| meter.take(&frame(3, 0, 4), now).breach.is_some());
        assert_eq!(taken, Some(10 * RESETS as usize));
    }

    #[test]
    fn what_was_long_ago_does_not_count() {
        let start = Instant::now();
        let mut meter = Meter::new(start, 1);
        assert_eq!(meter.take(&[b'x'; PREFACE], start).breach, None);
        for second in 0..100 {
            for _ in 0..20 {
                let now = start + Duration::from_secs(second);
                assert_eq!(meter.take(&frame(3, 0, 4), now).breach, None, "{second}");
            }
        }
    }

    /// What is said of a frame behind a good one, however they are cut, and how much of both is good at least.
    fn said(frame: &[u8]) -> Option<Breach> {
        let all = [&super::tests::frame(6, 0, 8)[..], frame].concat();
        let seen = [1, 5, 4096].map(|cut| {
            let now = Instant::now();
            let mut meter = Meter::new(now, 1);
            assert_eq!(meter.take(&[b'x'; PREFACE], now).breach, None);
            let mut good = 0;
            for piece in all.chunks(cut) {
                let taken = meter.take(piece, now);
                good += taken.good;
                if taken.breach.is_some() {
                    assert!((HEAD + 8..all.len()).contains(&good), "{good}");
                    return taken.breach;
                }
            }
            assert_eq!(good, all.len());
            None
        });
        assert!(seen.windows(2).all(|pair| pair[0] == pair[1]), "{seen:?}");
        seen[0]
    }

    #[test]
    fn a_frame_has_the_length_of_its_kind() {
        for (kind, flags, good, bad) in [
            (2, 0, 5, 4),
            (3, 0, 4, 5),
            (4, 0, 12, 11),
            (4, 1, 0, 6),
            (6, 0, 8, 7),
            (8, 0, 4, 3),
        ] {
            assert_eq!(said(&frame(kind, flags, good)), None, "{kind}");
            let breach = said(&frame(kind, flags, bad));
            assert_eq!(breach, Some(Breach::FrameSize), "{kind}");
        }
        assert_eq!(said(&frame(5, 4, 10)), Some(Breach::Push));
        assert_eq!(said(&frame(99, 0, 3)), None);
    }

    #[test]
    fn no_window_is_larger_than_there_is() {
        let settings = |window: u32| {
            let mut all = frame(4, 0, 12);
            all[HEAD + 1] = 3;
            all[HEAD + 6 + 1] = 4;
            all[HEAD + 6 + 2..].copy_from_slice(&window.to_be_bytes());
            all
        };
        assert_eq!(said(&settings(0x7fff_ffff)), None);
        assert_eq!(said(&settings(0x8000_0000)), Some(Breach::Window));
    }

    /// What is said of the last of some frames, however they are cut; the others are good.
    fn said_of_last(frames: &[Vec<u8>]) -> Option<Breach> {
        let (last, before) = frames.split_last().expect("a frame");
        let before = before.concat();
        let seen = [1, 3, 4096].map(|cut| {
            let now = Instant::now();
            let mut meter = Meter::new(now, 1);
            assert_eq!(meter.take(&[b'x'; PREFACE], now).breach, None);
            for piece in before.chunks(cut) {
                assert_eq!(meter.take(piece, now).breach, None);
            }
            let mut taken = last.chunks(cut).map(|piece| meter.take(piece, now).breach);
            taken.find_map(|breach| breach)
        });
        assert!(seen.windows(2).all(|pair| pair[0] == pair[1]), "{seen:?}");
        seen[0]
    }

    #[test]
    fn on_a_stream_that_the_client_has_ended_nothing_follows() {
        let head = |flags| frame(1, flags, 3);
        let data = |flags| frame(0, flags, 3);
        let closed = Some(Breach::Closed);
        assert_eq!(said_of_last(&[head(5), data(1)]), closed);
        assert_eq!(said_of_last(&[head(5), head(5)]), closed);
        assert_eq!(said_of_last(&[head(4), data(1), data(0)]), closed);
        assert_eq!(said_of_last(&[head(4), frame(3, 0, 4), head(5)]), closed);
        assert_eq!(said_of_last(&[head(4), data(0), head(5), data(1)]), closed);
        // What may still come, and what is for `h2`.
        for (kind, length) in [(2, 5), (3, 4), (8, 4), (9, 3), (99, 3)] {
            assert_eq!(said_of_last(&[head(5), frame(kind, 4, length)]), None);
        }
        assert_eq!(said_of_last(&[head(1), data(1)]), None, "in a block");
        assert_eq!(said_of_last(&[head(5), frame_of(3, 0, 1, b"x")]), None);
        let reserved = frame_of(0x8000_0001, 0, 1, b"x");
        assert_eq!(said_of_last(&[head(5), reserved]), closed);
    }

    #[test]
    fn a_block_that_cannot_be_decoded_ends_the_connection() {
        let head = |flags, payload: &[u8]| frame_of(1, 1, flags, payload);
        let more = |flags, payload: &[u8]| frame_of(1, 9, flags, payload);
        let block = Some(Breach::Block);
        assert_eq!(said_of_last(&[head(5, b"\x40")]), block);
        assert_eq!(said_of_last(&[head(1, b"\x40"), more(4, b"")]), block);
        assert_eq!(
            said_of_last(&[head(1, b"\x40"), more(4, b"\x01a\x00")]),
            None
        );
        assert_eq!(said_of_last(&[head(1, b""), more(0, b"\x80")]), block);
        // Padding, and what once was a priority, are not of the block; padding that is too long is for `h2`.
        assert_eq!(said_of_last(&[head(5 | PADDED, b"\x02\x90\x80\x80")]), None);
        assert_eq!(
            said_of_last(&[head(5 | PADDED, b"\x02\x80\x80\x80")]),
            block
        );
        assert_eq!(said_of_last(&[head(5 | PADDED, b"\x04\x80\x80\x80")]), None);
        assert_eq!(said_of_last(&[head(5 | PADDED, b"")]), None);
        let both = 5 | PADDED | PRIORITY;
        assert_eq!(
            said_of_last(&[head(both, b"\x01\x80\x80\x80\x80\x80\x90\x80")]),
            None
        );
        assert_eq!(
            said_of_last(&[head(both, b"\x01\x80\x80\x80\x80\x80\x80\x80")]),
            block
        );
        assert_eq!(said_of_last(&[head(5 | PRIORITY, b"\x80\x80")]), None);
    }

    #[test]
    fn trailers_have_no_pseudo_header_fields() {
        let [request, trailers] = [4, 5].map(|flags| frame_of(1, 1, flags, b"\x83"));
        let breach = said_of_last(&[request.clone(), frame(0, 0, 3), trailers]);
        assert_eq!(breach, Some(Breach::Trailers));
        let cut = [
            request.clone(),
            frame_of(1, 1, 1, b"\x04"),
            frame_of(1, 9, 4, b"\x00"),
        ];
        assert_eq!(said_of_last(&cut), Some(Breach::Trailers));
        assert_eq!(said_of_last(&[request, frame(1, 5, 3)]), None);
    }
}
