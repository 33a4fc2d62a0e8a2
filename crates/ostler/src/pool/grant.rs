//! What a request gets out of the line: a slot of its own, or a stream beside others. The frames go
//! the same way through both.

use std::future::poll_fn;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::channel::Stream;
use super::slot::{Fault, Frame, Slot};
use super::worker::Worker;

/// A slot or a stream, as it comes out of the line.
pub enum Grant {
    Slot(Slot),
    Stream(Stream),
}

impl Grant {
    pub(super) fn worker(&self) -> &Arc<Worker> {
        match self {
            Self::Slot(slot) => &slot.worker,
            Self::Stream(stream) => stream.worker(),
        }
    }

    /// The worker has said its last word of the exchange. A slot's words are counted by its reader.
    pub fn is_ended(&self) -> bool {
        match self {
            Self::Slot(_) => false,
            Self::Stream(stream) => stream.is_ended(),
        }
    }

    /// The stream id that frames of this exchange carry; on a slot the request's ticket.
    pub fn stream_id(&self) -> u32 {
        match self {
            Self::Slot(slot) => slot.ticket(),
            Self::Stream(stream) => stream.id(),
        }
    }

    /// The worker has the request already: it took it from the backlog.
    pub fn is_begun(&self) -> bool {
        matches!(self, Self::Slot(slot) if slot.ticket() != 0)
    }

    /// Sends the first bytes of `frames`, `passed` with them; returns how many went. Frames with
    /// body bytes go by [`Grant::poll_credit`] first.
    pub fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        frames: &[u8],
        passed: Option<BorrowedFd<'_>>,
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Slot(slot) => slot.poll_send(cx, frames, passed),
            Self::Stream(stream) => Poll::Ready(stream.send(frames, passed).map(|()| frames.len())),
        }
    }

    /// How many of `wanted` body bytes may be sent now. A slot's own socket holds its sender back.
    pub fn poll_credit(&self, cx: &mut Context<'_>, wanted: usize) -> Poll<Result<usize, Fault>> {
        match self {
            Self::Slot(_) => Poll::Ready(Ok(wanted)),
            Self::Stream(stream) => stream.poll_credit(cx, wanted),
        }
    }

    /// Ready when the worker's next frame is there.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        match self {
            Self::Slot(slot) => slot.poll_frame(cx),
            Self::Stream(stream) => stream.poll_frame(cx),
        }
    }

    /// The frame that [`Grant::poll_frame`] announced.
    pub fn take(&mut self) -> Result<Frame<'_>, Fault> {
        match self {
            Self::Slot(slot) => slot.take(),
            Self::Stream(stream) => stream.take(),
        }
    }

    /// Sends all of `frames`.
    pub async fn send(
        &mut self,
        frames: &[u8],
        mut passed: Option<BorrowedFd<'_>>,
    ) -> io::Result<()> {
        let mut sent = 0;
        while sent < frames.len() {
            sent += poll_fn(|cx| self.poll_send(cx, &frames[sent..], passed)).await?;
            passed = None;
        }
        Ok(())
    }
}
