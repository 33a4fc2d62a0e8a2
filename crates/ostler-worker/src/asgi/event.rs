//! What `receive()` gives to an app.

use ostler_wire::Opcode;
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

/// One ASGI receive event.
pub enum Event {
    /// A piece of the request body.
    Request { body: Vec<u8>, more: bool },
    /// The client is gone, or the response is complete.
    Disconnect,
    /// A WebSocket handshake waits for the app's answer.
    Connect,
    /// A WebSocket message.
    Message { opcode: Opcode, data: Vec<u8> },
    /// The WebSocket is closed (RFC 6455 section 7.4 codes).
    Closed { code: u16, reason: String },
}

impl Event {
    /// The event as the dict that the ASGI specification names.
    pub fn into_dict(self, py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
        let dict = PyDict::new(py);
        let kind = intern!(py, "type");
        match self {
            Self::Request { body, more } => {
                dict.set_item(kind, intern!(py, "http.request"))?;
                dict.set_item(intern!(py, "body"), PyBytes::new(py, &body))?;
                dict.set_item(intern!(py, "more_body"), more)?;
            }
            Self::Disconnect => dict.set_item(kind, intern!(py, "http.disconnect"))?,
            Self::Connect => dict.set_item(kind, intern!(py, "websocket.connect"))?,
            Self::Message { opcode, data } => {
                dict.set_item(kind, intern!(py, "websocket.receive"))?;
                match opcode {
                    Opcode::Text => dict.set_item(intern!(py, "text"), text(py, &data)?)?,
                    Opcode::Binary => {
                        dict.set_item(intern!(py, "bytes"), PyBytes::new(py, &data))?;
                    }
                }
            }
            Self::Closed { code, reason } => {
                dict.set_item(kind, intern!(py, "websocket.disconnect"))?;
                dict.set_item(intern!(py, "code"), code)?;
                dict.set_item(intern!(py, "reason"), reason)?;
            }
        }
        Ok(dict)
    }
}

/// UTF-8 as a `str`; what is not UTF-8 becomes U+FFFD, as `urllib.parse.unquote` has it.
pub fn text<'py>(py: Python<'py>, utf8: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: the pointer and length are those of one slice, and the result is a new reference or
    // null with an exception set.
    unsafe {
        let text = ffi::PyUnicode_DecodeUTF8(
            utf8.as_ptr().cast(),
            utf8.len() as ffi::Py_ssize_t,
            c"replace".as_ptr(),
        );
        Bound::from_owned_ptr_or_err(py, text)
    }
}
