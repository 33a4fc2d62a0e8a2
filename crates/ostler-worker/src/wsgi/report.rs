//! What the app did wrong, written to `wsgi.errors`: one write per event, so that lines of several
//! threads do not mix.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

/// Names the request in flight in a report.
pub struct Subject<'py> {
    method: Bound<'py, PyAny>,
    /// As the client wrote it; control characters are escaped in reports.
    target: Bound<'py, PyAny>,
    id: u64,
}

impl<'py> Subject<'py> {
    /// Remembers what names the request, before the app may change its environ.
    pub fn new(environ: &Bound<'py, PyDict>, id: u64) -> PyResult<Self> {
        let py = environ.py();
        Ok(Self {
            method: environ.as_any().get_item(intern!(py, "REQUEST_METHOD"))?,
            target: environ.as_any().get_item(intern!(py, "RAW_URI"))?,
            id,
        })
    }

    /// Method and target as they are.
    pub fn plain(&self) -> (String, String) {
        let plain = |text: &Bound<'py, PyAny>| match text.cast::<PyString>() {
            Ok(text) => text.to_string_lossy().into_owned(),
            Err(_) => String::new(),
        };
        (plain(&self.method), plain(&self.target))
    }

    fn text(&self) -> String {
        let plain = |text: &Bound<'_, PyAny>| {
            let text = text.to_string();
            let escaped = text.chars().flat_map(|character| {
                let hidden = character.is_control();
                let escape = hidden.then(|| character.escape_default());
                let shown = (!hidden).then_some(character);
                escape.into_iter().flatten().chain(shown)
            });
            escaped.collect::<String>()
        };
        format!(
            "{} {} (request {:016x})",
            plain(&self.method),
            plain(&self.target),
            self.id
        )
    }

    /// Writes one line.
    pub fn note(&self, py: Python<'_>, errors: &Py<PyAny>, what: &str) {
        write(py, errors, &format!("{}: {what}\n", self.text()));
    }

    /// Writes one line and the exception with its traceback.
    pub fn exception(&self, py: Python<'_>, errors: &Py<PyAny>, what: &str, error: &PyErr) {
        let traceback = formatted(py, error).unwrap_or_else(|_| format!("{error}\n"));
        write(py, errors, &format!("{}: {what}\n{traceback}", self.text()));
    }
}

fn formatted(py: Python<'_>, error: &PyErr) -> PyResult<String> {
    let parts = py.import("traceback")?.call_method1(
        "format_exception",
        (error.get_type(py), error.value(py), error.traceback(py)),
    )?;
    PyString::new(py, "")
        .call_method1("join", (parts,))?
        .extract()
}

fn write(py: Python<'_>, errors: &Py<PyAny>, text: &str) {
    let errors = errors.bind(py);
    let written = errors
        .call_method1("write", (text,))
        .and_then(|_| errors.call_method0("flush"));
    // There is nowhere left to say that the place for errors is broken.
    drop(written);
}
