//! One open WebSocket: a client's stream on one side, two queues of whole messages on the other.
//!
//! One task reads, writes, answers pings and keeps the clocks. It stops reading while the app has
//! not taken the last message, so memory holds one message each way and what a frame head may ask
//! for; it stops taking messages of the app while the client does not read.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use crate::edge::share::Share;

use super::deflate::{Deflate, LEAST, MOST};
use super::frame::{Opcode, Violation, encode, encode_close};
use super::reader::{Input, Reader, Step};
use super::{Event, Handshake, Settings};

/// Unsent bytes above which no further message of the app is taken.
const HIGH_WATER: usize = 64 * 1024;

/// Unsent bytes below which each ping is answered; above them the last one is, which is all that RFC 6455
/// section 5.5.3 asks for. A few pings of the largest kind.
const LOW_WATER: usize = 4 * 1024;

/// RFC 6455 section 7.4.1.
const GOING_AWAY_WITHOUT_A_WORD: u16 = 1006;
const INTERNAL_ERROR: u16 = 1011;

/// What an app sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outgoing {
    Text(Vec<u8>),
    Binary(Vec<u8>),
    /// The app's last word. A code that must not be sent becomes a close without code.
    Close {
        code: u16,
        reason: String,
    },
}

/// How a session ended, for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    pub code: u16,
    pub by: By,
}

/// Who ended a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum By {
    /// The client's close frame.
    Client,
    /// The app's close, or the end of its queue.
    App,
    /// The client broke the protocol.
    Violation(Violation),
    /// The connection broke or stayed silent.
    Network,
}

/// A WebSocket whose handshake is done.
pub struct Session<S> {
    reader: ReadHalf<S>,
    writer: WriteHalf<S>,
    input: Input,
    output: Output,
    decoder: Reader,
    deflate: Option<Deflate>,
    settings: Settings,
    /// Messages the app has not taken; never more than one and a close.
    events: VecDeque<Event>,
    /// Nothing is read until the app has taken a message before.
    is_full: bool,
    clock: Clock,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Session<S> {
    /// `stream` is upgraded: the next byte each way is WebSocket. `early` is what the client had
    /// already sent behind its handshake.
    pub fn new(
        stream: S,
        early: Vec<u8>,
        handshake: &Handshake,
        settings: Settings,
        share: Share,
    ) -> Self {
        let (reader, writer) = tokio::io::split(stream);
        Self {
            reader,
            writer,
            input: Input::new(early),
            output: Output {
                share: share.another(),
                ..Output::default()
            },
            decoder: Reader::new(&settings, handshake.deflate.is_some(), share),
            deflate: handshake.deflate,
            clock: Clock::new(&settings, Instant::now()),
            settings,
            events: VecDeque::new(),
            is_full: false,
        }
    }

    /// Runs until the connection is closed. `to_app` gets every message and, unless the app spoke
    /// last, [`Event::Closed`]; dropping the other end of `from_app` closes with 1011, as the app
    /// has died.
    pub async fn run(
        mut self,
        to_app: mpsc::Sender<Event>,
        mut from_app: mpsc::Receiver<Outgoing>,
    ) -> Closed {
        let closed = match self.converse(&to_app, &mut from_app).await {
            Ok(closed) => closed,
            Err(_) => Closed {
                code: GOING_AWAY_WITHOUT_A_WORD,
                by: By::Network,
            },
        };
        if closed.by != By::App {
            self.decoder.forget();
        }
        self.linger(&closed).await;
        // The connection is gone; the app may take its time with what is left.
        drop((self.reader, self.writer));
        if closed.by == By::Network {
            self.events.push_back(Event::Closed {
                code: closed.code,
                reason: String::new(),
            });
        }
        for event in self.events {
            if closed.by == By::App || to_app.send(event).await.is_err() {
                break;
            }
        }
        closed
    }

    /// The open connection, until someone says the last word, which is then in the output.
    async fn converse(
        &mut self,
        to_app: &mpsc::Sender<Event>,
        from_app: &mut mpsc::Receiver<Outgoing>,
    ) -> io::Result<Closed> {
        loop {
            if self.events.is_empty()
                && !self.is_full
                && let Some(closed) = self.decode().await
            {
                return Ok(closed);
            }
            let may_read = self.events.is_empty() && !self.is_full;
            tokio::select! {
                room = to_app.reserve(), if !self.events.is_empty() => match (room, self.events.pop_front()) {
                    (Ok(room), Some(event)) => room.send(event),
                    // Nobody takes messages any more: the end of `from_app` tells why.
                    (Ok(_), None) | (Err(_), _) => {}
                },
                read = read_some(&mut self.reader, &mut self.input), if may_read => {
                    read?;
                    self.clock.received();
                }
                () = self.decoder.room(), if self.is_full => self.is_full = false,
                sent = self.output.push(&mut self.writer), if !self.output.is_idle() => {
                    sent?;
                    self.clock.progressed();
                }
                message = from_app.recv(), if self.output.unsent() < HIGH_WATER => {
                    if let Some(closed) = self.send(message) {
                        return Ok(closed);
                    }
                }
                () = self.clock.due() => {
                    if let Some(closed) = self.keep_alive(!may_read) {
                        return Ok(closed);
                    }
                }
            }
        }
    }

    /// Decodes what has been read up to the next message.
    async fn decode(&mut self) -> Option<Closed> {
        loop {
            match self
                .decoder
                .step(&mut self.input, Instant::now().into_std())
            {
                Ok(Step::Wait) => return None,
                Ok(Step::Full) => {
                    self.is_full = true;
                    return None;
                }
                Ok(Step::More) => tokio::task::coop::consume_budget().await,
                Ok(Step::Ping(payload)) => self.output.answer(payload),
                Ok(Step::Event(event)) => {
                    let close = match &event {
                        Event::Closed { code, .. } => Some(*code),
                        Event::Text(_) | Event::Binary(_) => None,
                    };
                    self.events.push_back(event);
                    let code = close?;
                    // The answer repeats the code (section 5.5.1).
                    self.output.close(code, "");
                    let by = By::Client;
                    return Some(Closed { code, by });
                }
                Err(violation) => return Some(self.end_for(violation)),
            }
        }
    }

    fn end_for(&mut self, violation: Violation) -> Closed {
        let (code, reason) = (violation.code(), violation.to_string());
        self.output.close(code, &reason);
        self.events.push_back(Event::Closed { code, reason });
        let by = By::Violation(violation);
        Closed { code, by }
    }

    /// Puts a message of the app into the output.
    fn send(&mut self, message: Option<Outgoing>) -> Option<Closed> {
        let (opcode, data) = match message {
            Some(Outgoing::Text(data)) => (Opcode::Text, data),
            Some(Outgoing::Binary(data)) => (Opcode::Binary, data),
            Some(Outgoing::Close { code, reason }) => {
                self.output.close(code, &reason);
                return Some(Closed { code, by: By::App });
            }
            None => {
                self.output.close(INTERNAL_ERROR, "");
                let (code, by) = (INTERNAL_ERROR, By::App);
                return Some(Closed { code, by });
            }
        };
        let is_worth_it = (LEAST..=MOST).contains(&data.len());
        match self.deflate.filter(|_| is_worth_it) {
            Some(deflate) => self.output.frame(opcode, true, &deflate.compress(&data)),
            None => self.output.frame(opcode, false, &data),
        }
        match self.output.note_held() {
            true => None,
            false => Some(self.end_for(Violation::AddressFull)),
        }
    }

    /// A clock has run down.
    fn keep_alive(&mut self, is_app_slow: bool) -> Option<Closed> {
        match self.clock.check(is_app_slow) {
            Due::Nothing => None,
            Due::Ping => {
                self.output.frame(Opcode::Ping, false, b"");
                None
            }
            Due::Silent => {
                self.output.close(INTERNAL_ERROR, "keepalive ping timeout");
                Some(Closed {
                    code: GOING_AWAY_WITHOUT_A_WORD,
                    by: By::Network,
                })
            }
        }
    }

    /// Sends what is left, the close frame last, and waits for the client's end of the connection.
    /// Closing with unread bytes would reset it, and the client might lose the close frame.
    async fn linger(&mut self, closed: &Closed) {
        let wait = match closed.by {
            By::Client | By::App | By::Violation(_) => self.settings.close_timeout,
            // It has been waited for already.
            By::Network => Duration::from_millis(100),
        };
        let goodbye = async {
            while !self.output.is_idle() {
                self.output.push(&mut self.writer).await?;
            }
            let expects_close = closed.by == By::App;
            if expects_close {
                self.await_close().await?;
            }
            self.writer.shutdown().await?;
            loop {
                read_some(&mut self.reader, &mut self.input).await?;
                self.input.clear();
            }
        };
        let _: Result<io::Result<()>, _> = timeout(wait, goodbye).await;
    }

    /// Reads until the client's close frame has come. Messages that it sent before are dropped: the
    /// app has said that it takes no more.
    async fn await_close(&mut self) -> io::Result<()> {
        loop {
            match self
                .decoder
                .step(&mut self.input, Instant::now().into_std())
            {
                Ok(Step::Event(Event::Closed { .. }) | Step::Full) | Err(_) => return Ok(()),
                Ok(Step::Wait) => read_some(&mut self.reader, &mut self.input).await?,
                Ok(Step::Event(_) | Step::Ping(_) | Step::More) => {
                    tokio::task::coop::consume_budget().await;
                }
            }
        }
    }
}

/// Reads once. Nothing is lost when it is cancelled.
async fn read_some<S: AsyncRead>(reader: &mut ReadHalf<S>, input: &mut Input) -> io::Result<()> {
    match reader.read_buf(input.room()).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        read => {
            input.adapt(read);
            Ok(())
        }
    }
}

/// Bytes on their way to the client.
#[derive(Default)]
struct Output {
    bytes: Vec<u8>,
    sent: usize,
    /// Everything is written, but the stream may hold some of it (TLS does).
    needs_flush: bool,
    /// The last ping to answer. A client that does not read gets one answer for many, so pings never
    /// pile up.
    pong: Option<Vec<u8>>,
    /// Of the memory that the client's address may take.
    share: Share,
}

impl Output {
    fn frame(&mut self, opcode: Opcode, is_compressed: bool, payload: &[u8]) {
        encode(&mut self.bytes, opcode, is_compressed, payload);
    }

    fn close(&mut self, code: u16, reason: &str) {
        self.take_pong();
        encode_close(&mut self.bytes, code, reason);
    }

    /// Answers a ping.
    fn answer(&mut self, payload: Vec<u8>) {
        self.pong = Some(payload);
        if self.unsent() < LOW_WATER {
            self.take_pong();
        }
    }

    fn take_pong(&mut self) {
        if let Some(payload) = self.pong.take() {
            self.frame(Opcode::Pong, false, &payload);
        }
    }

    /// Notes what waits; false when the client's address holds too much.
    fn note_held(&mut self) -> bool {
        self.share.hold(self.bytes.len() as u64)
    }

    fn unsent(&self) -> usize {
        self.bytes.len() - self.sent
    }

    fn is_idle(&self) -> bool {
        self.unsent() == 0 && !self.needs_flush && self.pong.is_none()
    }

    /// Writes once, or flushes once all is written. Nothing is lost when it is cancelled.
    async fn push<S: AsyncWrite>(&mut self, writer: &mut WriteHalf<S>) -> io::Result<()> {
        if self.unsent() == 0 {
            self.take_pong();
        }
        if self.unsent() == 0 {
            writer.flush().await?;
            self.needs_flush = false;
            return Ok(());
        }
        match writer.write(&self.bytes[self.sent..]).await? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            written => self.sent += written,
        }
        self.needs_flush = true;
        if self.unsent() == 0 || self.sent >= HIGH_WATER {
            self.bytes.drain(..self.sent);
            self.bytes.shrink_to(HIGH_WATER);
            self.sent = 0;
            self.note_held();
        }
        Ok(())
    }
}

/// When the client is asked whether it is there, and when it counts as gone.
struct Clock {
    interval: Option<Duration>,
    patience: Duration,
    /// When something last came from the client.
    heard: Instant,
    /// When bytes last moved, either way: a client that still takes a long message is there.
    moved: Instant,
    is_asked: bool,
}

enum Due {
    Nothing,
    Ping,
    Silent,
}

impl Clock {
    fn new(settings: &Settings, now: Instant) -> Self {
        Self {
            interval: settings.ping_interval,
            patience: settings.pong_timeout,
            heard: now,
            moved: now,
            is_asked: false,
        }
    }

    fn received(&mut self) {
        self.heard = Instant::now();
        self.moved = self.heard;
        self.is_asked = false;
    }

    fn progressed(&mut self) {
        self.moved = Instant::now();
    }

    async fn due(&self) {
        match (self.interval, self.is_asked) {
            (None, _) => std::future::pending().await,
            (Some(interval), false) => sleep_until(self.heard + interval).await,
            (Some(_), true) => sleep_until(self.moved + self.patience).await,
        }
    }

    /// While the app is slow nothing is read, so silence means nothing.
    fn check(&mut self, is_app_slow: bool) -> Due {
        let now = Instant::now();
        if is_app_slow {
            (self.heard, self.moved) = (now, now);
            return Due::Nothing;
        }
        match self.is_asked {
            false => {
                self.is_asked = true;
                self.moved = now;
                Due::Ping
            }
            true if now >= self.moved + self.patience => Due::Silent,
            true => Due::Nothing,
        }
    }
}
