//! `wsgi.file_wrapper`: an iterable over a file, and whether the edge may send that file itself.
//!
//! Only files whose bytes are certainly what reading them gives qualify: a plain `io` file object
//! (or the two well-known wrappers around one). A `GzipFile` has a `fileno()` as well, of the
//! compressed file.

use std::os::fd::{OwnedFd, RawFd};

use ostler_wire::FileHead;
use pyo3::exceptions::PyAttributeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;

use super::sys;

/// The class an app finds under `wsgi.file_wrapper`.
#[pyclass(frozen, subclass, module = "_ostler")]
pub struct FileWrapper {
    #[pyo3(get)]
    filelike: Py<PyAny>,
    /// Bytes to read at a time.
    #[pyo3(get)]
    blksize: isize,
}

#[pymethods]
impl FileWrapper {
    #[new]
    #[pyo3(signature = (filelike, blksize=8192))]
    fn new(filelike: Py<PyAny>, blksize: isize) -> Self {
        Self { filelike, blksize }
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let data = self
            .filelike
            .bind(py)
            .call_method1(intern!(py, "read"), (self.blksize,))?;
        Ok(data.is_truthy()?.then_some(data))
    }

    fn close(&self, py: Python<'_>) -> PyResult<()> {
        match self.filelike.bind(py).getattr(intern!(py, "close")) {
            Ok(close) => close.call0().map(drop),
            Err(error) if error.is_instance_of::<PyAttributeError>(py) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.filelike)
    }
}

impl FileWrapper {
    /// A descriptor of the wrapped regular file, and the part of it from the current position on;
    /// `None` when it must be read through Python.
    pub fn regular_file(&self, py: Python<'_>) -> Option<(OwnedFd, FileHead)> {
        let found = self.find_regular_file(py);
        // Whatever a file-like raises here it may raise again when it is read.
        found.ok().flatten()
    }

    fn find_regular_file(&self, py: Python<'_>) -> PyResult<Option<(OwnedFd, FileHead)>> {
        let Some(file) = plain_file(self.filelike.bind(py))? else {
            return Ok(None);
        };
        let fd: RawFd = file.call_method0(intern!(py, "fileno"))?.extract()?;
        let Some(size) = sys::regular_file_size(fd) else {
            return Ok(None);
        };
        // `tell` and not the descriptor's position: a buffered reader has read ahead.
        let offset: u64 = file.call_method0(intern!(py, "tell"))?.extract()?;
        let part = FileHead {
            offset,
            len: size.saturating_sub(offset),
        };
        Ok(Some((sys::duplicate(fd)?, part)))
    }
}

/// The `io` file object behind `filelike` when reading the one is reading the other.
fn plain_file<'py>(filelike: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
    let py = filelike.py();
    let file = match type_name(filelike)?.as_str() {
        "tempfile._TemporaryFileWrapper" | "django.core.files.base.File" => {
            filelike.getattr(intern!(py, "file"))?
        }
        _ => filelike.clone(),
    };
    Ok(match type_name(&file)?.as_str() {
        "_io.FileIO" => Some(file),
        "_io.BufferedReader" | "_io.BufferedRandom" => {
            let raw = file.getattr(intern!(py, "raw"))?;
            (type_name(&raw)? == "_io.FileIO").then_some(file)
        }
        _ => None,
    })
}

fn type_name(object: &Bound<'_, PyAny>) -> PyResult<String> {
    Ok(object.get_type().fully_qualified_name()?.to_string())
}
