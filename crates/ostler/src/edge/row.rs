//! What is remembered of a request until its line in the log. Every request gives one when it ends;
//! one that the server's own end cuts off gives none.

use std::time::Instant;

use super::micros_since;
use super::reason::Reason;

/// One request so far.
#[derive(Debug)]
pub struct Row {
    /// Unique; shown in error pages and logs.
    pub id: u64,
    /// When its head was complete.
    pub started: Instant,
    /// Status sent; 0 while none was.
    pub status: u16,
    /// Body bytes sent.
    pub sent: u64,
    /// Microseconds in line.
    pub queue_us: u64,
    /// Microseconds from dispatch to the response head.
    pub app_us: u64,
    /// Process id of the worker that served it.
    pub worker: Option<i32>,
    /// Why ostler answered or ended it itself.
    pub reason: Option<Reason>,
    /// Why no file was sent.
    pub refusal: Option<&'static str>,
}

impl Default for Row {
    fn default() -> Self {
        Self {
            id: 0,
            started: Instant::now(),
            status: 0,
            sent: 0,
            queue_us: 0,
            app_us: 0,
            worker: None,
            reason: None,
            refusal: None,
        }
    }
}

impl Row {
    /// The app's response head came; `dispatched` is when it was asked.
    pub fn head_came(&mut self, dispatched: Instant) {
        self.app_us = micros_since(dispatched);
    }
}
