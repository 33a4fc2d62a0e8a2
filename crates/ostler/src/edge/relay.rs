//! A worker's frames → bytes for the client. The worker is not trusted: what it says is checked
//! here before a byte of it leaves (threats E-11).

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use ostler_wire::{FileHead, HEAD_LEN, Kind, ResponseHead, begin};

use crate::pool::{Fault, Frame, Lease, Rest, Session, Worker};

use super::body::{BodyReader, spool_refused};
use super::compress::{Prepared, SLICE};
use super::connection::{Connection, Sign, poll_sign};
use super::deadline::Elapsed;
use super::engineio;
use super::h1::response::{self, Private};
use super::outgoing::{ClientGone, IN_MEMORY};
use super::patience::Patience;
use super::reason::Reason;
use super::sending::{After, Sending};
use super::site::App;
use super::upload::{self, Upload};
use super::worker_file::WorkerFile;

/// How an exchange with a worker ended.
pub enum Relayed {
    /// The whole response is with the client, or in `out`.
    Whole(After),
    /// The rest of the response is this file; the worker has nothing to do with it any more.
    File(WorkerFile, Sending),
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

/// What the next step of an exchange was.
enum Turn {
    Frame,
    Elapsed,
    /// The client takes nothing more of what is there for it.
    Stalled,
    ClientGone,
    Lost(Fault),
    Upload(Reason),
}

/// One exchange: the response so far.
pub struct Relay<'c> {
    connection: &'c mut Connection,
    app: &'c App,
    upload: Option<Upload>,
    /// The response's body, once its head is on the way.
    sending: Option<Sending>,
    /// The worker has said its last word.
    done: bool,
    /// With the client, while there are bytes for it that it has not taken.
    patience: Patience,
    /// When the response head must be there.
    due: Instant,
    /// Hold the worker back rather than spool (server-sent events and other streams).
    unbuffered: bool,
    /// The client is watched while the app works: it has sent its whole request and nothing behind
    /// it, and the app can be told that it left.
    watches: bool,
    /// Bytes coded since others had their turn.
    coded: usize,
    /// The body may name a Socket.IO session, which this worker then holds.
    opens_session: bool,
}

impl<'c> Relay<'c> {
    pub fn new(connection: &'c mut Connection, app: &'c App, upload: Option<Upload>) -> Self {
        let unbuffered = !app.response_buffering;
        let watches = app.pool.streams();
        let due = connection.row.dispatched + app.response;
        let opens_session = engineio::session(connection.head.query()) == Session::Opens;
        Self {
            connection,
            app,
            upload,
            sending: None,
            done: false,
            patience: Patience::default(),
            due,
            unbuffered,
            watches,
            coded: 0,
            opens_session,
        }
    }

    /// Relays until the response is whole, the exchange becomes something else, or it fails.
    pub async fn run(&mut self, lease: &mut Lease) -> Relayed {
        loop {
            match self.turn(lease).await {
                Turn::Frame => {}
                Turn::Elapsed => return self.failed(Failure::TimedOut, Reason::WorkerTimeout),
                Turn::Stalled => return self.failed(Failure::ClientGone, Reason::WriteTimeout),
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
            self.app.pool.learn_session(session, worker);
        }
    }

    /// What is left to do on both sides when the exchange is over: for the worker, and of the request
    /// body.
    pub fn into_rest(self) -> (Rest, Option<BodyReader>) {
        let connection = &self.connection;
        let may_hijack = connection.head.is_websocket() && !self.app.pool.streams();
        let (body, unsent) = self.upload.map(Upload::into_rest).unzip();
        let rest = Rest {
            answered: self.done,
            unsent: unsent.flatten(),
            may_hijack,
        };
        (rest, body)
    }

    fn failed(&self, failure: Failure, broken: Reason) -> Relayed {
        match self.sending {
            None => Relayed::Failed(failure),
            Some(_) => Relayed::Broken(broken),
        }
    }

    /// Moves bytes both ways until the worker's next frame is there or something ends.
    async fn turn(&mut self, lease: &mut Lease) -> Turn {
        poll_fn(|cx| self.poll_turn(cx, lease)).await
    }

    fn poll_turn(&mut self, cx: &mut Context<'_>, lease: &mut Lease) -> Poll<Turn> {
        if let Poll::Ready(gone) = self.poll_out(cx) {
            return Poll::Ready(gone);
        }
        if self.connection.may_take_more(self.unbuffered)
            && let Poll::Ready(result) = lease.grant().poll_frame(cx)
        {
            return Poll::Ready(result.map_or_else(Turn::Lost, |()| Turn::Frame));
        }
        if self.connection.flush_coded(self.sending.as_mut())
            && let Poll::Ready(gone) = self.poll_out(cx)
        {
            return Poll::Ready(gone);
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
        self.poll_deadline(cx)
    }

    /// Moves what is there for the client; ready only when that fails.
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<Turn> {
        let connection = &mut *self.connection;
        match connection.out.poll_send(cx, &mut connection.io) {
            Poll::Ready(Ok(())) => {
                self.patience = Patience::default();
                Poll::Pending
            }
            Poll::Ready(Err(ClientGone)) => Poll::Ready(Turn::ClientGone),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Ready when the one who is waited for has had its time: the client for what it does not take,
    /// or for its body; else the app.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<Turn> {
        let connection = &mut *self.connection;
        let (times, deadline) = (&connection.edge.times, &mut connection.deadline);
        if !connection.out.is_empty() {
            let given_up = self.patience.poll(cx, &connection.io, times, deadline);
            return given_up.map(|ClientGone| Turn::Stalled);
        }
        let upload = self.upload.as_ref();
        let (at, turn) = match upload.and_then(|upload| upload.deadline(times)) {
            Some(at) => (at, Turn::Upload(Reason::BodyTooSlow)),
            None if self.sending.is_none() => (self.due, Turn::Elapsed),
            // The app takes its time between pieces: that is its right once it has begun.
            None => return Poll::Pending,
        };
        deadline.set(at);
        deadline.poll(cx).map(|Elapsed| turn)
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

    /// Moves the request body on; ready only when that fails.
    fn poll_upload(&mut self, cx: &mut Context<'_>, lease: &mut Lease) -> Poll<Turn> {
        let Some(upload) = &mut self.upload else {
            return Poll::Pending;
        };
        let connection = &mut *self.connection;
        loop {
            let (io, buffer) = (&mut connection.io, &mut connection.buffer);
            match ready!(upload.poll_step(cx, lease, io, buffer)) {
                // The app's time begins when it has the body.
                upload::Step::Came => self.due = Instant::now() + self.app.response,
                upload::Step::Lost(fault) => return Poll::Ready(Turn::Lost(fault)),
                upload::Step::Refused(reason) => return Poll::Ready(Turn::Upload(reason)),
            }
        }
    }

    /// Takes one frame of the worker; `Some` ends the exchange.
    async fn frame(&mut self, frame: Frame<'_>) -> Option<Relayed> {
        let ends = frame.head.is_end();
        let begun = self.sending.is_some();
        match (frame.head.kind, begun) {
            (Kind::RespInfo, false) => self.info(frame.payload),
            (Kind::RespHead, false) => self.response(frame.payload, ends).await,
            (Kind::RespBody, true) => {
                self.body(frame.payload).await;
                self.settled(ends)
            }
            (Kind::RespFile, true) => {
                let Ok(range) = FileHead::decode(frame.payload) else {
                    return Some(Relayed::Broken(Reason::BadResponse));
                };
                let Some(file) = frame.fd else {
                    return Some(Relayed::Broken(Reason::BadResponse));
                };
                self.file(file, range, ends).await
            }
            (Kind::RespTrailers, true) => {
                self.trailers(frame.payload);
                self.settled(true)
            }
            // Without a text there is nothing to tell: the worker has seen that the client left.
            (Kind::RespAbort, true) if frame.payload.is_empty() => {
                Some(Relayed::Broken(Reason::ClientGone))
            }
            (Kind::RespAbort, false) if frame.payload.is_empty() => {
                Some(Relayed::Failed(Failure::ClientGone))
            }
            (Kind::RespAbort, true) => Some(Relayed::Broken(Reason::ResponseAborted)),
            (Kind::RespAbort, false) => Some(Relayed::Failed(Failure::App)),
            (Kind::Hijack, false) => Some(Relayed::Hijacked),
            (Kind::WsAccept, false) => Some(Relayed::WebSocket(frame.payload.to_vec())),
            (_, false) => Some(Relayed::Failed(Failure::BadResponse(Reason::BadResponse))),
            (_, true) => Some(Relayed::Broken(Reason::BadResponse)),
        }
    }

    /// 100 and 103 go out at once; a client of HTTP/1.0 gets none (RFC 9110 section 15.2), and one that
    /// does not read no more than memory may hold: nothing of the response depends on them.
    fn info(&mut self, payload: &[u8]) -> Option<Relayed> {
        let Ok(head) = ResponseHead::decode(payload) else {
            return Some(Relayed::Failed(Failure::BadResponse(Reason::BadResponse)));
        };
        if self.connection.head.version() < 11 || !self.connection.out.has_room() {
            return None;
        }
        let mark = self.connection.out.bytes().len();
        match response::encode_info(&head, self.connection.out.bytes()) {
            Ok(()) => {
                self.connection.interim(mark);
                None
            }
            Err(reason) => Some(Relayed::Failed(Failure::BadResponse(reason))),
        }
    }

    async fn response(&mut self, payload: &[u8], ends: bool) -> Option<Relayed> {
        let Ok(head) = ResponseHead::decode(payload) else {
            return Some(Relayed::Failed(Failure::BadResponse(Reason::BadResponse)));
        };
        let mut coded = self.connection.prepare(&head, ends);
        if let Some(relayed) = self.head(&head, &mut coded, ends) {
            return Some(relayed);
        }
        self.body(coded.whole.as_deref().unwrap_or(head.inline))
            .await;
        self.settled(ends)
    }

    /// Writes the head; `Some` when that ends the exchange.
    fn head(
        &mut self,
        head: &ResponseHead<'_>,
        coded: &mut Prepared,
        ends: bool,
    ) -> Option<Relayed> {
        let bad = |reason| Some(Relayed::Failed(Failure::BadResponse(reason)));
        let context = response::ResponseContext {
            recode: coded.recode,
            ..self.connection.response_context(coded.body_len(head, ends))
        };
        let mark = self.connection.out.bytes().len();
        let encoded = match response::encode(head, &context, self.connection.out.bytes()) {
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
            response::keep_fields(head, &mut private);
            return Some(Relayed::Internal(private));
        }
        if ends && head.inline.is_empty() && self.connection.shows_page(head.status) {
            self.connection.out.bytes().truncate(mark);
            let mut private = encoded.private;
            private.page = true;
            response::keep_fields(head, &mut private);
            return Some(Relayed::Internal(private));
        }
        self.connection.note_head(mark);
        self.connection.row.status = head.status;
        self.unbuffered |= encoded.private.unbuffered;
        self.sending = Some(Sending::new(&encoded, coded.encoder.take()));
        self.connection.row.head_came();
        None
    }

    /// Appends body bytes in the client's coding and framing. Coding takes its time: others have their turn between.
    async fn body(&mut self, bytes: &[u8]) {
        if !self.sending.as_ref().is_some_and(Sending::is_coded) {
            return self.append(bytes);
        }
        for slice in bytes.chunks(SLICE) {
            self.append(slice);
            self.coded += slice.len();
            if self.coded >= SLICE {
                self.coded = 0;
                tokio::task::yield_now().await;
            }
        }
    }

    fn append(&mut self, bytes: &[u8]) {
        if let Some(sending) = &mut self.sending {
            let sent = sending.append(bytes, self.connection.out.bytes());
            self.connection.row.sent += sent as u64;
        }
    }

    /// Takes a file as the next part of the body, or as the rest of it.
    async fn file(
        &mut self,
        file: std::os::fd::OwnedFd,
        range: FileHead,
        ends: bool,
    ) -> Option<Relayed> {
        let Some(mut file) = WorkerFile::open(&self.connection.thread.disk, file, range).await
        else {
            tracing::error!("the app returned a descriptor that is no regular file");
            return Some(Relayed::Broken(Reason::BadResponse));
        };
        if ends {
            let sending = self.sending.take()?;
            return Some(Relayed::File(file, sending));
        }
        while let Some(piece) = file.next(self.connection.file_room()).await {
            let Ok(piece) = piece else {
                return Some(Relayed::Broken(Reason::BadResponse));
            };
            self.body(&piece).await;
            drop(piece);
            if self.connection.flush().await.is_err() {
                return Some(Relayed::Broken(Reason::ClientGone));
            }
        }
        self.settled(false)
    }

    fn trailers(&mut self, payload: &[u8]) {
        if let (Ok(trailers), Some(sending)) = (ResponseHead::decode(payload), &mut self.sending) {
            let last = sending.finish(self.connection.out.bytes());
            self.connection.row.sent += last as u64;
            let mark = self.connection.out.bytes().len();
            sending.trailers(&trailers, self.connection.out.bytes());
            self.connection.trailers(mark);
        }
    }

    /// After each frame: spool what memory may not hold, and see whether the response is whole.
    fn settled(&mut self, ends: bool) -> Option<Relayed> {
        let out = &mut self.connection.out;
        let sending = self.sending.as_mut()?;
        if ends {
            self.connection.row.sent += sending.finish(out.bytes()) as u64;
        }
        let end = ends.then(|| sending.end(out.bytes()));
        if (!self.unbuffered || ends)
            && let Err(error) = out.settle(&self.connection.edge.spool)
        {
            return Some(Relayed::Broken(spool_refused(error)));
        }
        end.map(|end| end.map_or_else(Relayed::Broken, Relayed::Whole))
    }
}

/// Memory one response may take is [`IN_MEMORY`] and the frame that crossed it.
const _: () = assert!(IN_MEMORY >= upload::PIECE);
