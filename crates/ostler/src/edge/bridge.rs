//! A WebSocket between a client and an ASGI app: the handshake before the app is asked, its answer,
//! then whole messages both ways until each side has had its last word.
//!
//! The session (`websocket/`) knows the client, the lease knows the worker; this knows both and
//! moves messages between them. It holds one message each way, beside the one that the session has:
//! a client that sends faster than the app takes is not read, a worker whose client does not read
//! gets no credit.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::mem::take;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use ostler_wire::{CloseFrame, END, HEAD_LEN, Kind, Opcode, ResponseHead, begin, finish};
use tokio::sync::mpsc;

use crate::pool::{Fault, Lease};

use super::connection::Connection;
use super::h1::response;
use super::reason::Reason;
use super::sending::After;
use super::site::{App, Behind};
use super::websocket::{
    self, By, Closed, Data, Event, Handshake, Outgoing, Refusal, Session, Violation,
};

/// Message bytes in one frame to a worker: a quarter of what a stream may send without credit.
const PIECE: usize = 64 * 1024;

/// Codes of RFC 6455's registry.
const ABNORMAL: u16 = 1006;
const MESSAGE_TOO_BIG: u16 = 1009;
const INTERNAL_ERROR: u16 = 1011;
const SERVICE_RESTART: u16 = 1012;

impl Connection {
    /// Checks an opening handshake before anybody is asked. What goes on to an upstream is judged there.
    pub fn check_handshake(&self, behind: &Behind) -> Result<(), Reason> {
        match behind {
            Behind::App(app) => self.handshake(app).map(drop),
            Behind::Upstreams(_) => Ok(()),
        }
    }

    /// An opening handshake to an app; `None` for any other request.
    pub fn handshake(&self, app: &App) -> Result<Option<Handshake>, Reason> {
        if !self.head.asks_websocket() || !app.pool.streams() {
            return Ok(None);
        }
        let joined = |name: &[u8]| {
            let fields = self.head.fields().filter(|(_, known, _)| *known == name);
            let values: Vec<&[u8]> = fields.map(|(.., value)| value).collect();
            (!values.is_empty()).then(|| values.join(&b", "[..]))
        };
        let [key, version, extensions, protocols] = [
            joined(b"sec-websocket-key"),
            joined(b"sec-websocket-version"),
            joined(b"sec-websocket-extensions"),
            joined(b"sec-websocket-protocol"),
        ];
        let field = |name: &str| match name {
            // What `asks_websocket` has read; both are for one connection and not kept.
            "upgrade" => Some(&b"websocket"[..]),
            "connection" => Some(&b"upgrade"[..]),
            "sec-websocket-key" => key.as_deref(),
            "sec-websocket-version" => version.as_deref(),
            "sec-websocket-extensions" => extensions.as_deref(),
            "sec-websocket-protocol" => protocols.as_deref(),
            _ => None,
        };
        let compression = app.websocket.compression;
        match websocket::handshake(self.head.method(), field, compression) {
            Ok(handshake) => Ok(Some(handshake)),
            Err(Refusal::Version) => Err(Reason::WebSocketVersion),
            Err(Refusal::Method | Refusal::NotAnUpgrade | Refusal::Key) => {
                Err(Reason::UpgradeInvalid)
            }
        }
    }

    /// Answers a handshake that the app has accepted, then carries messages until the end.
    pub async fn websocket(
        &mut self,
        app: &App,
        mut lease: Lease,
        handshake: &Handshake,
        accept: &[u8],
    ) -> After {
        if let Err(reason) = self.switch_protocols(handshake, accept) {
            tracing::error!(
                path = %String::from_utf8_lossy(self.head.path()),
                "the app's acceptance of a WebSocket cannot be sent: {}", reason.text()
            );
            tokio::spawn(async move { part(&mut lease, INTERNAL_ERROR).await });
            return self.answer(reason).await;
        }
        self.row.status = self.switched();
        if self.flush().await.is_err() {
            tokio::spawn(async move { part(&mut lease, ABNORMAL).await });
            return After::Abort;
        }
        self.log();
        let early = self.take_early();
        self.become_socket();
        let settings = app.websocket.clone();
        let (max_message, share) = (settings.max_message, self.place.share());
        let session = Session::new(&mut self.io, early, handshake, settings, share);
        let (to_app, from_client) = mpsc::channel(1);
        let (to_client, from_app) = mpsc::channel(1);
        let farewell = lease.worker().farewell();
        let bridge = Bridge::new(&mut lease, from_client, to_client, max_message);
        let (closed, _) = tokio::join!(session.run(to_app, from_app), bridge.run(farewell));
        note_end(&lease, &closed);
        // The app may clean up for as long as it likes: it holds no client up any more.
        tokio::spawn(async move {
            if last_word(&mut lease).await.is_ok() {
                lease.give_back();
            }
        });
        After::Gone
    }

    /// Writes the 101 with what the app adds to it.
    fn switch_protocols(&mut self, handshake: &Handshake, accept: &[u8]) -> Result<(), Reason> {
        let head = ResponseHead::decode(accept).map_err(|_| Reason::BadResponse)?;
        let chosen = head
            .fields()
            .filter(|(name, _)| name.eq_ignore_ascii_case(b"sec-websocket-protocol"));
        let mut chosen = chosen.map(|(_, value)| value);
        if chosen.next().is_some_and(|name| !handshake.offers(name)) || chosen.next().is_some() {
            return Err(Reason::BadResponse);
        }
        let extensions = handshake.extensions();
        let date = self.thread.date();
        let out = self.out.bytes();
        let mark = out.len();
        let ours = [
            ("Upgrade", "websocket".as_bytes()),
            ("Connection", b"Upgrade"),
            ("Sec-WebSocket-Accept", handshake.accept.as_bytes()),
            ("Date", &date),
        ];
        let agreed = extensions
            .as_deref()
            .map(|value| ("Sec-WebSocket-Extensions", value.as_bytes()));
        let ours = ours.into_iter().chain(agreed);
        if let Err(reason) = response::encode_switch(&head, ours, out) {
            out.truncate(mark);
            return Err(reason);
        }
        self.note_head(mark);
        Ok(())
    }
}

fn note_end(lease: &Lease, closed: &Closed) {
    let pid = lease.worker().pid;
    match &closed.by {
        By::Violation(Violation::AddressFull) => {
            tracing::info!(
                pid,
                code = closed.code,
                "a WebSocket ends: {}",
                Violation::AddressFull
            );
        }
        By::Violation(violation) => {
            tracing::info!(
                pid,
                code = closed.code,
                "a WebSocket client broke the protocol: {violation}"
            );
        }
        By::Client | By::App | By::Network => {
            tracing::debug!(pid, code = closed.code, by = ?closed.by, "a WebSocket ended");
        }
    }
}

/// Tells an app that its client is gone, and waits for the app's end.
async fn part(lease: &mut Lease, code: u16) -> Result<(), Fault> {
    let mut frame = Vec::new();
    let close = CloseFrame { code, reason: b"" };
    close.encode(&mut frame, lease.grant().stream_id());
    let sent = lease.grant().send(&frame, None).await;
    sent.map_err(|_| Fault::Closed)?;
    last_word(lease).await
}

/// Drops what an app still says up to its last word.
async fn last_word(lease: &mut Lease) -> Result<(), Fault> {
    loop {
        if lease.grant().is_ended() {
            return Ok(());
        }
        poll_fn(|cx| lease.grant().poll_frame(cx)).await?;
        lease.grant().take()?;
    }
}

/// A message on its way to the worker.
struct Upward {
    opcode: Opcode,
    data: Data,
    sent: usize,
}

impl Upward {
    /// Sends one piece, as far as the stream's credit reaches; ready with true after the last one.
    fn poll_piece(&mut self, lease: &mut Lease, cx: &mut Context<'_>) -> Poll<Result<bool, Fault>> {
        let wanted = (self.data.len() - self.sent).min(PIECE);
        // The worker counts the opcode too.
        let granted = ready!(lease.grant().poll_credit(cx, wanted + 1))? - 1;
        let piece = &self.data[self.sent..self.sent + granted];
        self.sent += granted;
        let is_last = self.sent == self.data.len();
        let mut frame = Vec::with_capacity(HEAD_LEN + 1 + granted);
        let flags = if is_last { END } else { 0 };
        let start = begin(
            &mut frame,
            Kind::WsMessage,
            flags,
            lease.grant().stream_id(),
        );
        frame.push(self.opcode as u8);
        frame.extend_from_slice(piece);
        finish(&mut frame, start, 0);
        // A stream takes whole frames.
        match ready!(lease.grant().poll_send(cx, &frame, None)) {
            Ok(_) => Poll::Ready(Ok(is_last)),
            Err(_) => Poll::Ready(Err(Fault::Closed)),
        }
    }
}

/// What happens next on an open WebSocket.
enum Turn {
    /// The worker is to stop.
    Farewell,
    /// The session took a message, or has ended and takes none.
    Delivered,
    /// A frame of the worker can be taken.
    Frame,
    /// A message or close of the client.
    Client(Event),
    /// The session has ended, and everything it had to say was said.
    Over,
    Lost(Fault),
}

/// The lease's side of an open WebSocket.
struct Bridge<'l> {
    lease: &'l mut Lease,
    from_client: mpsc::Receiver<Event>,
    /// `None` once the session has the app's last word.
    to_client: Option<mpsc::Sender<Outgoing>>,
    upward: Option<Upward>,
    /// A message of the app, and after it perhaps a close, that the session has no room for yet.
    downward: VecDeque<Outgoing>,
    /// The start of a message of the app.
    partial: Vec<u8>,
    /// The app has been told of the end, or has said its own last word.
    ended: bool,
    /// Bytes a message of the app may have.
    max_message: usize,
}

impl<'l> Bridge<'l> {
    fn new(
        lease: &'l mut Lease,
        from_client: mpsc::Receiver<Event>,
        to_client: mpsc::Sender<Outgoing>,
        max_message: usize,
    ) -> Self {
        Self {
            lease,
            from_client,
            to_client: Some(to_client),
            upward: None,
            downward: VecDeque::new(),
            partial: Vec::new(),
            ended: false,
            max_message,
        }
    }

    /// Runs until the session has ended; `farewell` resolves when the worker is to stop.
    async fn run(mut self, farewell: impl Future<Output = ()>) {
        let mut farewell = std::pin::pin!(farewell);
        loop {
            match self.turn(farewell.as_mut()).await {
                Turn::Farewell => self.end(SERVICE_RESTART).await,
                Turn::Delivered => {}
                Turn::Frame => {
                    if let Err(complaint) = self.take_frame() {
                        tracing::error!(
                            pid = self.lease.worker().pid,
                            "what an app sent on a WebSocket is not passed on: {complaint}; \
                             the connection is closed"
                        );
                        self.end(complaint.code()).await;
                    }
                }
                Turn::Client(Event::Text(data)) => self.take_up(Opcode::Text, data),
                Turn::Client(Event::Binary(data)) => self.take_up(Opcode::Binary, data),
                Turn::Client(Event::Closed { code, reason }) => {
                    self.tell_app(code, &reason).await;
                }
                Turn::Over => return,
                Turn::Lost(fault) => {
                    tracing::debug!("a WebSocket lost its worker: {fault}");
                    // The session says 1011. Nobody is left to be told what comes after.
                    self.to_client = None;
                    while self.from_client.recv().await.is_some() {}
                    return;
                }
            }
        }
    }

    /// Waits for the next thing that happens, and moves the client's message on meanwhile.
    async fn turn(&mut self, mut farewell: Pin<&mut impl Future<Output = ()>>) -> Turn {
        let Self {
            lease,
            from_client,
            to_client,
            upward,
            downward,
            ended,
            ..
        } = self;
        let sender = to_client.clone();
        let waiting = poll_fn(|cx| {
            if !*ended && farewell.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Turn::Farewell);
            }
            if sender.is_some()
                && downward.is_empty()
                && let Poll::Ready(frame) = lease.grant().poll_frame(cx)
            {
                return Poll::Ready(frame.map_or_else(Turn::Lost, |()| Turn::Frame));
            }
            while let Some(message) = upward {
                match ready!(message.poll_piece(lease, cx)) {
                    Ok(true) => *upward = None,
                    Ok(false) => {}
                    Err(fault) => return Poll::Ready(Turn::Lost(fault)),
                }
            }
            let event = ready!(from_client.poll_recv(cx));
            Poll::Ready(event.map_or(Turn::Over, Turn::Client))
        });
        let Some(sender) = to_client.clone().filter(|_| !downward.is_empty()) else {
            return waiting.await;
        };
        tokio::select! {
            biased;
            room = sender.reserve_owned() => {
                let message = downward.pop_front();
                let is_last = matches!(message, Some(Outgoing::Close { .. }));
                // A session that has ended takes nothing: the app hears of it from the client's side.
                if let (Ok(room), Some(message)) = (room, message) {
                    room.send(message);
                }
                if is_last {
                    *to_client = None;
                }
                Turn::Delivered
            }
            turn = waiting => turn,
        }
    }

    /// A message of the client; dropped when the app takes none any more.
    fn take_up(&mut self, opcode: Opcode, data: Data) {
        if !self.ended {
            self.upward = Some(Upward {
                opcode,
                data,
                sent: 0,
            });
        }
    }

    /// Takes one frame of the worker.
    fn take_frame(&mut self) -> Result<(), Complaint> {
        let Ok(frame) = self.lease.grant().take() else {
            return Ok(());
        };
        match frame.head.kind {
            Kind::WsMessage => {
                let (opcode, piece) =
                    Opcode::decode(frame.payload).map_err(|_| Complaint::Frame)?;
                if self.partial.len() + piece.len() > self.max_message {
                    return Err(Complaint::TooBig(self.max_message));
                }
                self.partial.extend_from_slice(piece);
                if frame.head.is_end() && !self.ended {
                    self.downward
                        .push_back(whole(opcode, take(&mut self.partial))?);
                }
            }
            Kind::WsClose => {
                let close = CloseFrame::decode(frame.payload).map_err(|_| Complaint::Frame)?;
                let reason = String::from_utf8_lossy(close.reason).into_owned();
                self.downward.push_back(Outgoing::Close {
                    code: close.code,
                    reason,
                });
                self.ended = true;
                self.upward = None;
            }
            _ => return Err(Complaint::Frame),
        }
        Ok(())
    }

    /// Closes toward both sides.
    async fn end(&mut self, code: u16) {
        self.tell_app(code, "").await;
        self.partial = Vec::new();
        self.downward.push_back(Outgoing::Close {
            code,
            reason: String::new(),
        });
    }

    /// The client's or our own last word to the app.
    async fn tell_app(&mut self, code: u16, reason: &str) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        self.upward = None;
        let mut frame = Vec::new();
        let close = CloseFrame {
            code,
            reason: reason.as_bytes(),
        };
        close.encode(&mut frame, self.lease.grant().stream_id());
        let _ = self.lease.grant().send(&frame, None).await;
    }
}

fn whole(opcode: Opcode, data: Vec<u8>) -> Result<Outgoing, Complaint> {
    match opcode {
        Opcode::Text if std::str::from_utf8(&data).is_err() => Err(Complaint::NotText),
        Opcode::Text => Ok(Outgoing::Text(data)),
        Opcode::Binary => Ok(Outgoing::Binary(data)),
    }
}

/// Why something of an app does not reach its client.
#[derive(Debug, Clone, Copy)]
enum Complaint {
    /// The limit, in bytes.
    TooBig(usize),
    NotText,
    Frame,
}

impl Complaint {
    fn code(self) -> u16 {
        match self {
            Self::TooBig(_) => MESSAGE_TOO_BIG,
            Self::NotText | Self::Frame => INTERNAL_ERROR,
        }
    }
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooBig(limit) => write!(
                f,
                "a message has more than {limit} bytes (--websocket-max-message-size)"
            ),
            Self::NotText => f.write_str("a text message is not UTF-8"),
            Self::Frame => f.write_str("the worker sent a frame that does not belong here"),
        }
    }
}
