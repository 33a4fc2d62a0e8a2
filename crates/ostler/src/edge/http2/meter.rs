//! What a client sends, by kinds of frames: the breaker of floods that cost little to send and more
//! to receive (threats E-12), and of frames that are none. Pure: bytes and the time in, a verdict out.
//!
//! `h2` limits what one kind may take of memory; nobody there counts work that leaves nothing behind. It ends a
//! connection over a frame of a wrong length as well, but with PROTOCOL_ERROR, whatever the standard names.

use std::time::{Duration, Instant};

use h2::Reason;

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
}

impl Breach {
    /// What there was too much of, when it was that.
    pub fn flood(self) -> Option<&'static str> {
        match self {
            Self::Resets => Some("resets"),
            Self::IdleFrames => Some("frames without a request"),
            Self::FrameSize | Self::Window | Self::Push => None,
        }
    }

    /// What the client is told.
    pub fn reason(self) -> Reason {
        match self {
            Self::Resets | Self::IdleFrames => Reason::ENHANCE_YOUR_CALM,
            Self::FrameSize => Reason::FRAME_SIZE_ERROR,
            Self::Window => Reason::FLOW_CONTROL_ERROR,
            Self::Push => Reason::PROTOCOL_ERROR,
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
    /// Of the present frame, when it is SETTINGS: a setting, as far as it came.
    setting: Option<([u8; SETTING], usize)>,
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
            setting: None,
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
            if self.skip > 0 {
                let count = self.skip.min(rest.len());
                if !self.settings_are_good(&rest[..count]) {
                    // The frame's last byte never comes.
                    let breach = Some(Breach::Window);
                    return Taken { breach, good: at };
                }
                self.skip -= count;
                at += count;
                self.end_head();
                continue;
            }
            let count = (HEAD - self.filled).min(rest.len());
            self.head[self.filled..self.filled + count].copy_from_slice(&rest[..count]);
            self.filled += count;
            if self.filled == HEAD {
                self.filled = 0;
                if let breach @ Some(_) = self.flaw().or_else(|| self.count()) {
                    return Taken { breach, good: at };
                }
                self.note_head(now);
            }
            at += count;
        }
        Taken {
            breach: None,
            good: at,
        }
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

    /// Looks through a piece of the present frame's payload, if that is SETTINGS.
    fn settings_are_good(&mut self, piece: &[u8]) -> bool {
        let Some((setting, filled)) = &mut self.setting else {
            return true;
        };
        piece.iter().all(|&byte| {
            setting[*filled] = byte;
            *filled = (*filled + 1) % SETTING;
            let [a, b, value @ ..] = *setting;
            let is_window = *filled == 0 && u16::from_be_bytes([a, b]) == INITIAL_WINDOW;
            !is_window || u32::from_be_bytes(value) <= MOST_WINDOW
        })
    }

    fn note_head(&mut self, now: Instant) {
        const END_HEADERS: u8 = 4;
        let [.., kind, flags, _, _, _, _] = self.head;
        if matches!(kind, 1 | 9) {
            self.head_since.get_or_insert(now);
            self.ends_head = flags & END_HEADERS != 0;
            self.end_head();
        }
    }

    fn end_head(&mut self) {
        if self.skip == 0 && std::mem::take(&mut self.ends_head) {
            self.head_since = None;
        }
    }

    /// Counts the frame whose head is there.
    fn count(&mut self) -> Option<Breach> {
        const END_STREAM: u8 = 1;
        let [_, _, _, kind, flags, ..] = self.head;
        self.skip = self.length();
        self.setting = (kind == 4).then_some(([0; SETTING], 0));
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

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let mut frame = vec![
            0,
            (payload >> 8) as u8,
            payload as u8,
            kind,
            flags,
            0,
            0,
            0,
            1,
        ];
        frame.resize(HEAD + payload, 0);
        frame
    }

    /// How many frames are taken before one is too much, however they are cut.
    fn taken(kind: u8, flags: u8, payload: usize) -> Option<usize> {
        let seen = [1, 7, 4096].map(|cut| {
            let now = Instant::now();
            let mut meter = Meter::new(now, 1);
            assert_eq!(meter.take(&[b'x'; PREFACE], now).breach, None);
            (0..20_000).find(|_| {
                let frame = frame(kind, flags, payload);
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
}
