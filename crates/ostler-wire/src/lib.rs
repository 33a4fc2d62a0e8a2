//! Frames between the ostler server and its Python workers: pure bytes in, bytes out.
//!
//! This crate knows nothing of sockets, processes, Python or HTTP semantics. Both ends link it, so
//! a layout exists once. Each end treats the other as hostile: every decoder checks every length
//! and never panics, allocates no more than its input is long, and names what was wrong.
//!
//! A frame is a 12-byte head ([`FrameHead`]) and a payload. All integers are little-endian. On a
//! WSGI slot (one request in flight) the stream id is 0; on an ASGI channel it names the request.

#![forbid(unsafe_code)]

mod cursor;
mod frame;
mod names;
mod request;
mod response;
mod websocket;

pub use cursor::WireError;
pub use frame::{
    BACKLOG_FRAME, END, FD, FrameHead, HEAD_LEN, Kind, MAX_PAYLOAD, begin, finish, frame,
    set_stream,
};
pub use names::{NAMES, name, name_id};
pub use request::{BodyKind, Field, RequestEncoder, RequestHead};
pub use response::{FileHead, ResponseEncoder, ResponseHead};
pub use websocket::{CloseFrame, Opcode};

/// The version both ends state in their first control message. A mismatch ends the worker before
/// it sees a request: server and worker come from one binary, so it means an upgrade went wrong.
pub const VERSION: u32 = 2;
