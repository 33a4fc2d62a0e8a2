//! One channel: a readable socket → frames → streams and tasks; and one buffer back.
//!
//! Frames are written where they arise and sent once per turn of the loop: a flush is scheduled
//! right behind the tasks that a read started, so what they answer at once leaves in one system
//! call, in the turn in which they run.

use std::collections::HashMap;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use ostler_wire::{CloseFrame, Kind, RequestHead, WireError, begin, finish};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::awaitable::Sent;
use super::scope::Scopes;
use super::socket::{Filled, Flushed, Frame, Inbox, Outbox};
use super::stream::Stream;
use super::timed::Timed;
use crate::timing::Timings;

/// Bytes that wait in the outbox before it is flushed without waiting for the turn's end.
const FLUSH_AT: usize = 64 * 1024;

/// One end of a multiplexed socket, bound to an asyncio loop.
#[pyclass(module = "_ostler")]
pub struct Channel {
    /// `None` once it is closed.
    socket: Option<OwnedFd>,
    inbox: Inbox,
    outbox: Outbox,
    is_flush_scheduled: bool,
    /// The socket is full, and the loop tells when it is not.
    is_blocked: bool,
    is_at_eof: bool,
    streams: HashMap<u32, Py<Stream>>,
    scopes: Arc<Scopes>,
    python: Callables,
    /// Where the time of each call is noted.
    timings: Option<Py<Timings>>,
}

/// What a channel calls of Python.
struct Callables {
    loop_: Py<PyAny>,
    call_soon: Py<PyAny>,
    create_task: Py<PyAny>,
    create_future: Py<PyAny>,
    /// `async def run(scope, stream)`: calls the app.
    run: Py<PyAny>,
    /// `ended(channel, error: str | None)`: nothing more comes; with an error, nothing goes either.
    ended: Py<PyAny>,
    /// `idle()`, while someone waits for the last stream's end.
    idle: Option<Py<PyAny>>,
    /// The channel's own bound `flush`.
    flush: Option<Py<PyAny>>,
    sent: Py<PyAny>,
}

#[pymethods]
impl Channel {
    /// Takes the descriptor over. `loop` is the running loop; `run` and `ended` as above; `state`
    /// is what lifespan startup left.
    #[new]
    #[pyo3(signature = (fd, r#loop, run, ended, state, timings=None))]
    fn new(
        fd: RawFd,
        r#loop: &Bound<'_, PyAny>,
        run: Py<PyAny>,
        ended: Py<PyAny>,
        state: &Bound<'_, PyDict>,
        timings: Option<Py<Timings>>,
    ) -> PyResult<Self> {
        let py = r#loop.py();
        Ok(Self {
            // SAFETY: the caller gives the descriptor away.
            socket: Some(unsafe { OwnedFd::from_raw_fd(fd) }),
            inbox: Inbox::default(),
            outbox: Outbox::default(),
            is_flush_scheduled: false,
            is_blocked: false,
            is_at_eof: false,
            streams: HashMap::new(),
            scopes: Arc::new(Scopes::new(py, state.clone().unbind())?),
            python: Callables {
                loop_: r#loop.clone().unbind(),
                call_soon: r#loop.getattr("call_soon")?.unbind(),
                create_task: r#loop.getattr("create_task")?.unbind(),
                create_future: r#loop.getattr("create_future")?.unbind(),
                run,
                ended,
                idle: None,
                flush: None,
                sent: Py::new(py, Sent)?.into_any(),
            },
            timings,
        })
    }

    /// Starts reading.
    fn open(slf: &Bound<'_, Self>) -> PyResult<()> {
        let flush = slf.getattr("flush")?.unbind();
        slf.borrow_mut().python.flush = Some(flush);
        let readable = slf.getattr("readable")?;
        slf.borrow().on_loop(slf.py(), "add_reader", Some(readable))
    }

    /// Stops reading and writing, and closes the socket.
    fn close(slf: &Bound<'_, Self>) -> PyResult<()> {
        let channel = slf.borrow();
        let (is_blocked, is_open) = (channel.is_blocked, channel.socket.is_some());
        if is_open {
            channel.on_loop(slf.py(), "remove_reader", None)?;
        }
        if is_open && is_blocked {
            channel.on_loop(slf.py(), "remove_writer", None)?;
        }
        drop(channel);
        let mut channel = slf.borrow_mut();
        channel.socket = None;
        channel.is_blocked = false;
        channel.outbox.clear();
        Ok(())
    }

    /// How many streams are not over.
    fn __len__(&self) -> usize {
        self.streams.len()
    }

    /// The tasks of the streams that are not over.
    fn tasks(&self, py: Python<'_>) -> Vec<Py<PyAny>> {
        let streams = self.streams.values();
        streams
            .filter_map(|stream| stream.bind(py).borrow().task(py))
            .collect()
    }

    /// Has `callback` called whenever the last stream ends.
    fn when_idle(&mut self, callback: Py<PyAny>) {
        self.python.idle = Some(callback);
    }

    /// The loop's callback: reads once and handles every whole frame.
    fn readable(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (mut inbox, filled) = {
            let mut channel = slf.borrow_mut();
            let channel = &mut *channel;
            let Some(socket) = &channel.socket else {
                return Ok(());
            };
            let filled = channel.inbox.fill(socket.as_fd());
            (mem::take(&mut channel.inbox), filled)
        };
        let handled = match filled {
            Ok(Filled::Some) => handle_frames(slf, &mut inbox),
            Ok(Filled::Blocked) => Ok(false),
            Ok(Filled::Eof) => return stopped(slf),
            Err(error) => return lost(slf, &error.to_string()),
        };
        slf.borrow_mut().inbox = inbox;
        match handled {
            Ok(true) => Self::flush(slf),
            Ok(false) => Self::flush_after_tasks(slf),
            Err(Trouble::Wire(error)) => lost(slf, &error.to_string()),
            Err(Trouble::Python(error)) => Err(error),
        }
    }

    /// Sends what waits; also the loop's callback when the socket has room again.
    fn flush(slf: &Bound<'_, Self>) -> PyResult<()> {
        let mut guard = slf.borrow_mut();
        let channel = &mut *guard;
        channel.is_flush_scheduled = false;
        let Some(socket) = &channel.socket else {
            channel.outbox.clear();
            return Ok(());
        };
        let flushed = match channel.outbox.flush(socket.as_fd()) {
            Ok(flushed) => flushed,
            Err(error) => {
                drop(guard);
                return lost(slf, &error.to_string());
            }
        };
        let was_blocked = mem::replace(&mut channel.is_blocked, flushed == Flushed::Blocked);
        drop(guard);
        match (was_blocked, flushed) {
            (false, Flushed::Blocked) => {
                let flush = slf.getattr("flush")?;
                slf.borrow().on_loop(slf.py(), "add_writer", Some(flush))
            }
            (true, Flushed::All) => slf.borrow().on_loop(slf.py(), "remove_writer", None),
            (true, Flushed::Blocked) | (false, Flushed::All) => Ok(()),
        }
    }
}

impl Channel {
    pub fn outbox(&mut self) -> &mut Outbox {
        &mut self.outbox
    }

    pub fn is_at_eof(&self) -> bool {
        self.is_at_eof
    }

    /// The awaitable of a send that has nothing to wait for.
    pub fn sent<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        self.python.sent.bind(py).clone()
    }

    pub fn new_future<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let create = slf.borrow().python.create_future.clone_ref(slf.py());
        create.bind(slf.py()).call0()
    }

    /// Has what waits sent at the end of this turn of the loop, or now when it is much.
    pub fn flush_later(slf: &Bound<'_, Self>) -> PyResult<()> {
        let channel = slf.borrow();
        if channel.outbox.is_empty() || channel.is_blocked {
            return Ok(());
        }
        if channel.outbox.len() >= FLUSH_AT {
            drop(channel);
            return Self::flush(slf);
        }
        drop(channel);
        Self::flush_after_tasks(slf)
    }

    /// Schedules a flush behind everything that is scheduled already.
    fn flush_after_tasks(slf: &Bound<'_, Self>) -> PyResult<()> {
        let mut channel = slf.borrow_mut();
        if mem::replace(&mut channel.is_flush_scheduled, true) {
            return Ok(());
        }
        let py = slf.py();
        let call_soon = channel.python.call_soon.clone_ref(py);
        let flush = channel.python.flush.as_ref().map(|it| it.clone_ref(py));
        drop(channel);
        call_soon.call1(py, (flush,)).map(drop)
    }

    /// A stream's task is done: forgets the stream unless it still has something to send.
    pub fn stream_ended(slf: &Bound<'_, Self>, id: u32) -> PyResult<()> {
        let py = slf.py();
        let mut channel = slf.borrow_mut();
        let is_finished = match channel.streams.get(&id) {
            Some(stream) => stream.bind(py).borrow().is_finished(),
            None => false,
        };
        if !is_finished {
            return Ok(());
        }
        let stream = channel.streams.remove(&id);
        let idle = match &channel.python.idle {
            Some(idle) if channel.streams.is_empty() => Some(idle.clone_ref(py)),
            Some(_) | None => None,
        };
        drop(channel);
        drop(stream);
        idle.map_or(Ok(()), |idle| idle.call0(py).map(drop))
    }

    fn on_loop(
        &self,
        py: Python<'_>,
        method: &str,
        callback: Option<Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let Some(socket) = &self.socket else {
            return Ok(());
        };
        let fd = socket.as_raw_fd();
        let loop_ = self.python.loop_.bind(py);
        match callback {
            Some(callback) => loop_.call_method1(method, (fd, callback))?,
            None => loop_.call_method1(method, (fd,))?,
        };
        Ok(())
    }
}

/// Why frames could not be handled.
pub enum Trouble {
    /// The server sent what it must never send: the channel cannot be trusted any more.
    Wire(WireError),
    Python(PyErr),
}

impl From<WireError> for Trouble {
    fn from(error: WireError) -> Self {
        Self::Wire(error)
    }
}

impl From<PyErr> for Trouble {
    fn from(error: PyErr) -> Self {
        Self::Python(error)
    }
}

/// Handles every whole frame; true when the answer to one of them must leave at once.
fn handle_frames(slf: &Bound<'_, Channel>, inbox: &mut Inbox) -> Result<bool, Trouble> {
    let mut is_urgent = false;
    while let Some(mut frame) = inbox.next()? {
        let fd = frame.fd.take();
        let payload = inbox.payload(&frame);
        match frame.head.kind {
            Kind::ReqHead => start(slf, frame.head.stream, payload, fd)?,
            Kind::Ping => {
                pong(slf, payload);
                is_urgent = true;
            }
            Kind::Pong | Kind::Drain => {}
            Kind::ReqBody
            | Kind::Cancel
            | Kind::ClientEof
            | Kind::Credit
            | Kind::WsMessage
            | Kind::WsClose => {
                handle_stream_frame(slf, &frame, payload)?;
            }
            Kind::RespInfo
            | Kind::RespHead
            | Kind::RespBody
            | Kind::RespFile
            | Kind::RespTrailers
            | Kind::RespAbort
            | Kind::Hijack
            | Kind::Taken
            | Kind::WsAccept => return Err(WireError::Invalid("kind").into()),
        }
    }
    Ok(is_urgent)
}

fn pong(slf: &Bound<'_, Channel>, payload: &[u8]) {
    let mut channel = slf.borrow_mut();
    let out = channel.outbox.bytes();
    let start = begin(out, Kind::Pong, 0, 0);
    out.extend_from_slice(payload);
    finish(out, start, 0);
}

fn handle_stream_frame(
    slf: &Bound<'_, Channel>,
    frame: &Frame,
    payload: &[u8],
) -> Result<(), Trouble> {
    let (py, head) = (slf.py(), frame.head);
    let stream = {
        let channel = slf.borrow();
        let stream = channel.streams.get(&head.stream);
        stream.map(|stream| stream.bind(py).clone())
    };
    let Some(stream) = stream else {
        return Ok(());
    };
    match head.kind {
        Kind::ReqBody => Stream::body_came(&stream, payload, head.is_end())?,
        Kind::Cancel if head.is_end() => Stream::timed_out(&stream)?,
        Kind::Cancel => Stream::client_left(&stream)?,
        Kind::ClientEof => Stream::client_eof(&stream)?,
        Kind::Credit => {
            let bytes = payload.try_into().map_err(|_| WireError::Truncated)?;
            Stream::credit_came(&stream, u32::from_le_bytes(bytes))?;
            Channel::stream_ended(slf, head.stream)?;
        }
        Kind::WsMessage => Stream::message_came(&stream, payload, head.is_end())?,
        Kind::WsClose => Stream::close_came(&stream, CloseFrame::decode(payload)?)?,
        _ => {}
    }
    Ok(())
}

/// A request: its scope, its stream, its task.
fn start(
    slf: &Bound<'_, Channel>,
    id: u32,
    payload: &[u8],
    fd: Option<OwnedFd>,
) -> Result<(), Trouble> {
    let py = slf.py();
    let head = RequestHead::decode(payload)?;
    let stream = Stream::new(slf.clone().unbind(), id, &head, fd.map(Into::into))?;
    let stream = Bound::new(py, stream)?;
    let (scopes, run, create_task, timings) = {
        let mut channel = slf.borrow_mut();
        if channel.streams.contains_key(&id) {
            return Err(WireError::Invalid("stream").into());
        }
        channel.streams.insert(id, stream.clone().unbind());
        let python = &channel.python;
        let (run, create_task) = (python.run.clone_ref(py), python.create_task.clone_ref(py));
        let timings = channel.timings.as_ref().map(|it| it.clone_ref(py));
        (Arc::clone(&channel.scopes), run, create_task, timings)
    };
    let started = scopes.build(py, &head).and_then(|scope| {
        if let Some(timings) = timings {
            stream.borrow_mut().time(Timed::begin(timings, &scope)?);
        }
        let coroutine = run.bind(py).call1((scope, &stream))?;
        create_task.bind(py).call1((coroutine,))
    });
    match started {
        Ok(task) => stream.borrow_mut().set_task(task.unbind()),
        Err(error) => {
            Stream::fail(&stream)?;
            return Err(error.into());
        }
    }
    Ok(())
}

/// The server sends nothing more.
fn stopped(slf: &Bound<'_, Channel>) -> PyResult<()> {
    let py = slf.py();
    slf.borrow().on_loop(py, "remove_reader", None)?;
    slf.borrow_mut().is_at_eof = true;
    for stream in all_streams(slf) {
        Stream::server_stopped(&stream)?;
    }
    let ended = slf.borrow().python.ended.clone_ref(py);
    ended.call1(py, (slf, py.None())).map(drop)
}

/// The channel is broken: every client of it is gone.
fn lost(slf: &Bound<'_, Channel>, error: &str) -> PyResult<()> {
    let py = slf.py();
    if slf.borrow().socket.is_none() {
        return Ok(());
    }
    Channel::close(slf)?;
    let was_at_eof = mem::replace(&mut slf.borrow_mut().is_at_eof, true);
    for stream in all_streams(slf) {
        Stream::client_left(&stream)?;
    }
    if was_at_eof {
        // The server has hung up in both directions, and its end is known already.
        return Ok(());
    }
    let ended = slf.borrow().python.ended.clone_ref(py);
    ended.call1(py, (slf, error)).map(drop)
}

fn all_streams<'py>(slf: &Bound<'py, Channel>) -> Vec<Bound<'py, Stream>> {
    let channel = slf.borrow();
    let streams = channel.streams.values();
    streams
        .map(|stream| stream.bind(slf.py()).clone())
        .collect()
}
