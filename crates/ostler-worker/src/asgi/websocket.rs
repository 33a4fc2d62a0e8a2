//! The WebSocket conversation of one stream: handshake, messages, close; or a denial response.
//!
//! The server speaks RFC 6455 to the client. Here a message is whole, however many frames it took.

use std::collections::VecDeque;
use std::mem;

use ostler_wire::{CloseFrame, END, Kind, Opcode, ResponseEncoder, WireError};
use pyo3::prelude::*;

use super::event::Event;
use super::http::{Misplaced, Response};
use super::message::Message;
use super::outflow::{Consumed, Form, Outflow};
use super::socket::Outbox;

/// No status code was in the close frame (RFC 6455 section 7.1.5).
const NO_STATUS: u16 = 1005;
/// The connection broke without a close frame.
const ABNORMAL: u16 = 1006;
/// The server's own error.
const INTERNAL_ERROR: u16 = 1011;

/// How far the conversation is.
enum Phase {
    /// `websocket.connect` is to be given to the app, or was.
    Connecting { told: bool },
    /// The app denies the handshake with a response of its own.
    Denying(Response),
    /// Messages flow.
    Open,
    /// The app sent its close, or its denial is complete.
    Ended { code: u16, reason: String },
}

/// One WebSocket.
pub struct WebSocket {
    phase: Phase,
    arrived: VecDeque<Arrived>,
    /// The pieces of a message whose last one has not come.
    partial: Vec<u8>,
    /// What these have cost and was not given back, because a message before them waits for the app.
    held: usize,
    consumed: Consumed,
    /// The client's close, once it came.
    closed: Option<(u16, String)>,
    /// The stream's last frame has been sent.
    is_over: bool,
}

/// A whole message.
struct Arrived {
    opcode: Opcode,
    data: Vec<u8>,
    /// Payload bytes that are given back when the app takes it; the others were when they came.
    cost: usize,
}

impl WebSocket {
    pub fn new() -> Self {
        Self {
            phase: Phase::Connecting { told: false },
            arrived: VecDeque::new(),
            partial: Vec::new(),
            held: 0,
            consumed: Consumed::default(),
            closed: None,
            is_over: false,
        }
    }

    /// Takes a `WsMessage` payload. Gives the credit that goes back at once: for a piece of the next message that the
    /// app can take, which it cannot before the rest has come. What comes behind a message that waits is held to the
    /// credit, so an app that takes none holds one message and no more.
    pub fn push(&mut self, payload: &[u8], end: bool) -> Result<u32, WireError> {
        let (opcode, piece) = Opcode::decode(payload)?;
        self.partial.extend_from_slice(piece);
        self.held += payload.len();
        if !end {
            return Ok(self.give_back_held());
        }
        let data = mem::take(&mut self.partial);
        let cost = mem::take(&mut self.held);
        self.arrived.push_back(Arrived { opcode, data, cost });
        Ok(0)
    }

    /// The credit for pieces, unless a message before them waits.
    fn give_back_held(&mut self) -> u32 {
        match self.arrived.is_empty() {
            true => self.consumed.add(mem::take(&mut self.held)),
            false => 0,
        }
    }

    /// The client closed, or (with `None`) the connection broke.
    pub fn closed_by_client(&mut self, close: Option<CloseFrame<'_>>) {
        if self.closed.is_none() {
            self.closed = Some(match close {
                Some(close) => (
                    if close.code == 0 {
                        NO_STATUS
                    } else {
                        close.code
                    },
                    String::from_utf8_lossy(close.reason).into_owned(),
                ),
                None => (ABNORMAL, String::new()),
            });
        }
    }

    /// The next event and the credit to give back for it; `None` when the app must wait.
    pub fn next(&mut self) -> Option<(Event, u32)> {
        if let Phase::Connecting { told: told @ false } = &mut self.phase {
            *told = true;
            return Some((Event::Connect, 0));
        }
        if let Phase::Ended { code, reason } = &self.phase {
            let (code, reason) = (*code, reason.clone());
            return Some((Event::Closed { code, reason }, 0));
        }
        // What the client sent before its close comes before its close.
        if let (Phase::Open, Some(message)) = (&self.phase, self.arrived.pop_front()) {
            let Arrived { opcode, data, cost } = message;
            let credit = self.consumed.add(cost) + self.give_back_held();
            return Some((Event::Message { opcode, data }, credit));
        }
        let (code, reason) = self.closed.clone()?;
        Some((Event::Closed { code, reason }, 0))
    }

    /// Takes the app's next message.
    pub fn send(
        &mut self,
        py: Python<'_>,
        message: Message,
        id: u32,
        flow: &mut Outflow,
        out: &mut Outbox,
    ) -> Result<(), Misplaced> {
        let name = message.name();
        match (&mut self.phase, message) {
            (Phase::Connecting { .. }, Message::Accept(frame)) => {
                out.bytes().extend_from_slice(&frame);
                self.phase = Phase::Open;
            }
            (Phase::Connecting { .. }, Message::Close { code, reason }) => {
                // The specification's answer to a close before the accept.
                ResponseEncoder::new(out.bytes(), Kind::RespHead, END, id, 403, b"").finish(0);
                self.is_over = true;
                self.phase = Phase::Ended { code, reason };
            }
            (Phase::Connecting { .. }, start @ Message::Start { denial: true, .. }) => {
                let mut response = Response::denial();
                response.send(py, start, id, flow, out)?;
                self.phase = Phase::Denying(response);
            }
            (Phase::Denying(response), body @ Message::Body { denial: true, .. }) => {
                response.send(py, body, id, flow, out)?;
                if response.is_complete() {
                    self.is_over = true;
                    self.phase = Phase::Ended {
                        code: ABNORMAL,
                        reason: String::new(),
                    };
                }
            }
            (Phase::Open, Message::Send { opcode, data }) => {
                flow.bytes(py, &data, 0, Form::Message(opcode), id, out.bytes());
            }
            (Phase::Open, Message::Close { code, reason }) => {
                self.close(code, reason, id, flow, out);
            }
            (phase, _) => return Err(Misplaced(misplaced(phase, name))),
        }
        Ok(())
    }

    fn close(&mut self, code: u16, reason: String, id: u32, flow: &mut Outflow, out: &mut Outbox) {
        let close = CloseFrame {
            code,
            reason: reason.as_bytes(),
        };
        flow.frame(out.bytes(), |out| close.encode(out, id));
        self.is_over = true;
        self.phase = Phase::Ended { code, reason };
    }

    /// The app has said its last word.
    pub fn is_ended(&self) -> bool {
        matches!(self.phase, Phase::Ended { .. })
    }

    /// The app never answered the handshake.
    pub fn is_unanswered(&self) -> bool {
        matches!(self.phase, Phase::Connecting { .. })
    }

    /// The app is done: completes what it left open. A WebSocket that it did not close is closed
    /// for it, with 1011 when it `failed`.
    pub fn abandon(&mut self, failed: bool, id: u32, flow: &mut Outflow, out: &mut Outbox) {
        if mem::replace(&mut self.is_over, true) {
            return;
        }
        match &mut self.phase {
            Phase::Connecting { .. } => match self.closed {
                Some(_) => Response::denial().cancel(id, out),
                None => Response::denial().abandon(id, flow, out),
            },
            Phase::Denying(response) => match self.closed {
                Some(_) => response.cancel(id, out),
                None => response.abandon(id, flow, out),
            },
            Phase::Open | Phase::Ended { .. } => {
                let code = match (&self.closed, failed) {
                    (Some((code, _)), _) => *code,
                    (None, true) => INTERNAL_ERROR,
                    (None, false) => 1000,
                };
                if self.closed.is_some() {
                    flow.clear();
                }
                self.close(code, String::new(), id, flow, out);
            }
        }
    }
}

fn misplaced(phase: &Phase, name: &str) -> String {
    let wanted = match phase {
        Phase::Connecting { .. } => {
            "'websocket.accept', 'websocket.close' or 'websocket.http.response.start'"
        }
        Phase::Denying(_) => "'websocket.http.response.body'",
        Phase::Open => "'websocket.send' or 'websocket.close'",
        Phase::Ended { .. } => {
            return format!(
                "Unexpected ASGI message {name:?}, after sending 'websocket.close' or response already completed."
            );
        }
    };
    format!("Expected ASGI message {wanted}, but got {name:?}.")
}
