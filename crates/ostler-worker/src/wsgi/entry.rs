//! One key of environ, and the value it had last.
//!
//! The `str` built last is used again when the bytes are the same. A value that has stayed the same
//! for a while moves into the template: then it costs a comparison and nothing else. It leaves the
//! template with the first request that does not have exactly these bytes, so that nothing of one
//! client's request is ever seen in another's.

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use super::gil::latin1;

pub struct Entry {
    key: Py<PyString>,
    bytes: Vec<u8>,
    text: Option<Py<PyString>>,
    /// Requests in a row with these bytes, at most [`STEADY`].
    streak: u8,
    templated: bool,
}

/// So many requests in a row bring a value into the template. Taking it out again costs about as
/// much as setting it three times.
const STEADY: u8 = 16;

/// Values longer than this many bytes are built anew each time.
const LONGEST_KEPT: usize = 512;

impl Entry {
    pub fn new(key: Py<PyString>) -> Self {
        Self {
            key,
            bytes: Vec::new(),
            text: None,
            streak: 0,
            templated: false,
        }
    }

    pub fn key(&self) -> &Py<PyString> {
        &self.key
    }

    pub fn is_templated(&self) -> bool {
        self.templated
    }

    /// Gives `environ`, a copy of `template`, the value `bytes`.
    pub fn put(
        &mut self,
        template: &Bound<'_, PyDict>,
        environ: &Bound<'_, PyDict>,
        bytes: &[u8],
    ) -> PyResult<()> {
        if let Some(text) = &self.text
            && self.bytes == bytes
        {
            if self.templated {
                return Ok(());
            }
            let text = text.bind(environ.py());
            self.streak += 1;
            if self.streak == STEADY {
                set(template, &self.key, text)?;
                self.templated = true;
            }
            return set(environ, &self.key, text);
        }
        let text = latin1(environ.py(), bytes)?;
        set(environ, &self.key, &text)?;
        self.keep(bytes, text);
        Ok(())
    }

    /// The same for a number in decimal.
    pub fn put_number(
        &mut self,
        template: &Bound<'_, PyDict>,
        environ: &Bound<'_, PyDict>,
        number: u16,
    ) -> PyResult<()> {
        let mut digits = [0; 5];
        let mut rest = number;
        let mut at = digits.len();
        loop {
            at -= 1;
            digits[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                return self.put(template, environ, &digits[at..]);
            }
        }
    }

    fn keep(&mut self, bytes: &[u8], text: Bound<'_, PyString>) {
        self.streak = 0;
        self.templated = false;
        self.bytes.clear();
        self.text = None;
        if bytes.len() <= LONGEST_KEPT {
            self.bytes.extend_from_slice(bytes);
            self.text = Some(text.unbind());
        }
    }

    /// Takes the value out of the template.
    pub fn remove(&mut self, template: &Bound<'_, PyDict>) -> PyResult<()> {
        self.streak = 0;
        self.templated = false;
        template.del_item(&self.key)
    }
}

/// `dict[key] = value` without the conversions of the safe one.
pub fn set<T>(dict: &Bound<'_, PyDict>, key: &Py<PyString>, value: &Bound<'_, T>) -> PyResult<()> {
    // SAFETY: three live objects; the dict takes its own references.
    let result = unsafe { ffi::PyDict_SetItem(dict.as_ptr(), key.as_ptr(), value.as_ptr()) };
    if result < 0 {
        return Err(PyErr::fetch(dict.py()));
    }
    Ok(())
}
