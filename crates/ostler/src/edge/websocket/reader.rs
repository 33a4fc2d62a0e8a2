//! Bytes of a client → messages: fragments joined, decompressed and checked as they come, so that
//! nothing wrong is kept longer than it must be. No I/O, no clock but the one that is passed in.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::edge::share::Share;

use super::data::{self, Data, LARGE};
use super::deflate::Inflate;
use super::frame::{Head, Opcode, Violation, decode_close, unmask};
use super::{Event, Settings};

/// Pings and pongs that a client may send within [`FLOOD_WINDOW`]; nobody needs more than one a
/// second, and each costs a system call.
const FLOOD: u32 = 100;
const FLOOD_WINDOW: Duration = Duration::from_secs(10);

/// Compressed bytes decompressed in one step. Each may become a thousand, so this is about a
/// millisecond of one edge thread, after which others have their turn.
const INFLATE_STEP: usize = 1024;

/// Where messages may be larger than this, their buffers double all the same: it is address space.
const AT_ONCE: usize = 64 << 20;

/// What one step of reading gave.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// A message, or the client's close.
    Event(Event),
    /// A ping to answer.
    Ping(Vec<u8>),
    /// Progress; call again.
    More,
    /// Nothing until more bytes come.
    Wait,
    /// Nothing until there is [`Reader::room`].
    Full,
}

/// Reads one connection.
pub struct Reader {
    max_frame: usize,
    max_message: usize,
    may_compress: bool,
    frame: Option<Frame>,
    message: Option<Message>,
    /// Of the memory that the client's address may take: the message's.
    share: Share,
    /// More of the message is here than `share` has.
    is_full: bool,
    /// With those who have the messages before, and told when one of these is gone.
    before: Arc<Notify>,
    flood_since: Option<Instant>,
    flood: u32,
}

/// A frame whose head has come.
struct Frame {
    head: Head,
    /// Payload bytes that have been taken.
    at: usize,
    /// The payload so far, of a control frame.
    control: Vec<u8>,
}

/// A message whose last frame has not ended.
struct Message {
    is_text: bool,
    inflate: Option<Inflate>,
    data: Vec<u8>,
    /// How much of `data` is known to be UTF-8.
    checked: usize,
}

impl Reader {
    pub fn new(settings: &Settings, may_compress: bool, share: Share) -> Self {
        Self {
            max_frame: settings.max_frame,
            max_message: settings.max_message,
            may_compress,
            frame: None,
            message: None,
            share,
            is_full: false,
            before: Arc::default(),
            flood_since: None,
            flood: 0,
        }
    }

    /// Drops a message of which nothing more is wanted.
    pub fn forget(&mut self) {
        if let Some(message) = self.message.take() {
            data::free(message.data, &self.share);
        }
        self.share.hold(0);
        self.is_full = false;
    }

    /// Resolves when a message before is gone.
    pub async fn room(&self) {
        self.before.notified().await;
    }

    /// Takes bytes off the front of `input`.
    pub fn step(&mut self, input: &mut Input, now: Instant) -> Result<Step, Violation> {
        if self.is_full && !self.note_held() {
            // What waits for the app makes room when it goes on; a message that never ends does not.
            return match Arc::strong_count(&self.before) {
                1 => Err(Violation::AddressFull),
                _ => Ok(Step::Full),
            };
        }
        match self.frame.take() {
            Some(frame) => self.payload(frame, input),
            None => self.head(input, now),
        }
    }

    fn head(&mut self, input: &mut Input, now: Instant) -> Result<Step, Violation> {
        let Some((head, used)) = Head::decode(input.unread(), self.may_compress, self.max_frame)?
        else {
            return Ok(Step::Wait);
        };
        match (head.opcode, &self.message) {
            (Opcode::Continuation, None) => return Err(Violation::StrayContinuation),
            (Opcode::Text | Opcode::Binary, Some(_)) => return Err(Violation::MissingContinuation),
            (Opcode::Text | Opcode::Binary, None) => self.message = Some(Message::new(head)),
            (Opcode::Ping | Opcode::Pong, _) => self.count_control(now)?,
            (Opcode::Continuation, Some(_)) | (Opcode::Close, _) => {}
        }
        let so_far = self
            .message
            .as_ref()
            .map_or(0, |message| message.data.len());
        if !head.opcode.is_control() && so_far.saturating_add(head.len) > self.message_limit() {
            return Err(Violation::MessageTooBig);
        }
        input.take(used);
        self.frame = Some(Frame {
            head,
            at: 0,
            control: Vec::new(),
        });
        Ok(Step::More)
    }

    /// What a message may hold as it arrives. Compressed bytes say nothing about the message, so
    /// only what they become is counted, in [`Inflate::push`].
    fn message_limit(&self) -> usize {
        match &self.message {
            Some(Message {
                inflate: Some(_), ..
            }) => usize::MAX,
            Some(_) | None => self.max_message,
        }
    }

    fn payload(&mut self, mut frame: Frame, input: &mut Input) -> Result<Step, Violation> {
        let left = frame.head.len - frame.at;
        let step = match &self.message {
            Some(message) if message.inflate.is_some() && !frame.head.opcode.is_control() => {
                left.min(INFLATE_STEP)
            }
            Some(_) | None => left,
        };
        let piece = input.take(step);
        if piece.is_empty() && left > 0 {
            self.frame = Some(frame);
            return Ok(Step::Wait);
        }
        unmask(piece, frame.head.mask, frame.at);
        frame.at += piece.len();
        let is_whole = frame.at == frame.head.len;
        if frame.head.opcode.is_control() {
            frame.control.extend_from_slice(piece);
        } else if let Some(message) = &mut self.message {
            message.push(piece, self.max_message)?;
            self.note_held();
        }
        if is_whole {
            return self.end_frame(frame);
        }
        self.frame = Some(frame);
        Ok(Step::More)
    }

    /// Notes what the message takes; false when the client's address holds too much.
    fn note_held(&mut self) -> bool {
        let message = self.message.as_ref();
        let held = message.map_or(0, |message| message.data.len());
        self.is_full = !self.share.hold(held as u64);
        !self.is_full
    }

    fn end_frame(&mut self, frame: Frame) -> Result<Step, Violation> {
        Ok(match frame.head.opcode {
            Opcode::Ping => Step::Ping(frame.control),
            Opcode::Pong => Step::More,
            Opcode::Close => {
                let (code, reason) = decode_close(&frame.control)?;
                Step::Event(Event::Closed { code, reason })
            }
            Opcode::Continuation | Opcode::Text | Opcode::Binary => {
                match self.message.take_if(|_| frame.head.is_final) {
                    Some(message) => {
                        // One step more than there was room for at most.
                        self.is_full = false;
                        let next = self.share.another();
                        let share = std::mem::replace(&mut self.share, next);
                        let (is_text, data) = message.finish(self.max_message)?;
                        let data = Data::new(data, share, Arc::clone(&self.before));
                        Step::Event(match is_text {
                            true => Event::Text(data),
                            false => Event::Binary(data),
                        })
                    }
                    None => Step::More,
                }
            }
        })
    }

    fn count_control(&mut self, now: Instant) -> Result<(), Violation> {
        let is_over = |since| now.duration_since(since) >= FLOOD_WINDOW;
        if self.flood_since.is_none_or(is_over) {
            (self.flood_since, self.flood) = (Some(now), 0);
        }
        self.flood += 1;
        match self.flood > FLOOD {
            true => Err(Violation::PingFlood),
            false => Ok(()),
        }
    }
}

impl Message {
    fn new(head: Head) -> Self {
        Self {
            is_text: head.opcode == Opcode::Text,
            inflate: head.is_compressed.then(Inflate::new),
            data: Vec::new(),
            checked: 0,
        }
    }

    fn push(&mut self, piece: &[u8], max: usize) -> Result<(), Violation> {
        if self.data.len() >= LARGE && max <= AT_ONCE {
            self.data.reserve_exact(max.saturating_sub(self.data.len()));
        }
        match &mut self.inflate {
            Some(inflate) => inflate.push(piece, &mut self.data, max)?,
            None => self.data.extend_from_slice(piece),
        }
        self.check_text()
    }

    /// Checks what came since the last check; a character may be cut at the end.
    fn check_text(&mut self) -> Result<(), Violation> {
        if !self.is_text {
            return Ok(());
        }
        match str::from_utf8(&self.data[self.checked..]) {
            Ok(_) => self.checked = self.data.len(),
            Err(error) if error.error_len().is_none() => self.checked += error.valid_up_to(),
            Err(_) => return Err(Violation::NotUtf8),
        }
        Ok(())
    }

    /// Whether it is text, and its bytes.
    fn finish(mut self, max: usize) -> Result<(bool, Vec<u8>), Violation> {
        if let Some(inflate) = self.inflate.take() {
            inflate.finish(&mut self.data, max)?;
            self.check_text()?;
        }
        match self.is_text {
            true if self.checked < self.data.len() => Err(Violation::NotUtf8),
            is_text => Ok((is_text, self.data)),
        }
    }
}

/// Received bytes that have not been taken.
pub struct Input {
    buffer: Vec<u8>,
    start: usize,
    room: usize,
}

/// Bytes that an idle connection's buffer holds; a larger one is used while much arrives.
const LEAST_ROOM: usize = 2 * 1024;
const MOST_ROOM: usize = 64 * 1024;

impl Input {
    pub fn new(bytes: Vec<u8>) -> Self {
        Self {
            buffer: bytes,
            start: 0,
            room: LEAST_ROOM,
        }
    }

    pub fn unread(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// Takes up to `len` bytes.
    fn take(&mut self, len: usize) -> &mut [u8] {
        let start = self.start;
        self.start += len.min(self.buffer.len() - start);
        &mut self.buffer[start..self.start]
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.start = self.buffer.len();
    }

    /// The buffer to read into, with room behind what has not been taken.
    pub fn room(&mut self) -> &mut Vec<u8> {
        self.buffer.drain(..self.start);
        self.start = 0;
        if self.buffer.is_empty() {
            self.buffer.shrink_to(self.room);
        }
        self.buffer.reserve(self.room);
        &mut self.buffer
    }

    /// Learns from a read: one that filled the room asks for more of it.
    pub fn adapt(&mut self, read: usize) {
        self.room = match read {
            much if much >= self.room => (self.room * 4).min(MOST_ROOM),
            little if little <= LEAST_ROOM => LEAST_ROOM,
            _ => self.room,
        };
    }
}
