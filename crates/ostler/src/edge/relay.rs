//! A worker's frames → bytes for the client. The worker is not trusted: what it says is checked
//! here before a byte of it leaves (threats E-11).

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use ostler_wire::{END, FileHead, HEAD_LEN, Kind, ResponseHead, begin, finish};

use crate::pool::{Fault, Frame, Lease, Session, Worker};

use super::body::BodyReader;
use super::connection::{After, Connection, Sign, poll_sign};
use super::engineio;
use super::h1::response::{self, BodyFraming, Private};
use super::outgoing::IN_MEMORY;
use super::reason::Reason;
use super::worker_file::WorkerFile;

/// Body bytes sent to a worker in one frame.
const UPLOAD_PIECE: usize = 64 * 1024;

/// How an exchange with a worker ended.
pub enum Relayed {
    /// The whole response is with the client, or in `out`.
    Whole(After),
    /// The app asks for a file of ours instead of its own body.
    Internal(Private),
    /// The app took the raw connection (WSGI WebSocket).
    Hijacked,
    /// The app accepted a WebSocket (ASGI): the payload of its `WsAccept`.
    WebSocket(Vec<u8>),
    /// Nothing was sent to the client: an answer of ours can take the place.
    Failed(Failure),
    /// The response had begun and cannot be finished.
    Broken(Reason),
}

/// Why there is no response from the worker.
#[derive(Debug)]
pub enum Failure {
    /// No response head within the time allowed.
    TimedOut,
    /// The worker's end closed, or its bytes were no frames.
    Lost(Fault),
    /// It answered what must not be sent.
    BadResponse(Reason),
    /// The app raised an exception; its traceback is in the log.
    App,
    /// The client's body ended early, was malformed, too large or too slow.
    Upload(Reason),
    /// The client left.
    ClientGone,
}

/// A request body that goes to the worker while it comes in.
pub struct Upload {
    body: BodyReader,
    piece: Vec<u8>,
    frame: Vec<u8>,
    sent: usize,
    ended: bool,
}

impl Upload {
    pub fn new(body: BodyReader) -> Self {
        Self {
            body,
            piece: Vec::new(),
            frame: Vec::new(),
            sent: 0,
            ended: false,
        }
    }

    /// What is left to read of the body once the response is over.
    pub fn into_body(self) -> BodyReader {
        self.body
    }
}

/// What the next step of an exchange was.
enum Turn {
    Frame,
    Elapsed,
    ClientGone,
    Lost(Fault),
    Upload(Reason),
}

/// One exchange: the response so far.
pub struct Relay<'c> {
    connection: &'c mut Connection,
    upload: Option<Upload>,
    framing: Option<BodyFraming>,
    /// Bytes of a body with a length that are still to come.
    left: u64,
    close: bool,
    /// The worker has said its last word.
    done: bool,
    /// Hold the worker back rather than spool (server-sent events and other streams).
    unbuffered: bool,
    /// The client is watched while the app works: it has sent its whole request and nothing behind
    /// it, and the app can be told that it left.
    watches: bool,
    /// The body may name a Socket.IO session, which this worker then holds.
    opens_session: bool,
    /// The request was dispatched.
    started: Instant,
}

impl<'c> Relay<'c> {
    pub fn new(connection: &'c mut Connection, upload: Option<Upload>, started: Instant) -> Self {
        let unbuffered = !connection.edge.response_buffering;
        let watches = connection.edge.pool.streams();
        let opens_session = engineio::session(connection.head.query()) == Session::Opens;
        Self {
            connection,
            upload,
            framing: None,
            left: 0,
            close: false,
            done: false,
            unbuffered,
            watches,
            opens_session,
            started,
        }
    }

    /// Relays until the response is whole, the exchange becomes something else, or it fails.
    pub async fn run(&mut self, lease: &mut Lease) -> Relayed {
        let limit = self.connection.edge.times.response;
        self.connection.deadline.set(self.started + limit);
        loop {
            match self.turn(lease).await {
                Turn::Frame => {}
                Turn::Elapsed if self.framing.is_none() => {
                    return Relayed::Failed(Failure::TimedOut);
                }
                Turn::Elapsed => return Relayed::Broken(Reason::WriteTimeout),
                Turn::ClientGone => return self.failed(Failure::ClientGone, Reason::ClientGone),
                Turn::Lost(fault) => return self.failed(Failure::Lost(fault), Reason::WorkerDied),
                Turn::Upload(reason) => return self.failed(Failure::Upload(reason), reason),
            }
            let opener = self.opens_session.then(|| Arc::clone(lease.worker()));
            let frame = match lease.grant().take() {
                Ok(frame) => frame,
                Err(fault) => return self.failed(Failure::Lost(fault), Reason::WorkerDied),
            };
            if let Some(worker) = opener {
                self.learn_session(&frame, &worker);
            }
            self.done = frame.head.is_end()
                || matches!(
                    frame.head.kind,
                    Kind::RespAbort | Kind::RespTrailers | Kind::WsClose
                );
            if let Some(relayed) = self.frame(frame).await {
                return relayed;
            }
        }
    }

    /// Remembers the Socket.IO session that the start of a body names.
    fn learn_session(&mut self, frame: &Frame<'_>, worker: &Worker) {
        let body = match frame.head.kind {
            Kind::RespHead => {
                ResponseHead::decode(frame.payload).map_or(&[][..], |head| head.inline)
            }
            Kind::RespBody => frame.payload,
            _ => return,
        };
        if body.is_empty() {
            return;
        }
        self.opens_session = false;
        if let Some(session) = engineio::opened(body) {
            self.connection.edge.pool.learn_session(session, worker);
        }
    }

    /// The worker has nothing more to say, so that its slot can be given back.
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// The request body that was not read to its end.
    pub fn into_upload(self) -> Option<Upload> {
        self.upload
    }

    fn failed(&self, failure: Failure, broken: Reason) -> Relayed {
        match self.framing {
            None => Relayed::Failed(failure),
            Some(_) => Relayed::Broken(broken),
        }
    }

    /// Moves bytes both ways until the worker's next frame is there or something ends.
    async fn turn(&mut self, lease: &mut Lease) -> Turn {
        poll_fn(|cx| self.poll_turn(cx, lease)).await
    }

    fn poll_turn(&mut self, cx: &mut Context<'_>, lease: &mut Lease) -> Poll<Turn> {
        while !self.connection.out.is_empty() {
            let connection = &mut *self.connection;
            match connection.out.poll_write(cx, &mut connection.io) {
                Poll::Ready(Ok(_)) => {
                    if connection.out.is_empty() && connection.out.refill().is_err() {
                        return Poll::Ready(Turn::ClientGone);
                    }
                    connection
                        .deadline
                        .set(Instant::now() + connection.edge.times.write_stall);
                }
                Poll::Ready(Err(_)) => return Poll::Ready(Turn::ClientGone),
                Poll::Pending => break,
            }
        }
        if self.may_take_more()
            && let Poll::Ready(result) = lease.grant().poll_frame(cx)
        {
            return Poll::Ready(result.map_or_else(Turn::Lost, |()| Turn::Frame));
        }
        if let Poll::Ready(turn) = self.poll_upload(cx, lease) {
            return Poll::Ready(turn);
        }
        if self.watches
            && self.upload.is_none()
            && let Poll::Ready(gone) = self.poll_client(cx, lease)
        {
            return Poll::Ready(gone);
        }
        if self.framing.is_some() && self.connection.out.is_empty() {
            // The app takes its time between pieces: that is its right once it has begun.
            return Poll::Pending;
        }
        self.connection.deadline.poll(cx).map(|_| Turn::Elapsed)
    }

    /// Looks whether the client is still there; ready only when it is surely gone. The end of what it
    /// sends is told to the app, whose response is still sent: the client may have closed one way
    /// only (RFC 9112 section 9.6).
    fn poll_client(&mut self, cx: &mut Context<'_>, lease: &mut Lease) -> Poll<Turn> {
        let connection = &mut *self.connection;
        let sign = ready!(poll_sign(cx, &mut connection.io, &mut connection.buffer));
        self.watches = false;
        match sign {
            Sign::End => {
                let mut frame = Vec::with_capacity(HEAD_LEN);
                begin(&mut frame, Kind::ClientEof, 0, lease.grant().stream_id());
                let _ = lease.grant().poll_send(cx, &frame, None);
                Poll::Pending
            }
            Sign::More => Poll::Pending,
            Sign::Gone => Poll::Ready(Turn::ClientGone),
        }
    }

    fn may_take_more(&self) -> bool {
        let edge = &self.connection.edge;
        self.connection.out.has_room() || (!self.unbuffered && edge.spool.has_room())
    }

    /// Moves the request body on; ready only when that fails.
    fn poll_upload(&mut self, cx: &mut Context<'_>, lease: &mut Lease) -> Poll<Turn> {
        let Some(upload) = &mut self.upload else {
            return Poll::Pending;
        };
        let stream = lease.grant().stream_id();
        loop {
            while upload.sent < upload.frame.len() {
                let rest = &upload.frame[upload.sent..];
                match lease.grant().poll_send(cx, rest, None) {
                    Poll::Ready(Ok(count)) => upload.sent += count,
                    Poll::Ready(Err(_)) => {
                        // The worker closed its end; what it said before is read first.
                        upload.ended = true;
                        upload.frame.clear();
                        upload.sent = 0;
                    }
                    Poll::Pending => return Poll::Pending,
                }
            }
            if upload.ended {
                return Poll::Pending;
            }
            if upload.piece.is_empty() && !upload.body.is_done() {
                let connection = &mut *self.connection;
                let (io, buffer) = (&mut connection.io, &mut connection.buffer);
                match upload.body.poll_piece(cx, io, buffer, &mut upload.piece) {
                    Poll::Ready(Ok(())) => {
                        if self.framing.is_none() {
                            // The app's time begins when it has the body.
                            let limit = connection.edge.times.response;
                            connection.deadline.set(Instant::now() + limit);
                        }
                    }
                    Poll::Ready(Err(reason)) => return Poll::Ready(Turn::Upload(reason)),
                    Poll::Pending => return Poll::Pending,
                }
            }
            let mut count = upload.piece.len().min(UPLOAD_PIECE);
            if count > 0 {
                count = match lease.grant().poll_credit(cx, count) {
                    Poll::Ready(Ok(count)) => count,
                    Poll::Ready(Err(fault)) => return Poll::Ready(Turn::Lost(fault)),
                    Poll::Pending => return Poll::Pending,
                };
            }
            upload.frame.clear();
            upload.sent = 0;
            upload.ended = upload.body.is_done() && count == upload.piece.len();
            let flags = if upload.ended { END } else { 0 };
            let start = begin(&mut upload.frame, Kind::ReqBody, flags, stream);
            upload.frame.extend(upload.piece.drain(..count));
            finish(&mut upload.frame, start, 0);
        }
    }

    /// Takes one frame of the worker; `Some` ends the exchange.
    async fn frame(&mut self, frame: Frame<'_>) -> Option<Relayed> {
        let ends = frame.head.is_end();
        match (frame.head.kind, self.framing) {
            (Kind::RespInfo, None) => self.info(frame.payload),
            (Kind::RespHead, None) => self.head(frame.payload, ends),
            (Kind::RespBody, Some(framing)) => {
                self.body(framing, frame.payload);
                self.settled(ends)
            }
            (Kind::RespFile, Some(framing)) => {
                let Ok(range) = FileHead::decode(frame.payload) else {
                    return Some(Relayed::Broken(Reason::BadResponse));
                };
                let file = frame.fd?;
                self.file(framing, file, range, ends).await
            }
            (Kind::RespTrailers, Some(framing)) => {
                self.trailers(framing, frame.payload);
                self.settled(true)
            }
            (Kind::RespAbort, Some(_)) => Some(Relayed::Broken(Reason::AppError)),
            (Kind::RespAbort, None) => Some(Relayed::Failed(Failure::App)),
            (Kind::Hijack, None) => Some(Relayed::Hijacked),
            (Kind::WsAccept, None) => Some(Relayed::WebSocket(frame.payload.to_vec())),
            (_, None) => Some(Relayed::Failed(Failure::BadResponse(Reason::BadResponse))),
            (_, Some(_)) => Some(Relayed::Broken(Reason::BadResponse)),
        }
    }

    /// 100 and 103 go out at once; a client of HTTP/1.0 gets none (RFC 9110 section 15.2).
    fn info(&mut self, payload: &[u8]) -> Option<Relayed> {
        let Ok(head) = ResponseHead::decode(payload) else {
            return Some(Relayed::Failed(Failure::BadResponse(Reason::BadResponse)));
        };
        if self.connection.head.version() < 11 {
            return None;
        }
        match response::encode_info(&head, self.connection.out.bytes()) {
            Ok(()) => None,
            Err(reason) => Some(Relayed::Failed(Failure::BadResponse(reason))),
        }
    }

    fn head(&mut self, payload: &[u8], ends: bool) -> Option<Relayed> {
        let bad = |reason| Some(Relayed::Failed(Failure::BadResponse(reason)));
        let Ok(head) = ResponseHead::decode(payload) else {
            return bad(Reason::BadResponse);
        };
        let context = self
            .connection
            .response_context(ends.then_some(head.inline.len() as u64));
        let mark = self.connection.out.bytes().len();
        let encoded = match response::encode(&head, &context, self.connection.out.bytes()) {
            Ok(encoded) => encoded,
            Err(reason) => {
                self.connection.out.bytes().truncate(mark);
                return bad(reason);
            }
        };
        if encoded.private.app_error {
            self.connection.out.bytes().truncate(mark);
            return Some(Relayed::Failed(Failure::App));
        }
        if encoded.private.internal() {
            self.connection.out.bytes().truncate(mark);
            let mut private = encoded.private;
            response::keep_fields(&head, &mut private);
            return Some(Relayed::Internal(private));
        }
        self.connection.note_head(mark);
        self.connection.row.status = head.status;
        self.close = encoded.close;
        self.unbuffered |= encoded.private.unbuffered;
        self.framing = Some(encoded.framing);
        if let BodyFraming::Length(length) = encoded.framing {
            self.left = length;
        }
        self.connection.row.head_came(self.started);
        let stall = self.connection.edge.times.write_stall;
        if !ends {
            self.connection.deadline.set(Instant::now() + stall);
        }
        self.body(encoded.framing, head.inline);
        self.settled(ends)
    }

    /// Appends body bytes in the client's framing.
    fn body(&mut self, framing: BodyFraming, bytes: &[u8]) {
        let out = self.connection.out.bytes();
        match framing {
            BodyFraming::None => return,
            BodyFraming::UntilClose => out.extend_from_slice(bytes),
            BodyFraming::Length(_) => {
                let take = bytes
                    .len()
                    .min(usize::try_from(self.left).unwrap_or(usize::MAX));
                if take < bytes.len() {
                    tracing::warn!(
                        extra = bytes.len() - take,
                        "the app sent more than its Content-Length; the rest is dropped"
                    );
                }
                out.extend_from_slice(&bytes[..take]);
                self.left -= take as u64;
            }
            BodyFraming::Chunked if bytes.is_empty() => return,
            BodyFraming::Chunked => {
                use std::io::Write as _;
                let _ = write!(out, "{:x}\r\n", bytes.len());
                out.extend_from_slice(bytes);
                out.extend_from_slice(b"\r\n");
            }
        }
        self.connection.row.sent += bytes.len() as u64;
    }

    /// Sends a file's bytes as the next part of the body.
    async fn file(
        &mut self,
        framing: BodyFraming,
        file: std::os::fd::OwnedFd,
        range: FileHead,
        ends: bool,
    ) -> Option<Relayed> {
        let Some(mut file) = WorkerFile::open(file, range).await else {
            tracing::error!("the app returned a descriptor that is no regular file");
            return Some(Relayed::Broken(Reason::BadResponse));
        };
        if framing == BodyFraming::None {
            return self.settled(ends);
        }
        while let Some(piece) = file.next().await {
            let Ok(piece) = piece else {
                return Some(Relayed::Broken(Reason::BadResponse));
            };
            self.body(framing, &piece);
            if self.connection.flush().await.is_err() {
                return Some(Relayed::Broken(Reason::ClientGone));
            }
        }
        self.settled(ends)
    }

    fn trailers(&mut self, framing: BodyFraming, payload: &[u8]) {
        if framing == BodyFraming::Chunked
            && let Ok(head) = ResponseHead::decode(payload)
        {
            self.connection.out.bytes().extend_from_slice(b"0\r\n");
            response::encode_trailers(&head, self.connection.out.bytes());
            self.connection.out.bytes().extend_from_slice(b"\r\n");
            self.framing = Some(BodyFraming::UntilClose);
        }
    }

    /// After each frame: spool what memory may not hold, and see whether the response is whole.
    fn settled(&mut self, ends: bool) -> Option<Relayed> {
        if ends && self.framing == Some(BodyFraming::Chunked) {
            self.connection.out.bytes().extend_from_slice(b"0\r\n\r\n");
        }
        let edge = &self.connection.edge;
        if (!self.unbuffered || ends) && self.connection.out.settle(&edge.spool).is_err() {
            return Some(Relayed::Broken(Reason::SpoolFull));
        }
        if !ends {
            return None;
        }
        if self.left > 0 && self.framing != Some(BodyFraming::None) {
            tracing::error!(
                missing = self.left,
                "the app sent less than its Content-Length; the connection is closed uncleanly"
            );
            return Some(Relayed::Broken(Reason::BadResponse));
        }
        let close = self.close || self.framing == Some(BodyFraming::UntilClose);
        Some(Relayed::Whole(if close {
            After::Close
        } else {
            After::KeepAlive
        }))
    }
}

/// Waits out a response that nobody will read, so that its slot can serve again. The app is told
/// that its client left; one that does not end within `limit` loses its slot.
pub async fn drain(mut lease: Lease, limit: Duration) {
    let mut cancel = Vec::with_capacity(HEAD_LEN);
    begin(&mut cancel, Kind::Cancel, 0, lease.grant().stream_id());
    if lease.grant().send(&cancel, None).await.is_err() {
        return;
    }
    let ended = tokio::time::timeout(limit, async {
        loop {
            poll_fn(|cx| lease.grant().poll_frame(cx)).await?;
            let head = lease.grant().take()?.head;
            if head.is_end()
                || matches!(
                    head.kind,
                    Kind::RespAbort | Kind::RespTrailers | Kind::WsClose
                )
            {
                return Ok::<(), Fault>(());
            }
        }
    });
    if matches!(ended.await, Ok(Ok(()))) {
        lease.give_back();
    }
}

/// Memory one response may take is [`IN_MEMORY`] and the frame that crossed it.
const _: () = assert!(IN_MEMORY >= UPLOAD_PIECE);
