//! RFC 6455 toward the client, for WebSockets of ASGI apps: the handshake's checks, and a session on
//! a stream that has been upgraded.
//!
//! Knows bytes of a client and whole messages; knows nothing of HTTP connections, routes or workers.
//! Everything but [`session`] is free of I/O. Reading order: [`handshake`], [`frame`] (bytes →
//! checked frame heads), [`reader`] (frames → messages), [`data`] (what these cost), [`deflate`] (RFC 7692), [`session`].
//!
//! The framing is our own because no library at hand is strict: `yawc` 0.5 takes RSV1 on control and
//! continuation frames and control frames of more than 125 bytes, closes an unknown opcode with 1003
//! and bad compressed data with 1011, and hides the RSV1 bit from code that would repair this.

mod data;
mod deflate;
mod frame;
mod handshake;
mod reader;
mod session;
#[cfg(test)]
mod tests;

pub use data::Data;
pub use frame::Violation;
pub use handshake::{Handshake, Refusal, accept_key, handshake, is_switch};
pub use session::{By, Closed, Outgoing, Session};

use std::time::Duration;

/// The limits and clocks of a session.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Payload bytes of one frame. 16 MiB.
    pub max_frame: usize,
    /// Bytes of a whole message, after decompression. 64 MiB.
    pub max_message: usize,
    /// Silence after which the client is asked whether it is there; `None` never asks. 20 s.
    pub ping_interval: Option<Duration>,
    /// How long it may then stay silent before the connection counts as broken. 20 s.
    pub pong_timeout: Duration,
    /// How long a closing handshake may take. 5 s, so that a drain is not held up by clients that
    /// never answer.
    pub close_timeout: Duration,
    /// Whether permessage-deflate is agreed to when a client offers it.
    pub compression: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_frame: 16 << 20,
            max_message: 64 << 20,
            ping_interval: Some(Duration::from_secs(20)),
            pong_timeout: Duration::from_secs(20),
            close_timeout: Duration::from_secs(5),
            compression: true,
        }
    }
}

/// What a client sends, as an app sees it.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// A text message; its bytes are UTF-8.
    Text(Data),
    Binary(Data),
    /// The last event: the client closed (1005 when it gave no code), broke the protocol (the code
    /// that it was told) or went away (1006).
    Closed {
        code: u16,
        reason: String,
    },
}
