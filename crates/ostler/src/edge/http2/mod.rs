//! HTTP/2 (RFC 9113): a connection that carries up to a hundred exchanges at once.
//!
//! A stream is a [`super::connection::Connection`] whose `Io` is a [`Stream`]: the request line and
//! all its parts serve both protocols. What is different lies here, in call order: [`session`] (one
//! connection: accepting streams, its clocks, its end), [`wire`] (its bytes: counted, and judged by
//! [`meter`] with [`block`] and [`opened`]), [`head`] (fields → the head that everybody reads),
//! [`stream`] (one stream's bytes, with the peer's flow control) and [`exchange`] (what an exchange
//! does otherwise on a stream).
//!
//! Frames, HPACK, flow control and the states of streams are the `h2` crate's.

mod block;
mod exchange;
mod fields;
mod head;
mod meter;
mod opened;
mod session;
mod stream;
mod wire;

pub use session::serve;
pub use stream::{FRAME, Stream};
