//! What an app gives to `send()`: checked, and taken out of its Python objects.
//!
//! Reading a message may run Python code (a header list may be any iterable), so it is done before
//! anything of the stream is borrowed. Whether the message may come now is decided by [`super::http`]
//! and [`super::websocket`].

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use ostler_wire::{Kind, Opcode, ResponseEncoder};
use pyo3::exceptions::{PyOSError, PyRuntimeError, PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyDict, PyList, PyMapping, PyString, PyTuple};

/// Bytes of status and headers together. The edge refuses far smaller heads; this only keeps a
/// frame below its own limit.
const MAX_HEAD: usize = 512 * 1024;

/// One ASGI send event. Frames are laid out already, for the stream that sends them.
pub enum Message {
    /// `http.response.start` or, when `denial`, `websocket.http.response.start`: a whole `RespHead`
    /// frame without body.
    Start {
        head: Vec<u8>,
        status: u16,
        trailers: bool,
        denial: bool,
    },
    /// `http.response.body` or `websocket.http.response.body`.
    Body {
        body: Py<PyBytes>,
        more: bool,
        denial: bool,
    },
    /// `http.response.pathsend`: the regular file to send.
    File(OwnedFd),
    /// `http.response.trailers`.
    Trailers { fields: Fields, more: bool },
    /// `http.response.early_hint`: a whole `RespInfo` frame.
    EarlyHint(Vec<u8>),
    /// `websocket.accept`: a whole `WsAccept` frame.
    Accept(Vec<u8>),
    /// `websocket.send`.
    Send { opcode: Opcode, data: Py<PyBytes> },
    /// `websocket.close`.
    Close { code: u16, reason: String },
}

/// Header fields, owned.
pub type Fields = Vec<(Vec<u8>, Vec<u8>)>;

impl Message {
    /// Reads a message that stream `id` sends.
    pub fn read(message: &Bound<'_, PyAny>, id: u32) -> PyResult<Self> {
        let message = Source::new(message)?;
        let Some(kind) = message.get(intern!(message.py(), "type"))? else {
            return Err(PyRuntimeError::new_err("an ASGI message needs a \"type\""));
        };
        let kind = kind
            .cast::<PyString>()
            .map_err(|_| PyTypeError::new_err("the \"type\" of an ASGI message is a str"))?;
        // The two that nearly every request sends come first.
        for (name, read) in READERS {
            if is(kind, name) {
                return read(&message, id);
            }
        }
        Err(PyRuntimeError::new_err(format!(
            "unknown ASGI message {kind:?}"
        )))
    }

    /// The status that the client sees, of a message that decides it.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Start { status, .. } => Some(*status),
            Self::Accept(_) => Some(101),
            // Before the accept, which comes first otherwise.
            Self::Close { .. } => Some(403),
            Self::Body { .. }
            | Self::File(_)
            | Self::Trailers { .. }
            | Self::EarlyHint(_)
            | Self::Send { .. } => None,
        }
    }

    /// It belongs to the `websocket.http.response` extension.
    pub fn is_denial(&self) -> bool {
        matches!(
            self,
            Self::Start { denial: true, .. } | Self::Body { denial: true, .. }
        )
    }

    /// The `type` it came with.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Start { denial: false, .. } => "http.response.start",
            Self::Start { denial: true, .. } => "websocket.http.response.start",
            Self::Body { denial: false, .. } => "http.response.body",
            Self::Body { denial: true, .. } => "websocket.http.response.body",
            Self::File(_) => "http.response.pathsend",
            Self::Trailers { .. } => "http.response.trailers",
            Self::EarlyHint(_) => "http.response.early_hint",
            Self::Accept(_) => "websocket.accept",
            Self::Send { .. } => "websocket.send",
            Self::Close { .. } => "websocket.close",
        }
    }
}

type Reader = fn(&Source<'_, '_>, u32) -> PyResult<Message>;

const READERS: [(&std::ffi::CStr, Reader); 10] = [
    (c"http.response.start", |message, id| {
        start(message, id, false)
    }),
    (c"http.response.body", |message, _| body(message, false)),
    (c"websocket.send", |message, _| send(message)),
    (c"websocket.accept", accept),
    (c"websocket.close", |message, _| close(message)),
    (c"http.response.pathsend", |message, _| pathsend(message)),
    (c"http.response.trailers", |message, _| trailers(message)),
    (c"http.response.early_hint", early_hint),
    (c"websocket.http.response.start", |message, id| {
        start(message, id, true)
    }),
    (c"websocket.http.response.body", |message, _| {
        body(message, true)
    }),
];

fn is(text: &Bound<'_, PyString>, name: &std::ffi::CStr) -> bool {
    // SAFETY: `text` is a str and `name` ends with NUL; the call cannot fail.
    unsafe { ffi::PyUnicode_CompareWithASCIIString(text.as_ptr(), name.as_ptr()) == 0 }
}

fn start(message: &Source<'_, '_>, id: u32, denial: bool) -> PyResult<Message> {
    let py = message.py();
    let status = status(message)?;
    let trailers = !denial && message.flag(intern!(py, "trailers"))?;
    let mut head = Vec::with_capacity(256);
    let mut encoder = ResponseEncoder::new(&mut head, Kind::RespHead, 0, id, status, b"");
    each_field(message, |name, value| {
        encoder.field(name, value);
        Ok(())
    })?;
    encoder.finish(0);
    Ok(Message::Start {
        head,
        status,
        trailers,
        denial,
    })
}

fn status(message: &Source<'_, '_>) -> PyResult<u16> {
    let py = message.py();
    let Some(status) = message.get(intern!(py, "status"))? else {
        return Err(PyRuntimeError::new_err("a response start needs a status"));
    };
    match status.extract::<u16>() {
        Ok(status @ 200..=999) => Ok(status),
        Ok(status) => Err(PyValueError::new_err(format!(
            "a response cannot have the status {status}"
        ))),
        Err(error) => Err(error),
    }
}

fn body(message: &Source<'_, '_>, denial: bool) -> PyResult<Message> {
    let py = message.py();
    let body = match message.get(intern!(py, "body"))? {
        Some(body) => bytes(&body)?,
        None => PyBytes::new(py, b"").unbind(),
    };
    let more = message.flag(intern!(py, "more_body"))?;
    Ok(Message::Body { body, more, denial })
}

fn pathsend(message: &Source<'_, '_>) -> PyResult<Message> {
    let Some(path) = message.get(intern!(message.py(), "path"))? else {
        return Err(PyRuntimeError::new_err("a pathsend needs a path"));
    };
    // Not blocking on a FIFO, which is then refused as not a regular file.
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path.extract::<PathBuf>()?)?;
    if !file.metadata()?.is_file() {
        return Err(PyOSError::new_err((
            libc::EINVAL,
            "only a regular file can be sent",
        )));
    }
    Ok(Message::File(file.into()))
}

fn trailers(message: &Source<'_, '_>) -> PyResult<Message> {
    let mut fields = Fields::new();
    each_field(message, |name, value| {
        fields.push((name.to_vec(), value.to_vec()));
        Ok(())
    })?;
    let more = message.flag(intern!(message.py(), "more_trailers"))?;
    Ok(Message::Trailers { fields, more })
}

fn early_hint(message: &Source<'_, '_>, id: u32) -> PyResult<Message> {
    let mut frame = Vec::new();
    let mut encoder = ResponseEncoder::new(&mut frame, Kind::RespInfo, 0, id, 103, b"");
    if let Some(links) = message.get(intern!(message.py(), "links"))? {
        let mut room = MAX_HEAD;
        for link in links.try_iter()? {
            let link = link?;
            let link = link.cast::<PyBytes>().map_err(|_| not_bytes(&link))?;
            fits(b"link", link.as_bytes(), &mut room)?;
            encoder.field(b"link", link.as_bytes());
        }
    }
    encoder.finish(0);
    Ok(Message::EarlyHint(frame))
}

fn accept(message: &Source<'_, '_>, id: u32) -> PyResult<Message> {
    let mut frame = Vec::new();
    let mut encoder = ResponseEncoder::new(&mut frame, Kind::WsAccept, 0, id, 101, b"");
    if let Some(subprotocol) = message.get(intern!(message.py(), "subprotocol"))? {
        let subprotocol = utf8(subprotocol.cast::<PyString>()?)?;
        encoder.field(b"sec-websocket-protocol", subprotocol.as_bytes());
    }
    each_field(message, |name, value| {
        encoder.field(name, value);
        Ok(())
    })?;
    encoder.finish(0);
    Ok(Message::Accept(frame))
}

fn send(message: &Source<'_, '_>) -> PyResult<Message> {
    let py = message.py();
    if let Some(data) = message.get(intern!(py, "bytes"))? {
        return Ok(Message::Send {
            opcode: Opcode::Binary,
            data: bytes(&data)?,
        });
    }
    let Some(text) = message.get(intern!(py, "text"))? else {
        return Err(PyRuntimeError::new_err(
            "\"websocket.send\" needs \"bytes\" or \"text\"",
        ));
    };
    Ok(Message::Send {
        opcode: Opcode::Text,
        data: utf8(text.cast::<PyString>()?)?.unbind(),
    })
}

fn close(message: &Source<'_, '_>) -> PyResult<Message> {
    let py = message.py();
    let code = match message.get(intern!(py, "code"))? {
        Some(code) => code.extract()?,
        None => 1000,
    };
    let reason = match message.get(intern!(py, "reason"))? {
        Some(reason) => reason.extract()?,
        None => String::new(),
    };
    Ok(Message::Close { code, reason })
}

/// Gives every header of the message to `field`.
fn each_field(
    message: &Source<'_, '_>,
    mut field: impl FnMut(&[u8], &[u8]) -> PyResult<()>,
) -> PyResult<()> {
    let Some(headers) = message.get(intern!(message.py(), "headers"))? else {
        return Ok(());
    };
    let mut room = MAX_HEAD;
    let mut one = |pair: Bound<'_, PyAny>| {
        let (name, value) = pair_of(&pair)?;
        let (name, value) = (
            name.cast::<PyBytes>().map_err(|_| not_bytes(&name))?,
            value.cast::<PyBytes>().map_err(|_| not_bytes(&value))?,
        );
        let (name, value) = (name.as_bytes(), value.as_bytes());
        fits(name, value, &mut room)?;
        field(name, value)
    };
    if let Ok(list) = headers.cast_exact::<PyList>() {
        return list.iter().try_for_each(one);
    }
    for pair in headers.try_iter()? {
        one(pair?)?;
    }
    Ok(())
}

/// The name and value of one header, which any iterable of two may hold.
fn pair_of<'py>(pair: &Bound<'py, PyAny>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
    if let Ok(tuple) = pair.cast_exact::<PyTuple>()
        && tuple.len() == 2
    {
        return Ok((tuple.get_item(0)?, tuple.get_item(1)?));
    }
    let mut items = pair.try_iter()?;
    match (items.next(), items.next(), items.next()) {
        (Some(name), Some(value), None) => Ok((name?, value?)),
        _ => Err(PyValueError::new_err("a header is a pair (name, value)")),
    }
}

/// Refuses what a frame cannot carry, rather than cut it.
fn fits(name: &[u8], value: &[u8], room: &mut usize) -> PyResult<()> {
    let len = name.len() + value.len() + 4;
    if name.len() > u16::MAX.into() || value.len() > u16::MAX.into() || len > *room {
        return Err(PyValueError::new_err("response headers are too large"));
    }
    *room -= len;
    Ok(())
}

/// The bytes of a bytes-like object; a `bytes` itself is not copied.
fn bytes(value: &Bound<'_, PyAny>) -> PyResult<Py<PyBytes>> {
    if let Ok(bytes) = value.cast::<PyBytes>() {
        return Ok(bytes.clone().unbind());
    }
    if value.is_instance_of::<PyByteArray>() || value.hasattr(intern!(value.py(), "tobytes"))? {
        let kind = value.py().get_type::<PyBytes>();
        return Ok(kind.call1((value,))?.cast_into::<PyBytes>()?.unbind());
    }
    Err(not_bytes(value))
}

fn not_bytes(value: &Bound<'_, PyAny>) -> PyErr {
    match value.get_type().name() {
        Ok(name) => PyTypeError::new_err(format!("expected bytes, not {name}")),
        Err(error) => error,
    }
}

fn utf8<'py>(text: &Bound<'py, PyString>) -> PyResult<Bound<'py, PyBytes>> {
    // SAFETY: `text` is a str; the result is a new `bytes` or null with an exception set.
    let encoded = unsafe {
        Bound::from_owned_ptr_or_err(text.py(), ffi::PyUnicode_AsUTF8String(text.as_ptr()))?
    };
    Ok(encoded.cast_into::<PyBytes>()?)
}

/// A message: a dict in practice, any mapping by the specification.
enum Source<'a, 'py> {
    Dict(&'a Bound<'py, PyDict>),
    Mapping(&'a Bound<'py, PyMapping>),
}

impl<'a, 'py> Source<'a, 'py> {
    fn new(message: &'a Bound<'py, PyAny>) -> PyResult<Self> {
        if let Ok(dict) = message.cast_exact::<PyDict>() {
            return Ok(Self::Dict(dict));
        }
        match message.cast::<PyMapping>() {
            Ok(mapping) => Ok(Self::Mapping(mapping)),
            Err(_) => Err(PyTypeError::new_err("an ASGI message is a dict")),
        }
    }

    fn py(&self) -> Python<'py> {
        match self {
            Self::Dict(dict) => dict.py(),
            Self::Mapping(mapping) => mapping.py(),
        }
    }

    /// The value of `key`; a missing key and `None` are the same.
    fn get(&self, key: &Bound<'py, PyString>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let value = match self {
            Self::Dict(dict) => dict.get_item(key)?,
            Self::Mapping(mapping) if mapping.contains(key)? => Some(mapping.get_item(key)?),
            Self::Mapping(_) => None,
        };
        Ok(value.filter(|value| !value.is_none()))
    }

    fn flag(&self, key: &Bound<'py, PyString>) -> PyResult<bool> {
        self.get(key)?.map_or(Ok(false), |value| value.is_truthy())
    }
}
