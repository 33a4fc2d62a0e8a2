//! One request: the `receive` and `send` an app is called with, and what becomes of it in the end.

use std::fs::File;

use ostler_wire::{BodyKind, CloseFrame, Kind, RequestHead, WireError, begin, finish};
use pyo3::exceptions::{PyOSError, PyRuntimeError};
use pyo3::intern;
use pyo3::prelude::*;

use super::awaitable::{Drain, Receive};
use super::channel::{Channel, Trouble};
use super::event::Event;
use super::http::{Body, Misplaced, Response};
use super::message::Message;
use super::outflow::Outflow;
use super::socket::Outbox;
use super::timed::Timed;
use super::websocket::WebSocket;
use crate::ClientDisconnected;

/// The state of one stream. Python holds it while the app's task runs; the channel holds it until
/// the task is done and what it sent is in the channel's buffer.
#[pyclass(module = "_ostler")]
pub struct Stream {
    channel: Py<Channel>,
    id: u32,
    /// Unique per request, as in the logs.
    #[pyo3(get)]
    request_id: u64,
    exchange: Exchange,
    /// What the app has answered; `None` until then.
    status: Option<u16>,
    timed: Option<Box<Timed>>,
    flow: Outflow,
    /// The client is gone: nothing can be sent any more.
    #[pyo3(get)]
    is_gone: bool,
    /// The client sends nothing more, and may be gone.
    is_eof: bool,
    /// The server cancelled the task: the request is over its time.
    #[pyo3(get)]
    is_cancelled: bool,
    task: Option<Py<PyAny>>,
    is_ended: bool,
    /// Futures of awaited `receive()` calls.
    readers: Vec<Py<PyAny>>,
    /// Futures of awaited `send()` calls.
    writers: Vec<Py<PyAny>>,
}

/// The two conversations ASGI knows.
enum Exchange {
    Http { body: Body, response: Response },
    WebSocket(WebSocket),
}

impl Stream {
    /// A stream for a request head; `file` is its spooled body, when it has one.
    pub fn new(
        channel: Py<Channel>,
        id: u32,
        head: &RequestHead<'_>,
        file: Option<File>,
    ) -> Result<Self, WireError> {
        let exchange = if head.websocket {
            Exchange::WebSocket(WebSocket::new())
        } else {
            Exchange::Http {
                body: body(head, file)?,
                response: Response::new(),
            }
        };
        Ok(Self {
            channel,
            id,
            request_id: head.id,
            exchange,
            status: None,
            timed: None,
            flow: Outflow::new(),
            is_gone: false,
            is_eof: false,
            is_cancelled: false,
            task: None,
            is_ended: false,
            readers: Vec::new(),
            writers: Vec::new(),
        })
    }

    /// Has the time until its end noted.
    pub fn time(&mut self, timed: Timed) {
        self.timed = Some(Box::new(timed));
    }

    pub fn set_task(&mut self, task: Py<PyAny>) {
        if !self.is_ended {
            self.task = Some(task);
        }
    }

    pub fn task(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.task.as_ref().map(|task| task.clone_ref(py))
    }

    /// Nothing of this stream is left to do.
    pub fn is_finished(&self) -> bool {
        self.is_ended && self.flow.is_empty()
    }

    // What the server sends.

    /// A piece of the request body.
    pub fn body_came(slf: &Bound<'_, Self>, piece: &[u8], end: bool) -> PyResult<()> {
        let mut stream = slf.borrow_mut();
        if let Exchange::Http { body, .. } = &mut stream.exchange {
            body.push(piece, end);
        }
        wake_readers(slf, stream)
    }

    /// A frame of a WebSocket message.
    pub fn message_came(slf: &Bound<'_, Self>, payload: &[u8], end: bool) -> Result<(), Trouble> {
        let mut stream = slf.borrow_mut();
        let Exchange::WebSocket(socket) = &mut stream.exchange else {
            return Ok(());
        };
        let credit = socket.push(payload, end)?;
        stream.give_credit(slf.py(), credit);
        Ok(wake_readers(slf, stream)?)
    }

    /// The client's close of a WebSocket.
    pub fn close_came(slf: &Bound<'_, Self>, close: CloseFrame<'_>) -> PyResult<()> {
        let mut stream = slf.borrow_mut();
        let Exchange::WebSocket(socket) = &mut stream.exchange else {
            return Ok(());
        };
        socket.closed_by_client(Some(close));
        Self::leave(slf, stream)
    }

    /// The client is gone.
    pub fn client_left(slf: &Bound<'_, Self>) -> PyResult<()> {
        let mut stream = slf.borrow_mut();
        if let Exchange::WebSocket(socket) = &mut stream.exchange {
            socket.closed_by_client(None);
        }
        Self::leave(slf, stream)
    }

    /// The client's sending side has ended. Most clients that do this are gone, so an app that
    /// listens is told; one that answers all the same is still heard.
    pub fn client_eof(slf: &Bound<'_, Self>) -> PyResult<()> {
        let mut stream = slf.borrow_mut();
        stream.is_eof = true;
        wake_readers(slf, stream)
    }

    /// The request is over its time: the task is cancelled.
    pub fn timed_out(slf: &Bound<'_, Self>) -> PyResult<()> {
        let mut stream = slf.borrow_mut();
        stream.is_cancelled = true;
        let task = stream.task(slf.py());
        drop(stream);
        Self::client_left(slf)?;
        match task {
            Some(task) => task
                .call_method0(slf.py(), intern!(slf.py(), "cancel"))
                .map(drop),
            None => Ok(()),
        }
    }

    /// The server sends nothing more on this channel. What depends on its sending cannot go on.
    pub fn server_stopped(slf: &Bound<'_, Self>) -> PyResult<()> {
        /// RFC 6455's registry: the service restarts.
        const RESTART: CloseFrame<'static> = CloseFrame {
            code: 1012,
            reason: b"",
        };
        let stream = slf.borrow();
        let is_stuck = !stream.flow.is_empty();
        match &stream.exchange {
            Exchange::WebSocket(_) => {
                drop(stream);
                Self::close_came(slf, RESTART)
            }
            Exchange::Http { body, .. } if is_stuck || body.is_open() => {
                drop(stream);
                Self::client_left(slf)
            }
            Exchange::Http { .. } => Ok(()),
        }
    }

    /// The server takes `bytes` more.
    pub fn credit_came(slf: &Bound<'_, Self>, bytes: u32) -> PyResult<()> {
        let py = slf.py();
        let mut stream = slf.borrow_mut();
        let Stream {
            flow, channel, id, ..
        } = &mut *stream;
        flow.add_credit(bytes);
        flow.resume(py, *id, channel.bind(py).borrow_mut().outbox().bytes());
        if flow.is_empty() {
            return wake_writers(slf, stream);
        }
        Ok(())
    }

    /// No task could be started.
    pub fn fail(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::end(slf, true).map(drop)
    }

    fn leave(slf: &Bound<'_, Self>, mut stream: PyRefMut<'_, Self>) -> PyResult<()> {
        stream.is_gone = true;
        stream.flow.clear();
        let writers = std::mem::take(&mut stream.writers);
        wake_readers(slf, stream)?;
        wake(slf.py(), writers)
    }

    // What the app awaits.

    /// The next event, if there is one now.
    pub fn next_event(slf: &Bound<'_, Self>) -> PyResult<Option<Event>> {
        let mut stream = slf.borrow_mut();
        let is_gone = stream.is_gone;
        let next = match &mut stream.exchange {
            Exchange::Http { response, .. } if is_gone || response.is_complete() => {
                Some((Event::Disconnect, 0))
            }
            Exchange::Http { body, .. } => match body.next().map_err(PyOSError::new_err)? {
                None if stream.is_eof => Some((Event::Disconnect, 0)),
                next => next,
            },
            Exchange::WebSocket(socket) => socket.next(),
        };
        let Some((event, credit)) = next else {
            return Ok(None);
        };
        stream.give_credit(slf.py(), credit);
        let channel = stream.channel.clone_ref(slf.py());
        drop(stream);
        if credit > 0 {
            Channel::flush_later(channel.bind(slf.py()))?;
        }
        Ok(Some(event))
    }

    /// A future that is done when there may be an event.
    pub fn readable_future<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let future = new_future(slf)?;
        slf.borrow_mut().readers.push(future.clone().unbind());
        Ok(future)
    }

    /// Everything the app sent has left the stream.
    pub fn is_drained(slf: &Bound<'_, Self>) -> PyResult<bool> {
        let stream = slf.borrow();
        match stream.is_gone {
            true => Err(gone()),
            false => Ok(stream.flow.is_empty()),
        }
    }

    /// A future that is done when the stream may be drained.
    pub fn drained_future<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let future = new_future(slf)?;
        slf.borrow_mut().writers.push(future.clone().unbind());
        Ok(future)
    }

    /// Tells the server that `bytes` were consumed.
    fn give_credit(&self, py: Python<'_>, bytes: u32) {
        if bytes > 0 && !self.is_gone {
            let mut channel = self.channel.bind(py).borrow_mut();
            let out = channel.outbox().bytes();
            let start = begin(out, Kind::Credit, 0, self.id);
            out.extend_from_slice(&bytes.to_le_bytes());
            finish(out, start, 0);
        }
    }

    /// Applies a message to the conversation; true when no event but the disconnect can follow.
    fn apply(
        &mut self,
        py: Python<'_>,
        message: Message,
        out: &mut Outbox,
    ) -> Result<bool, Misplaced> {
        let (id, flow) = (self.id, &mut self.flow);
        match &mut self.exchange {
            Exchange::Http { response, .. } => {
                response.send(py, message, id, flow, out)?;
                Ok(response.is_complete())
            }
            Exchange::WebSocket(socket) => {
                socket.send(py, message, id, flow, out)?;
                Ok(socket.is_ended())
            }
        }
    }

    /// The status of the answer, once the app is done. Where it made none: 504 when its time was up,
    /// 499 (as nginx has it) when the client had left, else 500.
    fn status(&self) -> u16 {
        self.status
            .unwrap_or(match (self.is_cancelled, self.is_gone) {
                (true, _) => 504,
                (false, true) => 499,
                (false, false) => 500,
            })
    }

    /// What an app that returned without an exception still owed.
    fn debt(&self) -> Option<&'static str> {
        match &self.exchange {
            Exchange::Http { response, .. } if response.is_untouched() => {
                Some("the app returned without a response")
            }
            Exchange::Http { response, .. } if !response.is_complete() => {
                Some("the app returned before its response was complete")
            }
            Exchange::WebSocket(socket) if socket.is_unanswered() => {
                Some("the app returned without answering the WebSocket handshake")
            }
            Exchange::Http { .. } | Exchange::WebSocket(_) => None,
        }
    }
}

#[pymethods]
impl Stream {
    /// ASGI `receive`.
    fn receive(slf: Py<Self>) -> Receive {
        Receive::new(slf)
    }

    /// ASGI `send`. The message is taken at once; what is returned says when more may follow.
    fn send<'py>(
        slf: &Bound<'py, Self>,
        message: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let id = slf.borrow().id;
        let message = Message::read(message, id)?;
        let mut stream = slf.borrow_mut();
        if stream.is_gone {
            return Err(gone());
        }
        let channel = stream.channel.bind(py).clone();
        let mut open = channel.borrow_mut();
        let status = message.status();
        let is_last = stream
            .apply(py, message, open.outbox())
            .map_err(|Misplaced(text)| PyRuntimeError::new_err(text))?;
        stream.status = stream.status.or(status);
        let is_drained = stream.flow.is_empty();
        let is_stuck = !is_drained && open.is_at_eof();
        let sent = open.sent(py);
        drop(open);
        if is_stuck {
            drop(stream);
            Self::client_left(slf)?;
            return Err(gone());
        }
        if is_last {
            wake_readers(slf, stream)?;
        } else {
            drop(stream);
        }
        Channel::flush_later(&channel)?;
        match is_drained {
            true => Ok(sent),
            false => Ok(Bound::new(py, Drain::new(slf.clone().unbind()))?.into_any()),
        }
    }

    /// The app's task is done, with an exception when it `failed`. Completes what it left open;
    /// gives what the log should say about an app that did not finish its conversation.
    fn end(slf: &Bound<'_, Self>, failed: bool) -> PyResult<Option<&'static str>> {
        let py = slf.py();
        let mut guard = slf.borrow_mut();
        let stream = &mut *guard;
        let debt = stream.debt().filter(|_| !failed && !stream.is_gone);
        let channel = stream.channel.bind(py).clone();
        let mut open = channel.borrow_mut();
        let (id, flow, out) = (stream.id, &mut stream.flow, open.outbox());
        match &mut stream.exchange {
            Exchange::Http { response, .. } if stream.is_gone => response.cancel(id, out),
            Exchange::Http { response, .. } => response.abandon(id, flow, out),
            Exchange::WebSocket(socket) => socket.abandon(failed, id, flow, out),
        }
        drop(open);
        stream.is_ended = true;
        let task = stream.task.take();
        let (timed, status) = (stream.timed.take(), stream.status());
        drop(guard);
        drop(task);
        if let Some(timed) = timed {
            timed.end(py, status)?;
        }
        Channel::stream_ended(&channel, id)?;
        Channel::flush_later(&channel)?;
        Ok(debt)
    }
}

fn body(head: &RequestHead<'_>, file: Option<File>) -> Result<Body, WireError> {
    Ok(match (head.body, file) {
        (BodyKind::None, _) => Body::Whole(Vec::new()),
        (BodyKind::Inline, _) => Body::Whole(head.inline.to_vec()),
        (BodyKind::Stream, _) => Body::Stream(Default::default()),
        (BodyKind::File, Some(file)) => {
            let length = head
                .content_length
                .ok_or(WireError::Invalid("content length"))?;
            Body::File(file, length)
        }
        (BodyKind::File, None) => return Err(WireError::Invalid("descriptor")),
    })
}

fn gone() -> PyErr {
    ClientDisconnected::new_err("the client is gone")
}

fn new_future<'py>(slf: &Bound<'py, Stream>) -> PyResult<Bound<'py, PyAny>> {
    let channel = slf.borrow().channel.clone_ref(slf.py());
    Channel::new_future(channel.bind(slf.py()))
}

fn wake_readers(slf: &Bound<'_, Stream>, mut stream: PyRefMut<'_, Stream>) -> PyResult<()> {
    let futures = std::mem::take(&mut stream.readers);
    drop(stream);
    wake(slf.py(), futures)
}

fn wake_writers(slf: &Bound<'_, Stream>, mut stream: PyRefMut<'_, Stream>) -> PyResult<()> {
    let futures = std::mem::take(&mut stream.writers);
    drop(stream);
    wake(slf.py(), futures)
}

/// Completes futures. Whoever awaits one looks at the stream again, so it does not matter that
/// several may be woken for one event.
fn wake(py: Python<'_>, futures: Vec<Py<PyAny>>) -> PyResult<()> {
    for future in futures {
        let future = future.into_bound(py);
        if !future.call_method0(intern!(py, "done"))?.is_truthy()? {
            future.call_method1(intern!(py, "set_result"), (py.None(),))?;
        }
    }
    Ok(())
}
