//! One request's answer on its way out: what was said by `start_response`, what was sent since.
//!
//! Every way in (the return value, `write()`, early hints, a hijack) goes through the same stages,
//! so that a late or doubled call cannot put a frame where the server expects none.

use std::io::IoSlice;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use ostler_wire::{END, FileHead, FrameHead, HEAD_LEN, Kind, ResponseEncoder};
use pyo3::exceptions::PyAssertionError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::channel::{Channel, disconnected};
use super::gil::GilCell;
use super::route;

/// What the native callables of a slot have as their `self`. It is used again for the next request
/// unless the app kept one of them.
#[pyclass(frozen, module = "_ostler")]
pub struct Exchange {
    pub channel: Arc<Channel>,
    pub state: GilCell<Response>,
    /// Called when the app takes the connection over, so that another thread serves instead.
    pub new_slot: Option<Py<PyAny>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// No request is in flight for this exchange.
    Over,
    /// `start_response` was not called yet.
    Open,
    /// The head waits in [`Response::head`] for the first bytes of the body.
    Headed,
    /// The head was sent.
    Sending,
    /// The last frame was sent.
    Ended,
    /// The app has the connection.
    Hijacked,
}

/// The answer to the request in flight.
pub struct Response {
    pub stage: Stage,
    pub status: u16,
    /// The encoded `RespHead` frame.
    pub head: Vec<u8>,
    /// The app's Content-Length in bytes.
    pub length: Option<u64>,
    /// Body bytes sent.
    pub sent: u64,
    /// More bytes came than Content-Length allows; they were dropped.
    pub overlong: bool,
    /// The method was HEAD: Content-Length tells of a body that need not come.
    pub bodiless: bool,
    /// HTTP/1.0 knows no interim responses.
    pub interim: bool,
    /// With the end of the response this worker may take its next request from the backlog.
    pub may_take: bool,
    /// The server is gone.
    pub gone: bool,
    /// The `write` callable of this exchange.
    pub write: Option<Py<PyAny>>,
    /// The environ of a request that is timed, until `start_response` has looked for its route.
    watched: Option<Py<PyDict>>,
    template: Option<String>,
}

/// Bytes of a response that a slot's socket takes at once, whatever the server does meanwhile: its
/// buffer is 208 KiB by default, and the kernel counts its own bookkeeping too.
const UNHINDERED: u64 = 64 * 1024;

/// Longest payload of one body frame, in bytes: what one response may hold in the edge's memory.
const PIECE: usize = 256 * 1024;

impl Exchange {
    /// Gets ready for a request.
    pub fn open(
        &self,
        py: Python<'_>,
        interim: bool,
        bodiless: bool,
        may_take: bool,
    ) -> PyResult<()> {
        let mut state = self.state.borrow(py)?;
        state.may_take = may_take;
        state.bodiless = bodiless;
        state.stage = Stage::Open;
        state.status = 0;
        state.length = None;
        state.sent = 0;
        state.overlong = false;
        state.interim = interim;
        Ok(())
    }

    /// Ends the exchange: later calls of what the app kept find it over. Gives the last stage, and
    /// whether the server is gone.
    pub fn close(&self, py: Python<'_>) -> PyResult<(Stage, bool)> {
        let mut state = self.state.borrow(py)?;
        let stage = std::mem::replace(&mut state.stage, Stage::Over);
        Ok((stage, state.gone))
    }

    /// Has the route of this request looked for when the app answers.
    pub fn watch(&self, environ: &Bound<'_, PyDict>) -> PyResult<()> {
        let mut state = self.state.borrow(environ.py())?;
        state.watched = Some(environ.clone().unbind());
        state.template = None;
        Ok(())
    }

    /// Looks for it, if that is asked for.
    pub fn find_route(&self, py: Python<'_>) -> PyResult<()> {
        // What the framework keeps there may run Python code: nothing is borrowed meanwhile.
        let watched = self.state.borrow(py)?.watched.take();
        if let Some(environ) = watched {
            let template = route::template(environ.bind(py));
            self.state.borrow(py)?.template = template;
        }
        Ok(())
    }

    /// The template of the route, if it was found.
    pub fn template(&self, py: Python<'_>) -> PyResult<Option<String>> {
        let mut state = self.state.borrow(py)?;
        state.watched = None;
        Ok(state.template.take())
    }

    /// The status that was answered.
    pub fn status(&self, py: Python<'_>) -> PyResult<u16> {
        Ok(self.state.borrow(py)?.status)
    }

    pub fn is_gone(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.state.borrow(py)?.gone)
    }

    /// The Content-Length that the body went beyond, if it did.
    pub fn overlong(&self, py: Python<'_>) -> PyResult<Option<u64>> {
        let state = self.state.borrow(py)?;
        Ok(state.length.filter(|_| state.overlong))
    }

    /// Body bytes sent, and the Content-Length (0 for none).
    pub fn sent_of(&self, py: Python<'_>) -> PyResult<(u64, u64)> {
        let state = self.state.borrow(py)?;
        Ok((state.sent, state.length.unwrap_or(0)))
    }

    pub fn stage(&self, py: Python<'_>) -> PyResult<Stage> {
        Ok(self.state.borrow(py)?.stage)
    }

    /// Sends the next bytes of the body, the head before them when it still waits. `last` ends the
    /// response. Nothing is sent for an empty piece that is not the last one (PEP 3333: the head
    /// waits for the first byte).
    pub fn send_body(&self, py: Python<'_>, data: &[u8], last: bool) -> PyResult<()> {
        let state = &mut *self.state.borrow(py)?;
        match state.stage {
            Stage::Open => {
                return Err(PyAssertionError::new_err(
                    "start_response() was not called before the body",
                ));
            }
            Stage::Over => return Err(PyAssertionError::new_err("this request is over")),
            Stage::Ended | Stage::Hijacked => return Ok(()),
            Stage::Headed | Stage::Sending => {}
        }
        let data = state.clamp(data);
        if data.is_empty() && !last {
            return Ok(());
        }
        self.send_pieces(py, state, data, last)
    }

    fn send_pieces(
        &self,
        py: Python<'_>,
        state: &mut Response,
        data: &[u8],
        last: bool,
    ) -> PyResult<()> {
        let mut rest = data;
        loop {
            let (piece, after) = rest.split_at(rest.len().min(PIECE));
            let end = last && after.is_empty();
            let flags = if end { END } else { 0 };
            let frame;
            let head = if state.stage == Stage::Headed {
                seal(&mut state.head, flags, piece.len());
                &state.head[..]
            } else {
                frame = body_frame(flags, piece.len());
                &frame[..]
            };
            let taken = match end && state.may_take(piece.len()) {
                true => self.channel.receive(py)?.take_next(),
                false => None,
            };
            let said = taken.as_ref().map_or(&[][..], |frame| &frame[..]);
            let mut parts = [IoSlice::new(said), IoSlice::new(head), IoSlice::new(piece)];
            let delivered = self.channel.send_end(py, &mut parts, taken.is_some())?;
            state.sent_frame(delivered, end)?;
            state.sent += piece.len() as u64;
            rest = after;
            if rest.is_empty() {
                return Ok(());
            }
        }
    }

    /// Sends a whole small body of several pieces with its head as one frame, without joining them.
    /// The caller has seen that the stage is [`Stage::Headed`] and that they fit.
    pub fn send_whole(&self, py: Python<'_>, pieces: &[&[u8]]) -> PyResult<()> {
        let state = &mut *self.state.borrow(py)?;
        let total: usize = pieces.iter().map(|piece| piece.len()).sum();
        seal(&mut state.head, END, total);
        let taken = match state.may_take(total) {
            true => self.channel.receive(py)?.take_next(),
            false => None,
        };
        let mut parts = Vec::with_capacity(pieces.len() + 2);
        parts.extend(taken.as_ref().map(|frame| IoSlice::new(frame)));
        parts.push(IoSlice::new(&state.head));
        parts.extend(pieces.iter().map(|piece| IoSlice::new(piece)));
        let delivered = self.channel.send_end(py, &mut parts, taken.is_some())?;
        state.sent_frame(delivered, true)?;
        state.sent += total as u64;
        Ok(())
    }

    /// Can `total` bytes be the whole body in one frame with the head?
    pub fn fits_one_frame(&self, py: Python<'_>, total: usize) -> PyResult<bool> {
        let state = self.state.borrow(py)?;
        Ok(state.stage == Stage::Headed && total <= PIECE && state.ends_with(total))
    }

    /// Do `total` more bytes make the body what Content-Length says?
    pub fn fits_length(&self, py: Python<'_>, total: usize) -> PyResult<bool> {
        Ok(self.state.borrow(py)?.ends_with(total))
    }

    /// No next request is taken with the end of this response.
    pub fn takes_nothing(&self, py: Python<'_>) -> PyResult<()> {
        self.state.borrow(py)?.may_take = false;
        Ok(())
    }

    /// Sends a piece that iterating gave; `true` when more came than Content-Length allows, so that
    /// it is time to stop. Code behind the last `yield` still runs for a body of the right length.
    pub fn send_iterated(&self, py: Python<'_>, data: &[u8]) -> PyResult<bool> {
        self.send_body(py, data, false)?;
        Ok(self.state.borrow(py)?.overlong)
    }

    /// Is the body shorter than Content-Length says, without a reason?
    pub fn is_short(&self, py: Python<'_>) -> PyResult<bool> {
        let state = self.state.borrow(py)?;
        Ok(matches!(state.stage, Stage::Headed | Stage::Sending) && !state.ends_with(0))
    }

    /// The Content-Length when a file can be the whole body; `None` when something was sent before.
    pub fn room_for_file(&self, py: Python<'_>) -> PyResult<Option<Option<u64>>> {
        let state = self.state.borrow(py)?;
        Ok((state.stage == Stage::Headed).then_some(state.length))
    }

    /// Sends the head if it still waits, so that the client has it before slow work begins.
    pub fn flush_head(&self, py: Python<'_>) -> PyResult<()> {
        let state = &mut *self.state.borrow(py)?;
        if state.stage == Stage::Headed {
            self.send_pieces(py, state, b"", false)?;
        }
        Ok(())
    }

    /// Sends the head and then a part of a regular file as the whole body.
    pub fn send_file(&self, py: Python<'_>, file: BorrowedFd<'_>, part: FileHead) -> PyResult<()> {
        self.flush_head(py)?;
        let state = &mut *self.state.borrow(py)?;
        let mut frame = Vec::with_capacity(HEAD_LEN + 16);
        part.encode(&mut frame, END, 0);
        let mut parts = [IoSlice::new(&frame)];
        let delivered = self.channel.send(py, &mut parts, Some(file))?;
        state.sent_frame(delivered, true)?;
        state.sent += part.len;
        Ok(())
    }

    /// Ends the response uncleanly; `text` is for the server's log, empty when there is nothing to
    /// say (the client left).
    pub fn abort(&self, py: Python<'_>, text: &str) -> PyResult<()> {
        let state = &mut *self.state.borrow(py)?;
        let mut frame = Vec::new();
        let start = ostler_wire::begin(&mut frame, Kind::RespAbort, END, 0);
        frame.extend_from_slice(&text.as_bytes()[..text.len().min(1024)]);
        ostler_wire::finish(&mut frame, start, 0);
        let mut parts = [IoSlice::new(&frame)];
        let delivered = self.channel.send(py, &mut parts, None)?;
        state.gone |= !delivered;
        state.stage = Stage::Ended;
        Ok(())
    }

    /// Answers 500 in the app's place. The header tells the edge to make the page.
    pub fn fail(&self, py: Python<'_>) -> PyResult<()> {
        let state = &mut *self.state.borrow(py)?;
        state.head.clear();
        let mut encoder = ResponseEncoder::new(&mut state.head, Kind::RespHead, END, 0, 500, b"");
        encoder.field(b"x-ostler-error", b"app");
        encoder.finish(0);
        state.status = 500;
        let mut parts = [IoSlice::new(&state.head)];
        let delivered = self.channel.send(py, &mut parts, None)?;
        state.gone |= !delivered;
        state.stage = Stage::Ended;
        Ok(())
    }

    /// Sends an interim response (its frame is whole) unless it would come too late.
    pub fn send_interim(&self, py: Python<'_>, frame: &[u8]) -> PyResult<()> {
        let state = &mut *self.state.borrow(py)?;
        if state.interim && matches!(state.stage, Stage::Open | Stage::Headed) {
            let delivered = self.channel.send(py, &mut [IoSlice::new(frame)], None)?;
            state.check_delivered(delivered)?;
        }
        Ok(())
    }

    /// Tells the server that from here on the socket is the app's.
    pub fn send_hijack(&self, py: Python<'_>) -> PyResult<()> {
        let state = &mut *self.state.borrow(py)?;
        let mut frame = Vec::new();
        let start = ostler_wire::begin(&mut frame, Kind::Hijack, 0, 0);
        ostler_wire::finish(&mut frame, start, 0);
        let delivered = self.channel.send(py, &mut [IoSlice::new(&frame)], None)?;
        state.check_delivered(delivered)?;
        state.stage = Stage::Hijacked;
        Ok(())
    }

    /// Raises when the client has left while the response is being streamed.
    pub fn check_cancelled(&self, py: Python<'_>) -> PyResult<()> {
        let sending = self.state.borrow(py)?.stage == Stage::Sending;
        if sending && self.channel.receive(py)?.poll_cancel(py)? {
            return Err(disconnected());
        }
        Ok(())
    }
}

impl Response {
    pub fn new() -> Self {
        Self {
            stage: Stage::Over,
            status: 0,
            head: Vec::with_capacity(512),
            length: None,
            sent: 0,
            overlong: false,
            bodiless: false,
            interim: false,
            may_take: false,
            gone: false,
            write: None,
            watched: None,
            template: None,
        }
    }

    /// Whether the next request may be taken with the last `more` bytes. What the server has not read
    /// yet must not hold them back: the one who was taken would wait for it.
    fn may_take(&self, more: usize) -> bool {
        self.may_take && self.sent + more as u64 <= UNHINDERED
    }

    /// Is the body whole when `more` bytes are added to it?
    fn ends_with(&self, more: usize) -> bool {
        let whole = |length| self.sent + more as u64 == length;
        self.bodiless || matches!(self.status, 204 | 304) || self.length.is_none_or(whole)
    }

    /// The part of `data` that Content-Length leaves room for.
    fn clamp<'d>(&mut self, data: &'d [u8]) -> &'d [u8] {
        let Some(length) = self.length else {
            return data;
        };
        let room = length.saturating_sub(self.sent);
        if (data.len() as u64) > room {
            self.overlong = true;
            return &data[..room as usize];
        }
        data
    }

    fn sent_frame(&mut self, delivered: bool, end: bool) -> PyResult<()> {
        self.stage = if end { Stage::Ended } else { Stage::Sending };
        self.check_delivered(delivered)
    }

    fn check_delivered(&mut self, delivered: bool) -> PyResult<()> {
        if delivered {
            return Ok(());
        }
        self.gone = true;
        Err(disconnected())
    }
}

/// Writes the flags and the final length into a finished head frame.
fn seal(head: &mut [u8], flags: u8, body_len: usize) {
    head[FLAGS_AT] = flags;
    ostler_wire::finish(head, 0, body_len);
}

/// Where the flags are in a frame head ([`FrameHead`]).
const FLAGS_AT: usize = 5;

fn body_frame(flags: u8, len: usize) -> [u8; HEAD_LEN] {
    FrameHead {
        len: len as u32,
        kind: Kind::RespBody,
        flags,
        stream: 0,
    }
    .encode()
}
