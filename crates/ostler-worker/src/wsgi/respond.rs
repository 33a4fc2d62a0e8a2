//! What an app returned, on its way into frames.
//!
//! A list of `bytes` becomes one frame. Everything else is iterated: each piece leaves at once, and
//! the end of the response is told only after `close()`, because the server gives the slot its next
//! request from then on.

use std::os::fd::{AsFd, OwnedFd};

use ostler_wire::FileHead;
use pyo3::exceptions::PyAttributeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyTuple};

use super::exchange::{Exchange, Stage};
use super::file::FileWrapper;
use super::start_response::not_bytes;

/// Sends all of `result` and closes it, whatever happens in between.
pub fn respond(exchange: &Exchange, result: &Bound<'_, PyAny>) -> PyResult<Outcome> {
    let py = result.py();
    if exchange.stage(py)? == Stage::Hijacked {
        close(result)?;
        return Ok(Outcome::Complete);
    }
    if let Some(outcome) = respond_list(exchange, result)? {
        return Ok(outcome);
    }
    if let Ok(wrapper) = result.cast_exact::<FileWrapper>()
        && let Some(file) = whole_file(exchange, wrapper)?
    {
        return respond_file(exchange, result, file);
    }
    let sent = respond_iterable(exchange, result);
    let closed = close(result);
    sent?;
    if closed.is_err() {
        // It may end the worker.
        exchange.takes_nothing(py)?;
    }
    // The body is whole: what `close` raises is for the log, not for the client.
    let outcome = end(exchange, py)?;
    closed.map(|()| outcome)
}

/// How the body compares to what the head promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Complete,
    /// Fewer bytes than Content-Length: the caller aborts.
    Short,
}

/// Sends a list or tuple of `bytes`; `None` when `result` is neither.
fn respond_list(exchange: &Exchange, result: &Bound<'_, PyAny>) -> PyResult<Option<Outcome>> {
    let py = result.py();
    let pieces: Vec<Bound<'_, PyAny>>;
    if let Ok(list) = result.cast_exact::<PyList>() {
        if list.len() == 1 {
            return respond_single(exchange, &list.get_item(0)?).map(Some);
        }
        pieces = list.iter().collect();
    } else if let Ok(tuple) = result.cast_exact::<PyTuple>() {
        if tuple.len() == 1 {
            return respond_single(exchange, &tuple.get_item(0)?).map(Some);
        }
        pieces = tuple.iter().collect();
    } else {
        return Ok(None);
    }
    let mut slices = Vec::with_capacity(pieces.len());
    for piece in &pieces {
        slices.push(body_bytes(piece)?.as_bytes());
    }
    let total = slices.iter().map(|slice| slice.len()).sum();
    if exchange.fits_one_frame(py, total)? {
        exchange.send_whole(py, &slices)?;
        return Ok(Some(Outcome::Complete));
    }
    for slice in slices {
        exchange.send_body(py, slice, false)?;
        exchange.check_cancelled(py)?;
    }
    end(exchange, py).map(Some)
}

/// The body of most responses: one `bytes`, sent with its head in one call and not copied.
fn respond_single(exchange: &Exchange, piece: &Bound<'_, PyAny>) -> PyResult<Outcome> {
    let py = piece.py();
    let data = body_bytes(piece)?.as_bytes();
    let whole = exchange.fits_length(py, data.len())?;
    exchange.send_body(py, data, whole)?;
    if whole {
        return Ok(Outcome::Complete);
    }
    end(exchange, py)
}

/// A regular file that is the whole body; `None` when it must be iterated instead.
fn whole_file(
    exchange: &Exchange,
    wrapper: &Bound<'_, FileWrapper>,
) -> PyResult<Option<(OwnedFd, FileHead)>> {
    let py = wrapper.py();
    let Some(length) = exchange.room_for_file(py)? else {
        return Ok(None);
    };
    let Some((file, mut part)) = wrapper.get().regular_file(py) else {
        return Ok(None);
    };
    match length {
        // Less than promised is for the iteration to find out and to abort.
        Some(length) if length > part.len => return Ok(None),
        Some(length) => part.len = length,
        None => {}
    }
    Ok((part.len > 0).then_some((file, part)))
}

/// Hands a file to the edge, which needs neither the app nor this thread to send it. So the app's
/// own file is closed first: with the frame that follows, the response is over.
fn respond_file(
    exchange: &Exchange,
    result: &Bound<'_, PyAny>,
    (file, part): (OwnedFd, FileHead),
) -> PyResult<Outcome> {
    let py = result.py();
    let flushed = exchange.flush_head(py);
    let closed = close(result);
    flushed?;
    exchange.send_file(py, file.as_fd(), part)?;
    closed.map(|()| Outcome::Complete)
}

fn respond_iterable(exchange: &Exchange, result: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = result.py();
    for item in result.try_iter()? {
        let item = item?;
        let data = body_bytes(&item)?.as_bytes();
        if exchange.send_iterated(py, data)? {
            return Ok(());
        }
        exchange.check_cancelled(py)?;
    }
    exchange.flush_head(py)
}

/// Ends a response all of whose pieces were sent.
fn end(exchange: &Exchange, py: Python<'_>) -> PyResult<Outcome> {
    if exchange.is_short(py)? {
        exchange.flush_head(py)?;
        return Ok(Outcome::Short);
    }
    exchange.send_body(py, b"", true)?;
    Ok(Outcome::Complete)
}

fn body_bytes<'a, 'py>(item: &'a Bound<'py, PyAny>) -> PyResult<&'a Bound<'py, PyBytes>> {
    item.cast::<PyBytes>().map_err(|_| not_bytes(item))
}

/// Calls the `close` that an iterable may have.
pub fn close(result: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = result.py();
    match result.getattr(intern!(py, "close")) {
        Ok(close) => close.call0().map(drop),
        Err(error) if error.is_instance_of::<PyAttributeError>(py) => Ok(()),
        Err(error) => Err(error),
    }
}
