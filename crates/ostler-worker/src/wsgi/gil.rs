//! State shared between Python objects of one slot: a `RefCell` whose flag the GIL guards, and the
//! few calls of the C API that PyO3 has no safe name for.
//!
//! Knows nothing of WSGI or of frames.

use std::cell::{RefCell, RefMut};
use std::ffi::c_char;

use pyo3::exceptions::PyRuntimeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyString;

/// A value that only a thread that holds the GIL may look at.
///
/// A borrow may be held while the GIL is released: another thread that comes meanwhile gets an
/// exception instead of a data race, and never waits (a lock could deadlock against the GIL).
pub struct GilCell<T>(RefCell<T>);

// SAFETY: the only way to the `RefCell` is `borrow`, which asks for a `Python` token. One
// interpreter with one GIL is what an abi3 extension runs under, so the borrow flag is never
// touched by two threads at once; the guard is not `Send` and cannot move into `Python::detach`.
unsafe impl<T: Send> Sync for GilCell<T> {}

impl<T> GilCell<T> {
    pub fn new(value: T) -> Self {
        Self(RefCell::new(value))
    }

    /// The value, or `RuntimeError` when another thread (or a caller further up) is using it.
    pub fn borrow<'a>(&'a self, _py: Python<'a>) -> PyResult<RefMut<'a, T>> {
        self.0
            .try_borrow_mut()
            .map_err(|_| PyRuntimeError::new_err("this request is in use by another thread"))
    }
}

/// The string whose code points are `bytes` (PEP 3333's "bytes as str").
pub fn latin1<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyString>> {
    // SAFETY: pointer and length describe a live slice; the result is a new reference to a `str`
    // or NULL with an exception set.
    unsafe {
        let text = ffi::PyUnicode_DecodeLatin1(
            bytes.as_ptr().cast::<c_char>(),
            bytes.len() as ffi::Py_ssize_t,
            std::ptr::null(),
        );
        Ok(Bound::from_owned_ptr_or_err(py, text)?.cast_into_unchecked())
    }
}

/// Is `object` referenced by nobody but the `owned` references that the caller knows of?
pub fn referenced_only_by(object: &Bound<'_, PyAny>, owned: u32) -> bool {
    // SAFETY: a live object's count may be read while the GIL is held. CPython 3.14 keeps flags in
    // the upper half of the field; the count is in the lower 32 bits in every version.
    let count = unsafe { ffi::Py_REFCNT(object.as_ptr()) } as u32;
    count == owned
}
