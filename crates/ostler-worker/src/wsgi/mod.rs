//! WSGI: one slot's loop from request to response, on the Python thread that runs the app.
//!
//! Knows PEP 3333 and the frames of a slot. Knows no process life: which thread runs this, what a
//! signal means and when a worker ends is told in `py/`.

use std::os::fd::{IntoRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use ostler_wire::{BodyKind, RequestHead};
use pyo3::exceptions::{
    PyConnectionError, PyKeyboardInterrupt, PyRuntimeError, PyStopIteration, PySystemExit,
};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use pyo3::{ffi, intern};

mod channel;
mod entry;
mod environ;
mod exchange;
mod file;
mod gil;
mod input;
mod report;
mod respond;
mod route;
mod start_response;
mod sys;

use crate::ClientDisconnected;
use crate::timing::{Asked, Begun, Timings};
pub use channel::take_no_more;
use channel::{Channel, Next};
use environ::Environ;
use exchange::{Exchange, Response, Stage};
use file::FileWrapper;
pub use gil::GilCell;
use input::Input;
use report::Subject;
use respond::{Outcome, respond};
use start_response::Callables;

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<FileWrapper>()?;
    module.add_function(wrap_pyfunction!(serve_wsgi, module)?)
}

/// Serves requests from the slot socket `fd` until the server ends it.
///
/// Returns "eof", or "hijacked" when the app took the connection over (the socket is then shut
/// down). `fd` stays the caller's to close. What an app raises is answered and reported here; only
/// `SystemExit` and `KeyboardInterrupt` come out. The options are those of [`Options`].
#[pyfunction]
fn serve_wsgi(
    py: Python<'_>,
    app: Bound<'_, PyAny>,
    fd: RawFd,
    options: &Bound<'_, PyDict>,
) -> PyResult<&'static str> {
    let mut slot = Slot::new(py, app, fd, Options::read(options)?)?;
    loop {
        match slot.serve_one()? {
            Turn::Served => {}
            Turn::Eof => return Ok("eof"),
            Turn::Hijacked => {
                sys::shutdown(fd);
                return Ok("hijacked");
            }
        }
    }
}

/// What the caller decides; each a key of the `options` dict.
pub struct Options {
    /// `wsgi.multithread`, default false.
    multithread: bool,
    /// `wsgi.multiprocess`, default false.
    multiprocess: bool,
    /// `wsgi.errors`; reports go there too. Default `sys.stderr`.
    errors: Py<PyAny>,
    /// `wsgi.file_wrapper`, default our own; only that one hands files to the edge.
    file_wrapper: Option<Py<PyAny>>,
    /// Called as `pre_request(request, environ)`; what it raises is the answer.
    pre_request: Option<Py<PyAny>>,
    /// Called as `post_request(environ, status)`; what it raises is reported.
    post_request: Option<Py<PyAny>>,
    /// `SERVER_SOFTWARE`, default `ostler/<version>`.
    server_software: String,
    /// Called before the app takes a connection over; when it raises, the app may not.
    new_slot: Option<Py<PyAny>>,
    /// A descriptor from which requests may be taken that wait for any worker.
    backlog: Option<RawFd>,
    /// Where the time of each call is noted.
    timings: Option<Py<Timings>>,
}

impl Options {
    fn read(options: &Bound<'_, PyDict>) -> PyResult<Self> {
        let py = options.py();
        let given = |name: &str| -> PyResult<Option<Bound<'_, PyAny>>> {
            Ok(options.get_item(name)?.filter(|value| !value.is_none()))
        };
        let truth = |name: &str| given(name)?.map_or(Ok(false), |value| value.is_truthy());
        let object = |name: &str| Ok::<_, PyErr>(given(name)?.map(Bound::unbind));
        Ok(Self {
            multithread: truth("multithread")?,
            multiprocess: truth("multiprocess")?,
            errors: match given("errors")? {
                Some(errors) => errors.unbind(),
                None => py.import("sys")?.getattr("stderr")?.unbind(),
            },
            file_wrapper: object("file_wrapper")?,
            pre_request: object("pre_request")?,
            post_request: object("post_request")?,
            server_software: match given("server_software")? {
                Some(name) => name.extract()?,
                None => concat!("ostler/", env!("CARGO_PKG_VERSION")).to_owned(),
            },
            new_slot: object("new_slot")?,
            backlog: given("backlog")?.map(|fd| fd.extract()).transpose()?,
            timings: match given("timings")? {
                Some(timings) => Some(timings.cast::<Timings>()?.clone().unbind()),
                None => None,
            },
        })
    }
}

/// One slot and what it keeps between requests.
struct Slot<'py> {
    py: Python<'py>,
    app: Bound<'py, PyAny>,
    options: Options,
    channel: Arc<Channel>,
    callables: Callables<'py>,
    environ: Environ,
}

enum Turn {
    Served,
    Eof,
    Hijacked,
}

/// A request that was received, ready for the app.
struct Request<'py> {
    environ: Bound<'py, PyDict>,
    subject: Subject<'py>,
    /// What a `pre_request` hook gets, when there is one.
    view: Option<Bound<'py, PyAny>>,
    /// 103 may be sent.
    interim: bool,
    /// The method is HEAD.
    bodiless: bool,
    streamed: bool,
    /// The app may take the connection over.
    websocket: bool,
    /// The client left before we began.
    cancelled: bool,
}

impl<'py> Slot<'py> {
    fn new(py: Python<'py>, app: Bound<'py, PyAny>, fd: RawFd, options: Options) -> PyResult<Self> {
        let channel = Arc::new(Channel::new(fd, options.backlog));
        let environ = Environ::new(py, &options)?;
        let callables = callables(py, &channel, &options)?;
        environ.set_early_hints(&callables.early_hints)?;
        Ok(Self {
            py,
            app,
            options,
            channel,
            callables,
            environ,
        })
    }

    /// Waits for a request and answers it.
    fn serve_one(&mut self) -> PyResult<Turn> {
        let py = self.py;
        let Some(request) = self.receive()? else {
            return Ok(Turn::Eof);
        };
        let held = self.callables.exchange.clone();
        let exchange = held.get();
        let plain = !request.streamed && !request.websocket;
        let may_take = plain && self.options.post_request.is_none();
        exchange.open(py, request.interim, request.bodiless, may_take)?;
        let begun = self.options.timings.as_ref().map(|_| Begun::now());
        if begun.is_some() {
            exchange.watch(&request.environ)?;
        }
        let fatal = if request.cancelled {
            exchange.abort(py, "")?;
            None
        } else {
            let outcome = self.call_app(exchange, &request);
            let fatal = self.settle(exchange, &request.subject, outcome)?;
            if let Some(begun) = &begun {
                self.note(exchange, &request, begun)?;
            }
            self.post_request(exchange, &request)?;
            fatal
        };
        let (stage, gone) = exchange.close(py)?;
        let streamed = request.streamed;
        drop((request, held));
        if let Some(error) = fatal {
            return Err(error);
        }
        match stage {
            Stage::Hijacked => return Ok(Turn::Hijacked),
            _ if gone => return Ok(Turn::Eof),
            _ => {}
        }
        if self.callables.were_kept() {
            self.callables.retire()?;
            self.callables = callables(py, &self.channel, &self.options)?;
            self.environ.set_early_hints(&self.callables.early_hints)?;
        }
        if streamed {
            self.channel.receive(py)?.drain_body(py)?;
        }
        Ok(Turn::Served)
    }

    /// Waits for a request head; `None` when the slot has come to its end.
    fn receive(&mut self) -> PyResult<Option<Request<'py>>> {
        let py = self.py;
        let mut receive = self.channel.receive(py)?;
        let Next::Request(payload, passed) = receive.next_request(py)? else {
            return Ok(None);
        };
        let head = RequestHead::decode(&receive.bytes()[payload])
            .map_err(|error| PyRuntimeError::new_err(format!("a bad request frame: {error}")))?;
        let input = input(py, &self.channel, receive.serial(), &head, passed)?;
        let environ = self.environ.build(py, &head, input)?;
        if head.websocket {
            let socket = self.socket()?;
            environ.set_item(intern!(py, "werkzeug.socket"), socket)?;
        }
        let view = match &self.options.pre_request {
            Some(_) => Some(environ::request_like(py, &head)?),
            None => None,
        };
        let streamed = head.body == BodyKind::Stream;
        let request = Request {
            subject: Subject::new(&environ, head.id)?,
            environ,
            view,
            interim: head.version > 10,
            bodiless: head.method == b"HEAD",
            streamed,
            websocket: head.websocket,
            cancelled: receive.cancel_is_pending(),
        };
        if streamed {
            receive.expect_body();
        }
        Ok(Some(request))
    }

    /// A socket that takes the connection over when it is used.
    fn socket(&self) -> PyResult<Bound<'py, PyAny>> {
        let module = self.py.import("_ostler.hijack")?;
        let class = module.getattr("HijackSocket")?;
        let begin = self.callables.hijack()?;
        let fd = sys::duplicate(self.channel.fd())?;
        class.call_method1("waiting", (fd.into_raw_fd(), begin))
    }

    fn call_app(&self, exchange: &Exchange, request: &Request<'py>) -> PyResult<Outcome> {
        let py = self.py;
        if let (Some(hook), Some(view)) = (&self.options.pre_request, &request.view) {
            hook.call1(py, (view, &request.environ))?;
        }
        // SAFETY: live objects, ended by NULL; the result is a new reference or NULL with an
        // exception set.
        let result = unsafe {
            let result = ffi::PyObject_CallFunctionObjArgs(
                self.app.as_ptr(),
                request.environ.as_ptr(),
                self.callables.start_response.as_ptr(),
                std::ptr::null_mut::<ffi::PyObject>(),
            );
            Bound::from_owned_ptr_or_err(py, result)?
        };
        respond(exchange, &result)
    }

    /// Brings a response to its end after the app had its turn. Gives back what must end the
    /// worker.
    fn settle(
        &self,
        exchange: &Exchange,
        subject: &Subject<'py>,
        outcome: PyResult<Outcome>,
    ) -> PyResult<Option<PyErr>> {
        let py = self.py;
        let errors = &self.options.errors;
        match outcome {
            Ok(Outcome::Complete) => {
                if let Some(length) = exchange.overlong(py)? {
                    let what = format!("the body is longer than its Content-Length of {length}");
                    subject.note(py, errors, &what);
                }
                Ok(None)
            }
            Ok(Outcome::Short) => {
                let (sent, length) = exchange.sent_of(py)?;
                let what = format!("the body ended after {sent} of {length} bytes");
                subject.note(py, errors, &what);
                exchange.abort(py, &what)?;
                Ok(None)
            }
            Err(error) => self.settle_error(exchange, subject, error),
        }
    }

    fn settle_error(
        &self,
        exchange: &Exchange,
        subject: &Subject<'py>,
        error: PyErr,
    ) -> PyResult<Option<PyErr>> {
        let py = self.py;
        let stage = exchange.stage(py)?;
        let fatal = error.is_instance_of::<PySystemExit>(py)
            || error.is_instance_of::<PyKeyboardInterrupt>(py);
        let left = error.is_instance_of::<ClientDisconnected>(py);
        // Frameworks end a hijacked call with one of these, there being nothing left to return.
        let farewell = stage == Stage::Hijacked
            && (error.is_instance_of::<PyConnectionError>(py)
                || error.is_instance_of::<PyStopIteration>(py));
        if !(fatal || left || farewell) {
            subject.exception(py, &self.options.errors, "the app failed", &error);
        }
        match stage {
            Stage::Hijacked | Stage::Ended | Stage::Over => {}
            _ if exchange.is_gone(py)? => {}
            _ if left => exchange.abort(py, "")?,
            Stage::Sending => {
                let kind = error.get_type(py).name()?;
                exchange.abort(py, &format!("the app raised {kind} while it was sending"))?;
            }
            Stage::Open | Stage::Headed => exchange.fail(py)?,
        }
        Ok(fatal.then_some(error))
    }

    /// Notes how long the call took.
    fn note(&self, exchange: &Exchange, request: &Request<'py>, begun: &Begun) -> PyResult<()> {
        let py = self.py;
        let Some(timings) = &self.options.timings else {
            return Ok(());
        };
        let status = match exchange.stage(py)? {
            Stage::Hijacked => 101,
            // Its answer was cut off before it began.
            _ => match exchange.status(py)? {
                0 => 500,
                status => status,
            },
        };
        let (method, path) = request.subject.plain();
        let template = exchange.template(py)?;
        let asked = Asked {
            method: &method,
            template: template.as_deref(),
            path: &path,
            status,
        };
        timings.get().add_request(py, begun.took(), &asked)
    }

    fn post_request(&self, exchange: &Exchange, request: &Request<'py>) -> PyResult<()> {
        let py = self.py;
        let Some(hook) = &self.options.post_request else {
            return Ok(());
        };
        let status = exchange.status(py)?;
        if let Err(error) = hook.call1(py, (&request.environ, status)) {
            if error.is_instance_of::<PySystemExit>(py) {
                return Err(error);
            }
            let (subject, errors) = (&request.subject, &self.options.errors);
            subject.exception(py, errors, "the post_request hook failed", &error);
        }
        Ok(())
    }
}

fn callables<'py>(
    py: Python<'py>,
    channel: &Arc<Channel>,
    options: &Options,
) -> PyResult<Callables<'py>> {
    let exchange = Exchange {
        channel: channel.clone(),
        state: GilCell::new(Response::new()),
        new_slot: options.new_slot.as_ref().map(|hook| hook.clone_ref(py)),
    };
    Callables::new(Bound::new(py, exchange)?)
}

/// The body of a request as `wsgi.input`; `None` for none.
fn input<'py>(
    py: Python<'py>,
    channel: &Arc<Channel>,
    serial: u64,
    head: &RequestHead<'_>,
    passed: Option<OwnedFd>,
) -> PyResult<Option<Bound<'py, Input>>> {
    let input = match head.body {
        BodyKind::None => return Ok(None),
        BodyKind::Inline => Input::bytes(PyBytes::new(py, head.inline)),
        BodyKind::Stream => Input::stream(channel.clone(), serial),
        BodyKind::File => {
            let (Some(file), Some(length)) = (passed, head.content_length) else {
                return Err(PyRuntimeError::new_err("a spooled body without its file"));
            };
            Input::file(file, length)
        }
    };
    Bound::new(py, input).map(Some)
}
