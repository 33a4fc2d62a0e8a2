//! One stream of an HTTP/2 connection, as the bytes of one exchange: reading gives its DATA and then
//! its end, writing sends the response head and DATA as far as the client's windows are open.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Response};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::fields;
use super::session::Open;

/// Bytes handed to `h2` at once: what it holds of one stream before the socket has it.
pub const PIECE: usize = 64 * 1024;

/// The largest frame that every client takes (RFC 9113 section 4.2). Only whole ones are sent while there
/// are more bytes and windows: a client that gives credit back for each frame would otherwise make the
/// next ones ever smaller.
pub const FRAME: usize = 16 * 1024;

/// How long a piece of a frame waits for credit for the rest. Not for ever: other streams of the
/// connection may have that credit, and wait too.
const HOLD: Duration = Duration::from_millis(10);

/// Interim responses of one exchange. `h2` queues them without a limit while a client does not read.
const INTERIM: u32 = 16;

/// One stream.
#[derive(Debug)]
pub struct Stream {
    body: RecvStream,
    /// DATA that came and was not read; its credit is not given back.
    piece: Bytes,
    answer: Answer,
    trailers: Option<HeaderMap>,
    /// Nothing is written any more but what is there now.
    is_last: bool,
    /// More than what is written now is there.
    has_more: bool,
    /// Bytes handed to `h2`.
    handed: u64,
    interim: u32,
    /// How long less than a frame waits for more credit.
    held: Option<Pin<Box<Sleep>>>,
    /// Its connection, which counts it among its streams as long as it lives.
    open: Open,
}

/// How far the response is.
#[derive(Debug)]
enum Answer {
    /// Its head is not written, or written and not sent: it may be the end of the stream.
    Head(SendResponse<Bytes>, Option<Response<()>>),
    Body(SendStream<Bytes>),
    Ended,
}

impl Stream {
    pub fn new(body: RecvStream, respond: SendResponse<Bytes>, open: Open) -> Self {
        Self {
            body,
            piece: Bytes::new(),
            answer: Answer::Head(respond, None),
            trailers: None,
            is_last: false,
            has_more: false,
            handed: 0,
            interim: 0,
            held: None,
            open,
        }
    }

    pub fn is_tls(&self) -> bool {
        self.open.connection().is_tls
    }

    /// What the client has taken, for the patience with it. What `h2` took goes out when the client's
    /// windows and its socket allow; while the socket holds the whole connection up, whatever the
    /// kernel gets rid of counts for each of its streams.
    pub fn taken(&self) -> u64 {
        self.handed + self.open.connection().drained()
    }

    /// The response's head, which goes out with what follows.
    pub fn set_head(&mut self, text: Vec<u8>) {
        if let Answer::Head(_, head) = &mut self.answer {
            *head = Some(fields::response(text));
        }
    }

    /// Sends an interim response.
    pub fn interim(&mut self, text: Vec<u8>) {
        if let Answer::Head(respond, None) = &mut self.answer
            && self.interim < INTERIM
        {
            self.interim += 1;
            // A stream that is gone shows it at the next step.
            let _ = respond.send_informational(fields::response(text));
        }
    }

    /// The stream ends with these instead of its last byte.
    pub fn set_trailers(&mut self, text: Vec<u8>) {
        let trailers = fields::fields(&Bytes::from(text));
        self.trailers = (!trailers.is_empty()).then_some(trailers);
    }

    /// What is written next is the last.
    pub fn finish(&mut self) {
        self.is_last = true;
    }

    /// Whether more is there than what is written next.
    pub fn set_more(&mut self, has_more: bool) {
        self.has_more = has_more;
    }

    /// Ends the stream so that the client cannot take its response for whole.
    pub fn reset(&mut self) {
        self.reset_for(Reason::INTERNAL_ERROR);
    }

    /// Ends the stream of what is no request (RFC 9113 section 8.1.1).
    pub fn refuse(&mut self) {
        self.reset_for(Reason::PROTOCOL_ERROR);
    }

    fn reset_for(&mut self, reason: Reason) {
        match &mut self.answer {
            Answer::Head(respond, _) => respond.send_reset(reason),
            Answer::Body(send) => send.send_reset(reason),
            Answer::Ended => {}
        }
        self.answer = Answer::Ended;
    }

    /// Ready when the client has reset the stream or its connection is gone.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.answer {
            Answer::Head(respond, _) => respond.poll_reset(cx).map(drop),
            Answer::Body(send) => send.poll_reset(cx).map(drop),
            Answer::Ended => Poll::Pending,
        }
    }

    /// Sends the head, if it was not; `ends` when nothing follows it.
    fn open(&mut self, ends: bool) -> io::Result<Option<&mut SendStream<Bytes>>> {
        if let Answer::Head(respond, head) = &mut self.answer {
            let Some(head) = head.take() else {
                return Ok(None);
            };
            let send = respond.send_response(head, ends).map_err(gone)?;
            self.answer = match ends {
                true => Answer::Ended,
                false => Answer::Body(send),
            };
        }
        Ok(match &mut self.answer {
            Answer::Body(send) => Some(send),
            Answer::Head(..) | Answer::Ended => None,
        })
    }

    /// Ready with how many of `wanted` bytes may be sent now: whole frames, or the last bytes, or what
    /// there is after a moment.
    fn poll_room(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<io::Result<usize>> {
        let broken = || io::Error::from(io::ErrorKind::BrokenPipe);
        let mut held = self.held.take();
        let send = self.open(false)?.ok_or_else(broken)?;
        let mut room = send.capacity();
        if room < wanted.min(FRAME) {
            send.reserve_capacity(wanted.min(PIECE));
            room = send.capacity();
        }
        while room < wanted.min(FRAME) {
            match send.poll_capacity(cx) {
                Poll::Ready(Some(granted)) => room = granted.map_err(gone)?,
                Poll::Ready(None) => return Poll::Ready(Err(broken())),
                Poll::Pending => {
                    let sleep = held.get_or_insert_with(|| Box::pin(sleep(HOLD)));
                    let waited = sleep.as_mut().poll(cx).is_ready();
                    if waited && room > 0 {
                        return Poll::Ready(Ok(room));
                    }
                    // Without any credit it is begun anew: a timer that has fired is not asked again.
                    self.held = held.filter(|_| !waited);
                    return Poll::Pending;
                }
            }
        }
        if room > FRAME && wanted > FRAME {
            room -= room % FRAME;
        }
        Poll::Ready(Ok(room.min(wanted)))
    }

    fn end(&mut self) -> io::Result<()> {
        let trailers = self.trailers.take();
        if let Some(send) = self.open(trailers.is_none())? {
            match trailers {
                Some(trailers) => send.send_trailers(trailers),
                None => send.send_data(Bytes::new(), true),
            }
            .map_err(gone)?;
            self.answer = Answer::Ended;
        }
        Ok(())
    }
}

/// Whatever is wrong with a stream, its client is not there any more.
fn gone(error: h2::Error) -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, error)
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.piece.is_empty() {
            match ready!(this.body.poll_data(cx)) {
                Some(data) => this.piece = data.map_err(gone)?,
                None => return Poll::Ready(Ok(())),
            }
            if this.piece.is_empty() && this.body.is_end_stream() {
                return Poll::Ready(Ok(()));
            }
        }
        let count = this.piece.len().min(buf.remaining());
        buf.put_slice(&this.piece[..count]);
        this.piece.advance(count);
        // Credit for what is read and no more: a body that nobody reads stops at its window.
        let released = this.body.flow_control().release_capacity(count);
        Poll::Ready(released.map_err(gone))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let is_all = this.is_last && !this.has_more && this.trailers.is_none();
        let count = ready!(this.poll_room(cx, bytes.len()))?;
        let ends = is_all && count == bytes.len();
        let piece = Bytes::copy_from_slice(&bytes[..count]);
        let Some(send) = this.open(false)? else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        send.send_data(piece, ends).map_err(gone)?;
        this.handed += count as u64;
        if ends {
            this.answer = Answer::Ended;
        }
        Poll::Ready(Ok(count))
    }

    /// Sends a head that has waited for what follows it, and the end when it is known to be one.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        Poll::Ready(match this.is_last {
            true => this.end(),
            false => this.open(false).map(drop),
        })
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.get_mut().end())
    }
}
