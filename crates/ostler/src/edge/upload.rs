//! A request body that goes to its worker while it comes in.

use std::task::{Context, Poll, ready};
use std::time::Instant;

use ostler_wire::{END, Kind, begin, finish};

use crate::pool::{Fault, Lease};

use super::Times;
use super::body::BodyReader;
use super::buffer::Buffer;
use super::io::Io;
use super::reason::Reason;

/// Body bytes sent to a worker in one frame.
pub const PIECE: usize = 64 * 1024;

/// The body, and the frame of it that is on its way.
pub struct Upload {
    body: BodyReader,
    piece: Vec<u8>,
    frame: Vec<u8>,
    sent: usize,
    ended: bool,
    /// Nothing moves until the client sends more.
    waits_for_client: bool,
    /// Since when the worker takes nothing: time that the client is not to blame for.
    held_since: Option<Instant>,
}

/// What a step of an upload came to.
pub enum Step {
    /// More of the body came from the client.
    Came,
    /// The worker is gone.
    Lost(Fault),
    /// The client's body is not what it must be.
    Refused(Reason),
}

impl Upload {
    pub fn new(body: BodyReader) -> Self {
        Self {
            body,
            piece: Vec::new(),
            frame: Vec::new(),
            sent: 0,
            ended: false,
            waits_for_client: false,
            held_since: None,
        }
    }

    /// When the client must have sent more, while nothing else is waited for.
    pub fn deadline(&self, times: &Times) -> Option<Instant> {
        self.waits_for_client.then(|| self.body.deadline(times))
    }

    /// What is left to read of the body, and the rest of a frame that the worker has a part of;
    /// `None` for that when the worker has the whole body.
    pub fn into_rest(self) -> (BodyReader, Option<Vec<u8>>) {
        let ended = self.ended && self.sent == self.frame.len();
        let unsent = (!ended).then(|| match self.sent {
            // A frame that was not begun need not be sent.
            0 => Vec::new(),
            sent => self.frame[sent..].to_vec(),
        });
        (self.body, unsent)
    }

    /// Moves the body on as far as it goes.
    pub fn poll_step(
        &mut self,
        cx: &mut Context<'_>,
        lease: &mut Lease,
        io: &mut Io,
        buffer: &mut Buffer,
    ) -> Poll<Step> {
        self.waits_for_client = false;
        loop {
            if ready!(self.poll_send(cx, lease)).is_err() {
                // The worker closed its end; what it said before is read first.
                self.ended = true;
                self.frame.clear();
                self.sent = 0;
            }
            if self.ended {
                return Poll::Pending;
            }
            if self.piece.is_empty() && !self.body.is_done() {
                return match self.body.poll_piece(cx, io, buffer, &mut self.piece) {
                    Poll::Ready(Ok(())) => Poll::Ready(Step::Came),
                    Poll::Ready(Err(reason)) => Poll::Ready(Step::Refused(reason)),
                    Poll::Pending => {
                        self.waits_for_client = true;
                        Poll::Pending
                    }
                };
            }
            match ready!(self.poll_credit(cx, lease)) {
                Ok(count) => self.frame_piece(count, lease.grant().stream_id()),
                Err(fault) => return Poll::Ready(Step::Lost(fault)),
            }
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, lease: &mut Lease) -> Poll<std::io::Result<()>> {
        while self.sent < self.frame.len() {
            let sent = lease.grant().poll_send(cx, &self.frame[self.sent..], None);
            self.sent += ready!(self.note_held(sent))?;
        }
        Poll::Ready(Ok(()))
    }

    /// How much of the piece the worker takes; 0 for the empty last one.
    fn poll_credit(
        &mut self,
        cx: &mut Context<'_>,
        lease: &mut Lease,
    ) -> Poll<Result<usize, Fault>> {
        match self.piece.len().min(PIECE) {
            0 => Poll::Ready(Ok(0)),
            wanted => {
                let credit = lease.grant().poll_credit(cx, wanted);
                self.note_held(credit)
            }
        }
    }

    /// Keeps account of the time for which the worker holds the body up.
    fn note_held<T>(&mut self, result: Poll<T>) -> Poll<T> {
        match (&result, self.held_since) {
            (Poll::Pending, None) => self.held_since = Some(Instant::now()),
            (Poll::Ready(_), Some(since)) => {
                self.body.excuse(since.elapsed());
                self.held_since = None;
            }
            (Poll::Pending, Some(_)) | (Poll::Ready(_), None) => {}
        }
        result
    }

    fn frame_piece(&mut self, count: usize, stream: u32) {
        self.frame.clear();
        self.sent = 0;
        self.ended = self.body.is_done() && count == self.piece.len();
        let flags = if self.ended { END } else { 0 };
        let start = begin(&mut self.frame, Kind::ReqBody, flags, stream);
        self.frame.extend(self.piece.drain(..count));
        finish(&mut self.frame, start, 0);
    }
}
