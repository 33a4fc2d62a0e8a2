//! One exchange with an upstream: the request to it, its answer to the client, both as far as they go. The upstream is not
//! trusted: its head is read strictly, and its body is framed anew (threats E-05, E-06, E-11).

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::io::AsyncWrite as _;

use crate::edge::body::{Body, BodyReader, spool_refused};
use crate::edge::compress::SLICE;
use crate::edge::connection::{Connection, Sign, poll_sign};
use crate::edge::deadline::Elapsed;
use crate::edge::h1::chunked::Decoder;
use crate::edge::h1::response::{self, Private};
use crate::edge::io::Io;
use crate::edge::outgoing::ClientGone;
use crate::edge::patience::Patience;
use crate::edge::reason::Reason;
use crate::edge::sending::{After, Sending};
use crate::upstream::{Group, Stream};

use super::answer_head::{self, AnswerHead, Framing};
use super::head::Ends;

/// Bytes read at once: a usual answer whole, and a good piece of a large one.
const READ: usize = 16 * 1024;

/// Bytes of a body that are read or sent at once.
const PIECE: usize = 64 * 1024;

/// Interim responses before one answer: more are a flood.
const INTERIM: u32 = 20;

/// Where the request's body comes from.
pub enum Source<'b> {
    /// It is here.
    Body(&'b Body),
    /// It is still coming in.
    Stream(BodyReader),
}

/// How an exchange ended.
pub enum Forwarded {
    /// The whole answer is with the client, or in `out`; whether the connection can carry another request.
    Whole(After, bool),
    /// A page of the operator takes the place of the answer.
    Page(Private, bool),
    /// It switches to a WebSocket: its head, and how many bytes of `input` it took.
    Switched(AnswerHead, usize),
    /// Nothing was sent to the client.
    Failed(Failure),
    /// The answer had begun and cannot be finished.
    Broken(Reason),
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Failure {
    /// The connection ended before a byte of an answer; whether a byte of the request was sent.
    Closed {
        wrote: bool,
    },
    /// It ended within the head of the answer.
    Torn,
    TimedOut,
    /// What came is no answer: what is wrong with it.
    Bad(&'static str),
    /// The client's body ended early, was malformed, too large or too slow.
    Upload(Reason),
    ClientGone,
    /// We cannot go on.
    Ours(Reason),
}

/// One exchange.
pub struct Exchange<'c, 'b> {
    connection: &'c mut Connection,
    group: &'c Group,
    stream: &'c mut Stream,
    request: Request<'b>,
    /// What came and was not used.
    pub input: Vec<u8>,
    at: usize,
    searched: usize,
    answer: Answer,
    /// The connection may carry another request when this one is over.
    keep_alive: bool,
    interim: u32,
    sending: Option<Sending>,
    /// Bytes that were coded since others had their turn.
    coded: usize,
    patience: Patience,
    /// When something last went either way; `None`: since the last wait.
    moved: Option<Instant>,
    unbuffered: bool,
    watches: bool,
}

/// The request on its way.
struct Request<'b> {
    /// Bytes that are being sent.
    bytes: Vec<u8>,
    sent: usize,
    source: Source<'b>,
    chunked: bool,
    /// A spooled body, and how far it was read.
    file: Option<(std::fs::File, u64)>,
    /// All of it is in `bytes`.
    ended: bool,
    /// The upstream takes no more of it; it may still answer.
    refused: bool,
    any: bool,
    unflushed: bool,
    /// Nothing moves until the client sends more.
    waits_for_client: bool,
}

/// How far the answer is.
enum Answer {
    Head,
    Length(u64),
    Chunked(Box<Decoder>, Vec<u8>),
    UntilClose,
}

impl<'c, 'b> Exchange<'c, 'b> {
    /// `bytes` is the head; `file` the body when it is spooled.
    pub fn new(
        connection: &'c mut Connection,
        group: &'c Group,
        stream: &'c mut Stream,
        mut bytes: Vec<u8>,
        (source, file): (Source<'b>, Option<OwnedFd>),
        ends: Ends,
    ) -> Self {
        let mut ended = false;
        if let Source::Body(body) = &source {
            bytes.extend_from_slice(body.inline());
            ended = file.is_none();
        }
        let unbuffered = !group.said.response_buffering;
        Self {
            connection,
            group,
            stream,
            request: Request {
                bytes,
                sent: 0,
                source,
                chunked: ends == Ends::Chunked,
                file: file.map(|file| (file.into(), 0)),
                ended,
                refused: false,
                any: false,
                unflushed: false,
                waits_for_client: false,
            },
            input: Vec::new(),
            at: 0,
            searched: 0,
            answer: Answer::Head,
            keep_alive: false,
            interim: 0,
            sending: None,
            coded: 0,
            patience: Patience::default(),
            moved: None,
            unbuffered,
            watches: true,
        }
    }

    /// Until the answer is whole, the connection becomes something else, or it fails.
    pub async fn run(&mut self) -> Forwarded {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    /// The memory of the head for the next one, what is left to read of the request's body, and what came behind the
    /// answer.
    pub fn into_rest(self) -> (Vec<u8>, Option<BodyReader>, Vec<u8>) {
        let body = match self.request.source {
            Source::Body(_) => None,
            Source::Stream(body) => Some(body),
        };
        (self.request.bytes, body, self.input)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Forwarded> {
        loop {
            if self.poll_out(cx).is_ready() {
                return Poll::Ready(self.failed(Failure::ClientGone, Reason::ClientGone));
            }
            if let Poll::Ready(failure) = self.poll_request(cx) {
                let broken = match failure {
                    Failure::Upload(reason) | Failure::Ours(reason) => reason,
                    _ => Reason::UpstreamShort,
                };
                return Poll::Ready(self.failed(failure, broken));
            }
            if !self.connection.may_take_more(self.unbuffered) {
                break;
            }
            let Poll::Ready(read) = self.poll_fill(cx) else {
                break;
            };
            self.moved = None;
            let step = match read {
                Ok(1..) => self.digest(),
                Ok(0) | Err(_) => Some(self.ended(read.is_ok())),
            };
            if let Some(forwarded) = step {
                return Poll::Ready(forwarded);
            }
            if self.coded >= SLICE {
                // Coding takes its time: others have their turn.
                self.coded = 0;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
        if self.connection.flush_coded(self.sending.as_mut()) && self.poll_out(cx).is_ready() {
            return Poll::Ready(self.failed(Failure::ClientGone, Reason::ClientGone));
        }
        if self.watches
            && self.request.ended
            && let Poll::Ready(sign) = self.poll_client(cx)
        {
            return Poll::Ready(sign);
        }
        self.poll_deadline(cx)
    }

    /// Reads once from the upstream. Without anything that waits to be used the memory is the thread's: an exchange that
    /// waits holds none.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let room = if self.sending.is_some() { PIECE } else { READ };
        if self.input.is_empty() {
            self.input = self.connection.thread.memory.take();
        }
        let read = self.stream.poll_fill(cx, &mut self.input, room);
        if self.input.is_empty() {
            self.give_back();
        }
        read
    }

    fn give_back(&mut self) {
        let memory = std::mem::take(&mut self.input);
        self.connection.thread.memory.give_back(memory);
    }

    fn failed(&self, failure: Failure, broken: Reason) -> Forwarded {
        match self.sending {
            None => Forwarded::Failed(failure),
            Some(_) => Forwarded::Broken(broken),
        }
    }

    /// Moves what is there for the client; ready only when that fails.
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let connection = &mut *self.connection;
        match connection.out.poll_send(cx, &mut connection.io) {
            Poll::Ready(Ok(())) => {
                self.patience = Patience::default();
                Poll::Pending
            }
            Poll::Ready(Err(ClientGone)) => Poll::Ready(()),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Moves the request on; ready only when that fails for good.
    fn poll_request(&mut self, cx: &mut Context<'_>) -> Poll<Failure> {
        let request = &mut self.request;
        request.waits_for_client = false;
        loop {
            while request.sent < request.bytes.len() && !request.refused {
                let wrote =
                    Pin::new(&mut *self.stream).poll_write(cx, &request.bytes[request.sent..]);
                match ready!(wrote) {
                    Ok(count @ 1..) => {
                        request.sent += count;
                        (request.any, request.unflushed) = (true, true);
                        self.moved = None;
                    }
                    // What it said before that may be on its way.
                    Ok(0) | Err(_) => request.refused = true,
                }
            }
            if request.unflushed && !request.refused {
                request.refused = ready!(Pin::new(&mut *self.stream).poll_flush(cx)).is_err();
                request.unflushed = false;
            }
            if request.ended || request.refused {
                return Poll::Pending;
            }
            let Connection { io, buffer, .. } = &mut *self.connection;
            if let Err(failure) = ready!(request.poll_more(cx, io, buffer)) {
                return Poll::Ready(failure);
            }
        }
    }

    /// The connection has ended.
    fn ended(&mut self, cleanly: bool) -> Forwarded {
        match (&self.answer, &self.sending) {
            (Answer::UntilClose, Some(_)) if cleanly => self.finish(),
            (_, Some(_)) => Forwarded::Broken(Reason::UpstreamShort),
            (_, None) if self.input.len() > self.at || self.interim > 0 => {
                Forwarded::Failed(Failure::Torn)
            }
            (_, None) => Forwarded::Failed(Failure::Closed {
                wrote: self.request.any,
            }),
        }
    }

    /// Uses what came; `Some` ends the exchange.
    fn digest(&mut self) -> Option<Forwarded> {
        while matches!(self.answer, Answer::Head) {
            let data = &self.input[self.at..];
            let read = match answer_head::end(data, self.searched) {
                Ok(None) => {
                    self.searched = data.len();
                    return None;
                }
                Ok(Some(end)) => {
                    let head_only = self.connection.head.method() == b"HEAD";
                    answer_head::parse(&data[..end], head_only).map(|head| (head, end))
                }
                Err(wrong) => Err(wrong),
            };
            let (head, end) = match read {
                Ok(read) => read,
                Err(wrong) => return Some(Forwarded::Failed(Failure::Bad(wrong.0))),
            };
            self.at += end;
            self.searched = 0;
            let step = match head.status {
                101 => Some(self.switch(head)),
                100..200 => self.info(&head),
                _ => self.head(&head),
            };
            if step.is_some() {
                return step;
            }
        }
        self.body()
    }

    fn switch(&self, head: AnswerHead) -> Forwarded {
        match self.connection.head.is_websocket() && head.websocket {
            true => Forwarded::Switched(head, self.at),
            false => Forwarded::Failed(Failure::Bad(
                "it switches protocols, and nobody has asked for that",
            )),
        }
    }

    /// 103 goes on; 100 was ours to say, and others nobody knows. A client of HTTP/1.0 gets none (RFC 9110 section 15.2).
    fn info(&mut self, head: &AnswerHead) -> Option<Forwarded> {
        self.interim += 1;
        if self.interim > INTERIM {
            let failure = Failure::Bad("too many interim responses come before it");
            return Some(Forwarded::Failed(failure));
        }
        let connection = &mut *self.connection;
        if head.status != 103 || connection.head.version() < 11 || !connection.out.has_room() {
            return None;
        }
        let mark = connection.out.bytes().len();
        if let Some(said) = head.said()
            && response::encode_info(&said, connection.out.bytes()).is_ok()
        {
            connection.interim(mark);
        }
        None
    }

    fn head(&mut self, head: &AnswerHead) -> Option<Forwarded> {
        let failed = |what| Some(Forwarded::Failed(Failure::Bad(what)));
        let Some(said) = head.said() else {
            return failed("its head cannot be read");
        };
        let connection = &mut *self.connection;
        let none = matches!(head.framing, Framing::None | Framing::Length(0));
        let coded = connection.prepare(&said, false);
        let context = response::ResponseContext {
            recode: coded.recode,
            ..connection.response_context(None)
        };
        let mark = connection.out.bytes().len();
        let encoded = response::encode(&said, &context, connection.out.bytes());
        let encoded = match encoded {
            Ok(encoded) => encoded,
            Err(_) => {
                connection.out.bytes().truncate(mark);
                return failed("its head cannot be sent on");
            }
        };
        let whole = self.request.ended && self.request.sent == self.request.bytes.len();
        self.keep_alive = head.keep_alive && whole && !self.request.refused;
        if none && connection.shows_page(head.status) {
            connection.out.bytes().truncate(mark);
            let mut private = encoded.private;
            private.page = true;
            response::keep_fields(&said, &mut private);
            let clean = self.keep_alive && self.at == self.input.len();
            return Some(Forwarded::Page(private, clean));
        }
        connection.note_head(mark);
        connection.row.status = head.status;
        connection.row.head_came();
        self.unbuffered |= encoded.private.unbuffered;
        self.sending = Some(Sending::new(&encoded, coded.encoder));
        self.answer = match head.framing {
            Framing::None => Answer::Length(0),
            Framing::Length(length) => Answer::Length(length),
            Framing::Chunked => Answer::Chunked(Box::default(), Vec::new()),
            Framing::UntilClose => Answer::UntilClose,
        };
        None
    }

    /// Sends on what is there of the body.
    fn body(&mut self) -> Option<Forwarded> {
        let (Some(sending), out) = (&mut self.sending, self.connection.out.bytes()) else {
            return None;
        };
        let data = &self.input[self.at..];
        let (sent, used, done) = match &mut self.answer {
            Answer::Head => return None,
            Answer::UntilClose => (sending.append(data, out), data.len(), false),
            Answer::Length(left) => {
                let count = data.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= count as u64;
                (sending.append(&data[..count], out), count, *left == 0)
            }
            Answer::Chunked(decoder, piece) => {
                piece.clear();
                let Ok(decoded) = decoder.decode(data, piece) else {
                    return Some(Forwarded::Broken(Reason::UpstreamShort));
                };
                (sending.append(piece, out), decoded.consumed, decoded.done)
            }
        };
        if sending.is_coded() {
            self.coded += used;
        }
        self.connection.row.sent += sent as u64;
        self.at += used;
        if self.at == self.input.len() {
            self.at = 0;
            self.give_back();
        }
        if done {
            return Some(self.finish());
        }
        let spool = &self.connection.edge.spool;
        if self.unbuffered {
            return None;
        }
        let settled = self.connection.out.settle(spool);
        settled.err().map(spool_refused).map(Forwarded::Broken)
    }

    /// The answer is whole.
    fn finish(&mut self) -> Forwarded {
        let connection = &mut *self.connection;
        let Some(sending) = &mut self.sending else {
            return Forwarded::Broken(Reason::Internal);
        };
        connection.row.sent += sending.finish(connection.out.bytes()) as u64;
        let end = sending.end(connection.out.bytes());
        if let Err(error) = connection.out.settle(&connection.edge.spool) {
            return Forwarded::Broken(spool_refused(error));
        }
        // What came behind it belongs to no request.
        let clean = self.keep_alive && self.at == self.input.len();
        match end {
            Ok(after) => Forwarded::Whole(after, clean),
            Err(_) => Forwarded::Broken(Reason::UpstreamShort),
        }
    }

    /// Looks whether the client is still there; ready only when it is surely gone. One that has only closed its sending
    /// side still gets its answer.
    fn poll_client(&mut self, cx: &mut Context<'_>) -> Poll<Forwarded> {
        let connection = &mut *self.connection;
        let sign = ready!(poll_sign(cx, &mut connection.io, &mut connection.buffer));
        self.watches = false;
        let reset = matches!(connection.io, Io::Stream(_));
        match sign {
            Sign::Gone => {}
            Sign::End if reset => {}
            Sign::End | Sign::More => return Poll::Pending,
        }
        Poll::Ready(self.failed(Failure::ClientGone, Reason::ClientGone))
    }

    /// Ready when the one who is waited for has had its time: the client for what it does not take or does not send, else
    /// the upstream.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<Forwarded> {
        let connection = &mut *self.connection;
        let (times, deadline) = (&connection.edge.times, &mut connection.deadline);
        if !connection.out.is_empty() {
            let given_up = self.patience.poll(cx, &connection.io, times, deadline);
            ready!(given_up);
            return Poll::Ready(self.failed(Failure::ClientGone, Reason::WriteTimeout));
        }
        if let (Source::Stream(body), true) = (&self.request.source, self.request.waits_for_client)
        {
            deadline.set(body.deadline(times));
            let Elapsed = ready!(deadline.poll(cx));
            let late = Reason::BodyTooSlow;
            return Poll::Ready(self.failed(Failure::Upload(late), late));
        }
        let said = &self.group.said;
        let asked = self.request.ended && self.request.sent == self.request.bytes.len();
        let patience = match self.sending.is_none() && asked {
            true => said.response,
            false => said.silence,
        };
        let moved = self.moved.get_or_insert_with(Instant::now);
        deadline.set(*moved + patience);
        let Elapsed = ready!(deadline.poll(cx));
        Poll::Ready(self.failed(Failure::TimedOut, Reason::UpstreamTimeout))
    }
}

impl Request<'_> {
    /// Puts the next piece of the body into `bytes`, all of which was sent.
    fn poll_more(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut Io,
        buffer: &mut crate::edge::buffer::Buffer,
    ) -> Poll<Result<(), Failure>> {
        self.bytes.clear();
        self.sent = 0;
        let body = match &mut self.source {
            Source::Body(body) => {
                let len = body.len();
                return Poll::Ready(self.read_file(len).map_err(|error| {
                    tracing::error!(%error, "a spooled request body cannot be read");
                    Failure::Ours(Reason::Internal)
                }));
            }
            Source::Stream(body) => body,
        };
        let mut piece = Vec::new();
        let came = body.poll_piece(cx, io, buffer, &mut piece);
        self.waits_for_client = came.is_pending();
        if let Err(reason) = ready!(came) {
            return Poll::Ready(Err(Failure::Upload(reason)));
        }
        self.ended = body.is_done();
        if self.chunked {
            if !piece.is_empty() {
                let size = format!("{:x}\r\n", piece.len());
                self.bytes.extend_from_slice(size.as_bytes());
                self.bytes.extend_from_slice(&piece);
                self.bytes.extend_from_slice(b"\r\n");
            }
            if self.ended {
                self.bytes.extend_from_slice(b"0\r\n\r\n");
            }
        } else {
            self.bytes = piece;
        }
        Poll::Ready(Ok(()))
    }

    fn read_file(&mut self, len: u64) -> io::Result<()> {
        let Some((file, read)) = &mut self.file else {
            self.ended = true;
            return Ok(());
        };
        let count = (len - *read).min(PIECE as u64) as usize;
        self.bytes.resize(count, 0);
        file.read_exact_at(&mut self.bytes, *read)?;
        *read += count as u64;
        self.ended = *read == len;
        Ok(())
    }
}
