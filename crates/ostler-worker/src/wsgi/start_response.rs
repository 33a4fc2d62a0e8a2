//! `start_response`, `write`, `wsgi.early_hints` and the hijack: the callables that an app is given.
//!
//! They are C functions rather than PyO3 methods: `start_response` is called once per request, and
//! a tuple for its arguments would be the larger part of its cost. What it accepts is PEP 3333
//! with gunicorn's tolerance for other containers than a list of tuples.

use std::ffi::{CStr, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};

use ostler_wire::{Kind, ResponseEncoder};
use pyo3::exceptions::{
    PyAssertionError, PyOSError, PyRuntimeError, PySystemError, PyTypeError, PyValueError,
};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyString, PyTuple};
use pyo3::{ffi, intern};

use super::channel::disconnected;
use super::exchange::{Exchange, Stage};
use super::gil::referenced_only_by;

/// The callables of one [`Exchange`].
pub struct Callables<'py> {
    pub exchange: Bound<'py, Exchange>,
    pub start_response: Bound<'py, PyAny>,
    pub early_hints: Bound<'py, PyAny>,
    write: Py<PyAny>,
}

impl<'py> Callables<'py> {
    pub fn new(exchange: Bound<'py, Exchange>) -> PyResult<Self> {
        let write = function(&exchange, &WRITE)?;
        exchange.get().state.borrow(exchange.py())?.write = Some(write.clone().unbind());
        Ok(Self {
            start_response: function(&exchange, &START_RESPONSE)?,
            early_hints: function(&exchange, &EARLY_HINTS)?,
            write: write.unbind(),
            exchange,
        })
    }

    /// Did the app keep one of them? Then they must not serve another request. `early_hints` is
    /// also in the environ template; a hijack callable shows as one more holder of the exchange.
    pub fn were_kept(&self) -> bool {
        let py = self.exchange.py();
        !(referenced_only_by(self.exchange.as_any(), 4)
            && referenced_only_by(&self.start_response, 1)
            && referenced_only_by(&self.early_hints, 2)
            && referenced_only_by(self.write.bind(py), 2))
    }

    /// Takes these callables out of service; whoever kept one gets an exception from now on.
    pub fn retire(&self) -> PyResult<()> {
        // `write` holds the exchange and the exchange holds `write`.
        self.exchange.get().state.borrow(self.exchange.py())?.write = None;
        Ok(())
    }

    /// The function that a WebSocket's socket calls when it is used first.
    pub fn hijack(&self) -> PyResult<Bound<'py, PyAny>> {
        function(&self.exchange, &HIJACK)
    }
}

/// A method table entry that lives as long as the process.
struct Method(ffi::PyMethodDef);

// SAFETY: it is never written after it was built; the pointers in it are to functions and literals.
unsafe impl Sync for Method {}

static START_RESPONSE: Method = method(c"start_response", start_response);
static WRITE: Method = method(c"write", write);
static EARLY_HINTS: Method = method(c"early_hints", early_hints);
static HIJACK: Method = method(c"hijack", hijack);

/// The convention of `METH_FASTCALL | METH_KEYWORDS`. It entered the limited API with 3.10, with
/// the layout it has had since 3.7, so that 3.9 may be given it as well.
type Fast = unsafe extern "C" fn(
    *mut ffi::PyObject,
    *const *mut ffi::PyObject,
    ffi::Py_ssize_t,
    *mut ffi::PyObject,
) -> *mut ffi::PyObject;

const METH_FASTCALL: c_int = 0x80;

const fn method(name: &'static CStr, function: Fast) -> Method {
    // SAFETY: both are pointers to C functions; CPython calls it by the convention that `ml_flags`
    // states, whichever member of the union it was stored as.
    let function = unsafe { std::mem::transmute::<Fast, ffi::PyCFunctionWithKeywords>(function) };
    Method(ffi::PyMethodDef {
        ml_name: name.as_ptr(),
        ml_meth: ffi::PyMethodDefPointer {
            PyCFunctionWithKeywords: function,
        },
        ml_flags: METH_FASTCALL | ffi::METH_KEYWORDS,
        ml_doc: std::ptr::null(),
    })
}

fn function<'py>(
    exchange: &Bound<'py, Exchange>,
    method: &'static Method,
) -> PyResult<Bound<'py, PyAny>> {
    let definition = (&raw const method.0).cast_mut();
    // SAFETY: the definition is static and only read by CPython; the function keeps `exchange`
    // alive as its `self`.
    unsafe {
        let function = ffi::PyCFunction_NewEx(definition, exchange.as_ptr(), std::ptr::null_mut());
        Bound::from_owned_ptr_or_err(exchange.py(), function)
    }
}

/// The arguments of a call by position; keywords are matched against `names`.
struct Arguments<'a, 'py> {
    py: Python<'py>,
    values: &'a [*mut ffi::PyObject],
    positional: usize,
    keywords: Option<Bound<'py, PyTuple>>,
}

impl<'py> Arguments<'_, 'py> {
    /// The argument at `index` or named `name`.
    fn take(&self, index: usize, name: &str) -> PyResult<Option<Bound<'py, PyAny>>> {
        let mut found = (index < self.positional).then_some(index);
        if let Some(keywords) = &self.keywords {
            for (at, keyword) in keywords.iter().enumerate() {
                if keyword.cast::<PyString>()?.to_cow()? == name {
                    if found.is_some() {
                        return Err(PyTypeError::new_err(format!("{name} is given twice")));
                    }
                    found = Some(self.positional + at);
                }
            }
        }
        // SAFETY: CPython passes `positional` plus as many values as there are keywords, all live
        // objects that the caller keeps during the call.
        Ok(found.map(|at| unsafe { Bound::from_borrowed_ptr(self.py, self.values[at]) }))
    }

    fn need(&self, index: usize, name: &str) -> PyResult<Bound<'py, PyAny>> {
        self.take(index, name)?
            .ok_or_else(|| PyTypeError::new_err(format!("the argument {name} is missing")))
    }

    fn at_most(&self, count: usize) -> PyResult<()> {
        if self.values.len() > count {
            return Err(PyTypeError::new_err(format!(
                "{} arguments where at most {count} are taken",
                self.values.len()
            )));
        }
        Ok(())
    }
}

/// The common entry: arguments in, a new reference or NULL with an exception out.
///
/// # Safety
/// To be called by CPython by the convention of [`Fast`], with an [`Exchange`] as `slf`.
unsafe fn enter(
    slf: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    positional: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
    body: for<'a, 'py> fn(&Exchange, &Arguments<'a, 'py>) -> PyResult<Py<PyAny>>,
) -> *mut ffi::PyObject {
    // SAFETY: CPython calls with the GIL held.
    let py = unsafe { Python::assume_attached() };
    let call = || {
        // SAFETY: `slf` is what `function` bound; `keywords` is NULL or a tuple of names, and
        // `values` points at one object for each argument.
        let (exchange, keywords, values) = unsafe {
            let exchange: Bound<'_, Exchange> =
                Bound::from_borrowed_ptr(py, slf).cast_into_unchecked();
            let keywords = Bound::from_borrowed_ptr_or_opt(py, keywords)
                .map(|names| names.cast_into_unchecked::<PyTuple>());
            let count = positional as usize + keywords.as_ref().map_or(0, |names| names.len());
            let values = match count {
                0 => &[][..],
                _ => std::slice::from_raw_parts(values, count),
            };
            (exchange, keywords, values)
        };
        let arguments = Arguments {
            py,
            values,
            positional: positional as usize,
            keywords,
        };
        body(exchange.get(), &arguments)
    };
    let result = catch_unwind(AssertUnwindSafe(call))
        .unwrap_or_else(|_| Err(PySystemError::new_err("a fault inside ostler")));
    match result {
        Ok(value) => value.into_ptr(),
        Err(error) => {
            error.restore(py);
            std::ptr::null_mut()
        }
    }
}

unsafe extern "C" fn start_response(
    slf: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    positional: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython, by the convention that the method table states.
    unsafe { enter(slf, values, positional, keywords, started) }
}

unsafe extern "C" fn write(
    slf: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    positional: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython, by the convention that the method table states.
    unsafe { enter(slf, values, positional, keywords, written) }
}

unsafe extern "C" fn early_hints(
    slf: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    positional: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython, by the convention that the method table states.
    unsafe { enter(slf, values, positional, keywords, hinted) }
}

unsafe extern "C" fn hijack(
    slf: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    positional: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython, by the convention that the method table states.
    unsafe { enter(slf, values, positional, keywords, hijacked) }
}

/// `start_response(status, headers, exc_info=None)`.
fn started(exchange: &Exchange, arguments: &Arguments<'_, '_>) -> PyResult<Py<PyAny>> {
    let py = arguments.py;
    arguments.at_most(3)?;
    let status = arguments.need(0, "status")?;
    let headers = arguments.need(1, "headers")?;
    let exc_info = arguments.take(2, "exc_info")?;
    let stage = exchange.stage(py)?;
    if stage == Stage::Over {
        return Err(PyAssertionError::new_err("this request is over"));
    }
    match exc_info.filter(|info| !info.is_none()) {
        Some(info) if info.is_truthy()? => {
            if matches!(stage, Stage::Sending | Stage::Ended) {
                return Err(reraised(&info)?);
            }
        }
        _ if stage != Stage::Open && stage != Stage::Hijacked => {
            return Err(PyAssertionError::new_err(
                "start_response() was called twice without exc_info",
            ));
        }
        _ => {}
    }
    // Taken out, so that nothing is borrowed while an odd header container runs Python code. A head
    // that waits is kept until its replacement is known to be good.
    let mut head = match stage {
        Stage::Headed => Vec::new(),
        _ => std::mem::take(&mut exchange.state.borrow(py)?.head),
    };
    head.clear();
    let (status, length) = encode(&mut head, Kind::RespHead, &status, &headers)?;
    exchange.find_route(py)?;
    let mut state = exchange.state.borrow(py)?;
    state.head = head;
    if state.stage != Stage::Hijacked {
        state.stage = Stage::Headed;
    }
    state.status = status;
    state.length = length;
    let write = state.write.as_ref().map(|write| write.clone_ref(py));
    write.ok_or_else(|| PyRuntimeError::new_err("this request is over"))
}

/// The exception of a `sys.exc_info()` tuple, with its traceback.
fn reraised(info: &Bound<'_, PyAny>) -> PyResult<PyErr> {
    let value = info.get_item(1)?;
    let traceback = info.get_item(2)?;
    let value = if value.is_none() {
        info.get_item(0)?.call0()?
    } else {
        value
    };
    if !traceback.is_none() {
        return Ok(PyErr::from_value(value.call_method1(
            intern!(info.py(), "with_traceback"),
            (traceback,),
        )?));
    }
    Ok(PyErr::from_value(value))
}

/// `write(data)`: sends at once.
fn written(exchange: &Exchange, arguments: &Arguments<'_, '_>) -> PyResult<Py<PyAny>> {
    let py = arguments.py;
    arguments.at_most(1)?;
    let data = arguments.need(0, "data")?;
    let data = data.cast::<PyBytes>().map_err(|_| not_bytes(&data))?;
    exchange.check_cancelled(py)?;
    exchange.send_body(py, data.as_bytes(), false)?;
    Ok(py.None())
}

pub fn not_bytes(value: &Bound<'_, PyAny>) -> PyErr {
    let found = value.get_type().name().map(|name| name.to_string());
    PyTypeError::new_err(format!(
        "a response body is made of bytes, not {}",
        found.as_deref().unwrap_or("an unnamed type")
    ))
}

/// `wsgi.early_hints(headers)`: sends a 103 response; silently nothing when it would come too late.
fn hinted(exchange: &Exchange, arguments: &Arguments<'_, '_>) -> PyResult<Py<PyAny>> {
    let py = arguments.py;
    arguments.at_most(1)?;
    let headers = arguments.need(0, "headers")?;
    let status = PyString::new(py, "103 Early Hints");
    let mut frame = Vec::new();
    encode(&mut frame, Kind::RespInfo, &status, &headers)?;
    exchange.send_interim(py, &frame)?;
    Ok(py.None())
}

/// Takes the connection over: the replacement stands first, then the server is told.
fn hijacked(exchange: &Exchange, arguments: &Arguments<'_, '_>) -> PyResult<Py<PyAny>> {
    let py = arguments.py;
    if exchange.stage(py)? != Stage::Open {
        return Err(PyOSError::new_err(
            "the connection cannot be taken over: a response was begun or the request is over",
        ));
    }
    if exchange.channel.receive(py)?.poll_cancel(py)? {
        return Err(disconnected());
    }
    if let Some(new_slot) = &exchange.new_slot {
        new_slot.call0(py)?;
    }
    exchange.send_hijack(py)?;
    Ok(py.None())
}

/// Writes a head frame; returns the status code and the Content-Length.
fn encode(
    out: &mut Vec<u8>,
    kind: Kind,
    status: &Bound<'_, PyAny>,
    headers: &Bound<'_, PyAny>,
) -> PyResult<(u16, Option<u64>)> {
    let status = status
        .cast::<PyString>()
        .map_err(|_| PyTypeError::new_err(format!("the status {status:?} is not a str")))?;
    let text = latin1_bytes(status)?;
    let (code, reason) = parse_status(text.as_bytes())
        .ok_or_else(|| PyValueError::new_err(format!("the status {status:?} is not valid")))?;
    let list = as_list(headers)?;
    if list.len() > MOST_HEADERS {
        return Err(PyValueError::new_err("more response headers than allowed"));
    }
    let mut encoder = ResponseEncoder::new(out, kind, 0, 0, code, reason);
    let mut length = None;
    let mut total = 0;
    for item in list.iter() {
        let pair = as_pair(&item)?;
        let (name, value) = (pair.get_borrowed_item(0)?, pair.get_borrowed_item(1)?);
        let (name_bytes, value_bytes) = (header_bytes(&name)?, header_bytes(&value)?);
        let (name, value) = checked(name_bytes.as_bytes(), value_bytes.as_bytes())?;
        total += name.len() + value.len();
        if total > LONGEST_HEAD {
            return Err(PyValueError::new_err(format!(
                "the response headers are longer than {LONGEST_HEAD} bytes"
            )));
        }
        if name.eq_ignore_ascii_case(b"content-length") {
            length = Some(content_length(value, length)?);
        }
        encoder.field(name, value);
    }
    encoder.finish(0);
    Ok((code, length))
}

/// More header fields than this in one response are a bug in the app.
const MOST_HEADERS: usize = 1024;

/// Bytes of names and values in one response head; a longer one no client would accept. It also
/// keeps each of them under the 64 KiB that the wire can hold.
const LONGEST_HEAD: usize = 60 * 1024;

fn as_list<'py>(headers: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyList>> {
    if let Ok(list) = headers.cast_exact::<PyList>() {
        return Ok(list.clone());
    }
    let list = PyList::empty(headers.py());
    for item in headers.try_iter()? {
        list.append(as_pair(&item?)?)?;
    }
    Ok(list)
}

fn as_pair<'py>(item: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyTuple>> {
    let pair = match item.cast::<PyTuple>() {
        Ok(pair) => pair.clone(),
        Err(_) if item.is_instance_of::<PyString>() => {
            return Err(PyTypeError::new_err(format!(
                "the header {item:?} is not a (name, value) tuple"
            )));
        }
        Err(_) => {
            let items = item.try_iter()?.collect::<PyResult<Vec<_>>>()?;
            PyTuple::new(item.py(), items)?
        }
    };
    if pair.len() != 2 {
        return Err(PyValueError::new_err(format!(
            "the header {item:?} is not a (name, value) tuple"
        )));
    }
    Ok(pair)
}

fn header_bytes<'py>(text: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    let text = text.cast::<PyString>().map_err(|_| {
        PyTypeError::new_err(format!("the header name or value {text:?} is not a str"))
    })?;
    latin1_bytes(text)
}

fn latin1_bytes<'py>(text: &Bound<'py, PyString>) -> PyResult<Bound<'py, PyBytes>> {
    // SAFETY: a live `str` in, a new `bytes` or NULL with UnicodeEncodeError out.
    unsafe {
        let bytes = ffi::PyUnicode_AsLatin1String(text.as_ptr());
        Ok(Bound::from_owned_ptr_or_err(text.py(), bytes)?.cast_into_unchecked())
    }
}

/// `200 OK` → 200 and `OK`. The reason may be missing, as gunicorn allows.
fn parse_status(text: &[u8]) -> Option<(u16, &[u8])> {
    let (digits, rest) = text.split_first_chunk::<3>()?;
    let reason = match rest.split_first() {
        None => rest,
        Some((b' ', reason)) => reason,
        Some(_) => return None,
    };
    if !digits.iter().all(u8::is_ascii_digit) || digits[0] == b'0' || !is_field_text(reason) {
        return None;
    }
    let code = digits
        .iter()
        .fold(0, |code, digit| code * 10 + u16::from(digit - b'0'));
    Some((code, &reason[..reason.len().min(LONGEST_REASON)]))
}

/// Bytes of a reason phrase; nobody reads them.
const LONGEST_REASON: usize = 512;

/// Name and value, the value without surrounding blanks (RFC 9110 section 5.5).
fn checked<'a>(name: &'a [u8], value: &'a [u8]) -> PyResult<(&'a [u8], &'a [u8])> {
    if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
        return Err(PyValueError::new_err(format!(
            "the response header name {:?} is not a token",
            String::from_utf8_lossy(name)
        )));
    }
    if !is_field_text(value) {
        return Err(PyValueError::new_err(format!(
            "the value of the response header {} holds a control character: {:?}",
            String::from_utf8_lossy(name),
            String::from_utf8_lossy(value)
        )));
    }
    Ok((name, value.trim_ascii()))
}

/// RFC 9110 section 5.6.2.
fn is_token(byte: u8) -> bool {
    TOKEN[usize::from(byte)]
}

const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let others = b"!#$%&'*+-.^_`|~";
    let mut index = 0;
    while index < others.len() {
        table[others[index] as usize] = true;
        index += 1;
    }
    table
};

/// RFC 9110 section 5.5: no control character but the tab.
fn is_field_text(text: &[u8]) -> bool {
    // No early end, so that the compiler can look at many bytes at once.
    let bad = |byte: &u8| (*byte < b' ' && *byte != b'\t') || *byte == 0x7f;
    !text.iter().fold(false, |any, byte| any | bad(byte))
}

fn content_length(value: &[u8], before: Option<u64>) -> PyResult<u64> {
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    let parsed = std::str::from_utf8(value)
        .ok()
        .filter(|_| digits)
        .and_then(|text| text.parse::<u64>().ok());
    match parsed {
        Some(length) if before.is_none_or(|before| before == length) => Ok(length),
        _ => Err(PyValueError::new_err(format!(
            "the Content-Length {:?} is not one number",
            String::from_utf8_lossy(value)
        ))),
    }
}
