//! What a client sends, by kinds of frames: the breaker of floods that cost little to send and more
//! to receive (threats E-12). Pure: bytes and the time in, a verdict out.
//!
//! `h2` limits what one kind may take of memory; nobody there counts work that leaves nothing behind.

use std::time::{Duration, Instant};

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

/// Which limit a client has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flood {
    Resets,
    IdleFrames,
}

impl Flood {
    /// What there was too much of.
    pub fn name(self) -> &'static str {
        match self {
            Self::Resets => "resets",
            Self::IdleFrames => "frames without a request",
        }
    }
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
        }
    }

    /// Since when the head of a request is on its way and not whole.
    pub fn head_since(&self) -> Option<Instant> {
        self.head_since
    }

    /// Counts what came; `Some` once it is too much.
    pub fn take(&mut self, mut bytes: &[u8], now: Instant) -> Option<Flood> {
        if now.duration_since(self.since) >= WINDOW {
            (self.since, self.resets, self.idle) = (now, 0, 0);
        }
        let mut flood = None;
        while !bytes.is_empty() {
            if self.skip > 0 {
                let count = self.skip.min(bytes.len());
                self.skip -= count;
                bytes = &bytes[count..];
                self.end_head();
                continue;
            }
            let count = (HEAD - self.filled).min(bytes.len());
            self.head[self.filled..self.filled + count].copy_from_slice(&bytes[..count]);
            self.filled += count;
            bytes = &bytes[count..];
            if self.filled == HEAD {
                self.filled = 0;
                flood = flood.or(self.count());
                self.note_head(now);
            }
        }
        flood
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
    fn count(&mut self) -> Option<Flood> {
        const END_STREAM: u8 = 1;
        let [a, b, c, kind, flags, ..] = self.head;
        self.skip = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
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
            Some(Flood::Resets)
        } else if self.idle > IDLE_FRAMES * self.clients {
            Some(Flood::IdleFrames)
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
            assert_eq!(meter.take(&[b'x'; PREFACE], now), None);
            (0..20_000).find(|_| {
                let frame = frame(kind, flags, payload);
                frame
                    .chunks(cut)
                    .any(|piece| meter.take(piece, now).is_some())
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
            assert_eq!(meter.take(bytes, now), None);
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
        assert_eq!(meter.take(&[b'x'; PREFACE], now), None);
        let taken = (0..9999).find(|_| meter.take(&frame(3, 0, 4), now).is_some());
        assert_eq!(taken, Some(10 * RESETS as usize));
    }

    #[test]
    fn what_was_long_ago_does_not_count() {
        let start = Instant::now();
        let mut meter = Meter::new(start, 1);
        assert_eq!(meter.take(&[b'x'; PREFACE], start), None);
        for second in 0..100 {
            for _ in 0..20 {
                let now = start + Duration::from_secs(second);
                assert_eq!(meter.take(&frame(3, 0, 4), now), None, "{second}");
            }
        }
    }
}
