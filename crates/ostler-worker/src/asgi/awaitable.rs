//! What `receive()` and `send()` return: awaitables that are done at once whenever they can be.
//!
//! Each also has `send`, `throw` and `close`, which makes it a `collections.abc.Coroutine`, so that
//! `asyncio.create_task(receive())` works as it does where `receive` is an `async def`.

use pyo3::exceptions::PyStopIteration;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyIterator;

use super::stream::Stream;

/// `await receive()`. The event is taken when it is awaited, not when `receive` is called, so a
/// cancelled wait never loses one.
#[pyclass(module = "_ostler")]
pub struct Receive {
    stream: Py<Stream>,
    wait: Wait,
}

impl Receive {
    pub fn new(stream: Py<Stream>) -> Self {
        Self {
            stream,
            wait: Wait::default(),
        }
    }

    fn step(&mut self, py: Python<'_>) -> PyResult<Step> {
        loop {
            if let Some(future) = self.wait.poll(py)? {
                return Ok(Step::Yield(future));
            }
            let stream = self.stream.bind(py);
            match Stream::next_event(stream)? {
                Some(event) => return Ok(Step::Return(event.into_dict(py)?.into_any().unbind())),
                None => self.wait.on(&Stream::readable_future(stream)?)?,
            }
        }
    }
}

#[pymethods]
impl Receive {
    fn __await__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(&mut self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        self.step(py).map(|step| step.into_next(py))
    }

    fn send(&mut self, py: Python<'_>, _value: Py<PyAny>) -> PyResult<Py<PyAny>> {
        self.step(py)?.into_send()
    }

    #[pyo3(signature = (kind, value=None, traceback=None))]
    fn throw(
        &mut self,
        kind: Bound<'_, PyAny>,
        value: Option<Bound<'_, PyAny>>,
        traceback: Option<Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        self.wait = Wait::default();
        Err(thrown(kind, value, traceback))
    }

    fn close(&mut self) {
        self.wait = Wait::default();
    }
}

/// `await send(...)` of bytes that the credit did not reach for. What was given is sent even when
/// nobody awaits this.
#[pyclass(module = "_ostler")]
pub struct Drain {
    stream: Py<Stream>,
    wait: Wait,
}

impl Drain {
    pub fn new(stream: Py<Stream>) -> Self {
        Self {
            stream,
            wait: Wait::default(),
        }
    }

    fn step(&mut self, py: Python<'_>) -> PyResult<Step> {
        loop {
            if let Some(future) = self.wait.poll(py)? {
                return Ok(Step::Yield(future));
            }
            let stream = self.stream.bind(py);
            if Stream::is_drained(stream)? {
                return Ok(Step::Return(py.None()));
            }
            self.wait.on(&Stream::drained_future(stream)?)?;
        }
    }
}

#[pymethods]
impl Drain {
    fn __await__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(&mut self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        self.step(py).map(|step| step.into_next(py))
    }

    fn send(&mut self, py: Python<'_>, _value: Py<PyAny>) -> PyResult<Py<PyAny>> {
        self.step(py)?.into_send()
    }

    #[pyo3(signature = (kind, value=None, traceback=None))]
    fn throw(
        &mut self,
        kind: Bound<'_, PyAny>,
        value: Option<Bound<'_, PyAny>>,
        traceback: Option<Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        self.wait = Wait::default();
        Err(thrown(kind, value, traceback))
    }

    fn close(&mut self) {
        self.wait = Wait::default();
    }
}

/// `await send(...)` that has nothing to wait for. It has no state: one serves every stream.
#[pyclass(module = "_ostler", frozen)]
pub struct Sent;

#[pymethods]
impl Sent {
    fn __await__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(&self) -> Option<Py<PyAny>> {
        None
    }

    fn send(&self, py: Python<'_>, _value: Py<PyAny>) -> PyResult<()> {
        Err(PyStopIteration::new_err((py.None(),)))
    }

    #[pyo3(signature = (kind, value=None, traceback=None))]
    fn throw(
        &self,
        kind: Bound<'_, PyAny>,
        value: Option<Bound<'_, PyAny>>,
        traceback: Option<Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        Err(thrown(kind, value, traceback))
    }

    fn close(&self) {}
}

/// One step of a coroutine.
enum Step {
    /// The task must wait for this future.
    Yield(Py<PyAny>),
    /// The await is over and has this value.
    Return(Py<PyAny>),
}

impl Step {
    /// The step as `tp_iternext` has it.
    fn into_next(self, py: Python<'_>) -> Option<Py<PyAny>> {
        match self {
            Self::Yield(future) => Some(future),
            Self::Return(value) => {
                // SAFETY: both are live objects. No value with an exception set is how an iterator
                // ends; a `dict` or `None` as the exception's argument is its `value` as it is. This
                // spares the exception object that a `PyErr` would make.
                unsafe { ffi::PyErr_SetObject(ffi::PyExc_StopIteration, value.as_ptr()) };
                drop(value.into_bound(py));
                None
            }
        }
    }

    fn into_send(self) -> PyResult<Py<PyAny>> {
        match self {
            Self::Yield(future) => Ok(future),
            Self::Return(value) => Err(PyStopIteration::new_err((value,))),
        }
    }
}

/// A wait for an `asyncio.Future`: the iterator of its `__await__`.
#[derive(Default)]
struct Wait(Option<Py<PyIterator>>);

impl Wait {
    fn on(&mut self, future: &Bound<'_, PyAny>) -> PyResult<()> {
        self.0 = Some(future.try_iter()?.unbind());
        Ok(())
    }

    /// The future while it is not done; `None` when there is nothing to wait for.
    fn poll(&mut self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        let Some(iterator) = &self.0 else {
            return Ok(None);
        };
        match iterator.bind(py).clone().next() {
            Some(Ok(future)) => Ok(Some(future.unbind())),
            Some(Err(error)) => {
                self.0 = None;
                Err(error)
            }
            None => {
                self.0 = None;
                Ok(None)
            }
        }
    }
}

/// The exception that `throw(kind, value, traceback)` raises.
fn thrown(
    kind: Bound<'_, PyAny>,
    value: Option<Bound<'_, PyAny>>,
    traceback: Option<Bound<'_, PyAny>>,
) -> PyErr {
    let value = value.filter(|value| !value.is_none());
    let error = match value {
        Some(value) if value.is_instance_of::<pyo3::exceptions::PyBaseException>() => {
            PyErr::from_value(value)
        }
        Some(value) => match kind.call1((value,)) {
            Ok(error) => PyErr::from_value(error),
            Err(error) => error,
        },
        None => PyErr::from_value(kind),
    };
    if let Some(traceback) = traceback
        && let Ok(traceback) = traceback.cast_into()
    {
        let py = traceback.py();
        error.set_traceback(py, Some(traceback));
    }
    error
}
