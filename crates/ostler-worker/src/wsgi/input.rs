//! `wsgi.input`: a request body as a readable file, wherever it is.
//!
//! It is in memory (it came with the head), in a spool file, or still on its way in frames. Every
//! method is written once, against "what is ahead" and "get more".

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyMemoryView};

use super::channel::Channel;
use super::gil::GilCell;

/// The object an app finds under `wsgi.input`.
#[pyclass(frozen, module = "_ostler")]
pub struct Input {
    state: GilCell<State>,
}

struct State {
    closed: bool,
    source: Source,
    /// Bytes that were taken from the source and not given to the app yet: `ahead[at..]`.
    ahead: Vec<u8>,
    at: usize,
}

enum Source {
    /// There is no body.
    Empty,
    /// All of it, and how much of it was given out.
    Bytes(Py<PyBytes>, usize),
    /// A spool file that is ours alone, and how many bytes are left in it.
    File(File, u64),
    /// `ReqBody` frames of the request with this serial.
    Stream(Arc<Channel>, u64),
    /// A stream whose request is over.
    Over,
}

/// Bytes taken from a file or stream at a time.
const CHUNK: usize = 64 * 1024;

impl Input {
    fn new(source: Source) -> Self {
        Self {
            state: GilCell::new(State {
                closed: false,
                source,
                ahead: Vec::new(),
                at: 0,
            }),
        }
    }

    /// The input of a request without a body; one may serve many requests.
    pub fn empty() -> Self {
        Self::new(Source::Empty)
    }

    pub fn bytes(body: Bound<'_, PyBytes>) -> Self {
        Self::new(Source::Bytes(body.unbind(), 0))
    }

    /// `length` bytes from the start of a file that only we have a descriptor of.
    pub fn file(file: OwnedFd, length: u64) -> Self {
        Self::new(Source::File(File::from(file), length))
    }

    /// The body that follows the head of the request with this serial.
    pub fn stream(channel: Arc<Channel>, serial: u64) -> Self {
        Self::new(Source::Stream(channel, serial))
    }
}

#[pymethods]
impl Input {
    #[pyo3(signature = (size=None, /))]
    fn read<'py>(&self, py: Python<'py>, size: Option<isize>) -> PyResult<Bound<'py, PyBytes>> {
        let mut state = self.open(py)?;
        state.read(py, limit(size))
    }

    /// What one look at the source brings; what `io` asks of a buffered reader.
    #[pyo3(signature = (size=None, /))]
    fn read1<'py>(&self, py: Python<'py>, size: Option<isize>) -> PyResult<Bound<'py, PyBytes>> {
        let mut state = self.open(py)?;
        let most = limit(size);
        if state.ahead(py).is_empty() && most > 0 {
            state.more(py)?;
        }
        let count = state.ahead(py).len().min(most);
        Ok(state.take(py, count))
    }

    #[pyo3(signature = (size=None, /))]
    fn readline<'py>(&self, py: Python<'py>, size: Option<isize>) -> PyResult<Bound<'py, PyBytes>> {
        let mut state = self.open(py)?;
        state.line(py, limit(size))
    }

    #[pyo3(signature = (hint=None, /))]
    fn readlines<'py>(&self, py: Python<'py>, hint: Option<isize>) -> PyResult<Bound<'py, PyList>> {
        let mut state = self.open(py)?;
        let lines = PyList::empty(py);
        let enough = match hint {
            Some(hint) if hint > 0 => hint as usize,
            _ => usize::MAX,
        };
        let mut total = 0;
        while total < enough {
            let line = state.line(py, usize::MAX)?;
            if line.as_bytes().is_empty() {
                break;
            }
            total += line.as_bytes().len();
            lines.append(line)?;
        }
        Ok(lines)
    }

    fn readinto(&self, py: Python<'_>, buffer: &Bound<'_, PyAny>) -> PyResult<usize> {
        // The buffer protocol is not in the limited API before 3.11; a memoryview's slices are.
        let view = PyMemoryView::from(buffer)?.call_method1(intern!(py, "cast"), ("B",))?;
        let data = self.read(py, Some(view.len()? as isize))?;
        let count = data.as_bytes().len();
        let slice = pyo3::types::PySlice::new(py, 0, count as isize, 1);
        view.set_item(slice, data)?;
        Ok(count)
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let line = self.readline(py, None)?;
        Ok((!line.as_bytes().is_empty()).then_some(line))
    }

    /// Gives up the rest of the body. The shared input of requests without one stays as it is.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let mut state = self.state.borrow(py)?;
        if !matches!(state.source, Source::Empty) {
            state.closed = true;
            state.source = Source::Over;
            state.ahead = Vec::new();
            state.at = 0;
        }
        Ok(())
    }

    #[getter]
    fn closed(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.state.borrow(py)?.closed)
    }

    /// Nothing to do; `io.TextIOWrapper` calls it when it is dropped.
    fn flush(&self) {}

    fn readable(&self) -> bool {
        true
    }

    fn writable(&self) -> bool {
        false
    }

    fn seekable(&self) -> bool {
        false
    }
}

impl Input {
    fn open<'a>(&'a self, py: Python<'a>) -> PyResult<std::cell::RefMut<'a, State>> {
        let state = self.state.borrow(py)?;
        if state.closed {
            return Err(PyValueError::new_err("I/O operation on closed file."));
        }
        Ok(state)
    }
}

fn limit(size: Option<isize>) -> usize {
    size.and_then(|size| usize::try_from(size).ok())
        .unwrap_or(usize::MAX)
}

impl State {
    fn ahead<'a>(&'a self, py: Python<'a>) -> &'a [u8] {
        match &self.source {
            Source::Bytes(body, at) => &body.as_bytes(py)[*at..],
            _ => &self.ahead[self.at..],
        }
    }

    /// Gives `count` bytes out of what is ahead.
    fn take<'py>(&mut self, py: Python<'py>, count: usize) -> Bound<'py, PyBytes> {
        if let Source::Bytes(body, at) = &mut self.source {
            if *at == 0 && count == body.as_bytes(py).len() {
                *at = count;
                return body.bind(py).clone();
            }
            let taken = PyBytes::new(py, &body.as_bytes(py)[*at..*at + count]);
            *at += count;
            return taken;
        }
        let taken = PyBytes::new(py, &self.ahead[self.at..self.at + count]);
        self.at += count;
        taken
    }

    fn read<'py>(&mut self, py: Python<'py>, most: usize) -> PyResult<Bound<'py, PyBytes>> {
        if let Source::File(_, left) = self.source {
            let ahead = self.ahead.len() - self.at;
            let whole = (ahead as u64).saturating_add(left).min(most as u64) as usize;
            if whole > ahead {
                return self.read_file(py, whole);
            }
        }
        while self.ahead(py).len() < most && self.more(py)? {}
        let count = self.ahead(py).len().min(most);
        let taken = self.take(py, count);
        if self.at == self.ahead.len() && self.ahead.capacity() > CHUNK {
            self.ahead = Vec::new();
            self.at = 0;
        }
        Ok(taken)
    }

    /// Reads `whole` bytes, of which the file holds the last ones, without a copy in between.
    fn read_file<'py>(&mut self, py: Python<'py>, whole: usize) -> PyResult<Bound<'py, PyBytes>> {
        let Source::File(file, left) = &mut self.source else {
            return Ok(PyBytes::new(py, b""));
        };
        let ahead = &self.ahead[self.at..];
        let mut read = 0;
        let result = PyBytes::new_with(py, whole, |buffer| {
            let (front, back) = buffer.split_at_mut(ahead.len());
            front.copy_from_slice(ahead);
            read = py.detach(|| read_full(file, back))?;
            Ok(())
        })?;
        *left = if read + ahead.len() < whole {
            0
        } else {
            *left - read as u64
        };
        let whole = ahead.len() + read;
        self.ahead.clear();
        self.at = 0;
        if whole < result.as_bytes().len() {
            return Ok(PyBytes::new(py, &result.as_bytes()[..whole]));
        }
        Ok(result)
    }

    fn line<'py>(&mut self, py: Python<'py>, most: usize) -> PyResult<Bound<'py, PyBytes>> {
        let mut searched = 0;
        loop {
            let ahead = self.ahead(py);
            let window = &ahead[..ahead.len().min(most)];
            let found = memchr::memchr(b'\n', &window[searched..]);
            let count = match found {
                Some(at) => searched + at + 1,
                None if window.len() == most => most,
                None => {
                    searched = window.len();
                    if self.more(py)? {
                        continue;
                    }
                    searched
                }
            };
            return Ok(self.take(py, count));
        }
    }

    /// Gets some more bytes ahead, waiting for the first; `false` at the end of the body.
    fn more(&mut self, py: Python<'_>) -> PyResult<bool> {
        if self.at > 0 {
            self.ahead.drain(..self.at);
            self.at = 0;
        }
        match &mut self.source {
            Source::Empty | Source::Bytes(..) | Source::Over => Ok(false),
            Source::File(file, left) => {
                let most = CHUNK.min(usize::try_from(*left).unwrap_or(CHUNK));
                let start = self.ahead.len();
                self.ahead.resize(start + most, 0);
                let buffer = &mut self.ahead[start..];
                let read = py.detach(|| read_full(file, buffer));
                self.ahead.truncate(start + *read.as_ref().unwrap_or(&0));
                let read = read?;
                *left = if read < most { 0 } else { *left - read as u64 };
                Ok(read > 0)
            }
            Source::Stream(channel, serial) => {
                let mut receive = channel.receive(py)?;
                if receive.serial() != *serial {
                    drop(receive);
                    self.source = Source::Over;
                    return Ok(false);
                }
                Ok(receive.read_body(py, &mut self.ahead, CHUNK)? > 0)
            }
        }
    }
}

/// Reads until `buffer` is full or the file ends.
fn read_full(file: &mut File, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read(&mut buffer[done..]) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}
