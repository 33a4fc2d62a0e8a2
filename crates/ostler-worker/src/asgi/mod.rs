//! ASGI: the frames of a multiplexed channel ↔ tasks of one asyncio loop.
//!
//! `py/asgi.py` owns the loop's life (lifespan, signals, stopping); this folder owns what happens
//! for every request. Reading order: [`channel`] (a readable socket → frames → streams), [`scope`],
//! [`stream`] (the `receive` and `send` of one request), [`event`] (what `receive` gives),
//! [`message`] (what `send` takes), then the two conversations, [`http`] and [`websocket`].
//!
//! Rules the folder keeps: everything runs on the loop's thread; no Rust borrow of a channel or a
//! stream is held while Python code can run; a frame for a stream that is over is not an error,
//! because the other end may have sent it before it knew.

mod awaitable;
mod channel;
mod event;
mod http;
mod message;
mod outflow;
mod scope;
mod socket;
mod stream;
mod timed;
mod websocket;

use pyo3::prelude::*;

/// Adds what `_ostler.asgi` builds on.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<channel::Channel>()
}
