//! What is remembered of a request until its line in the log. Every request gives one when it ends;
//! one that the server's own end cuts off gives none.

use std::sync::Arc;
use std::time::Instant;

use super::micros_since;
use super::reason::Reason;
use super::trace::Trace;
use crate::auth::jwt::Bearer;

/// One request so far.
#[derive(Debug)]
pub struct Row {
    /// Unique; shown in error pages and logs.
    pub id: u64,
    /// When its head was complete.
    pub started: Instant,
    /// Its client's address, when there is a log to write it to.
    pub remote: Option<Box<[u8]>>,
    /// Who sent it, where somebody has to prove that.
    pub user: Option<Arc<str>>,
    /// The token it came with.
    pub bearer: Option<Arc<Bearer>>,
    /// What its app is told that the client did not say. Boxed: each idle connection has a row.
    pub told: Option<Box<Told>>,
    /// Lines with their CRLF that its response has because of what it is.
    pub lines: Vec<u8>,
    /// Status sent; 0 while none was.
    pub status: u16,
    /// Bytes of its body that were read, whatever its head announces.
    pub received: u64,
    /// Body bytes sent.
    pub sent: u64,
    /// Microseconds in line.
    pub queue_us: u64,
    /// When a worker was asked; the last one, when it was more than one.
    pub dispatched: Instant,
    /// Microseconds from dispatch to the response head, at least 1; 0 while there is none.
    pub app_us: u64,
    /// Process id of the worker that served it.
    pub worker: Option<i32>,
    /// Why ostler answered or ended it itself.
    pub reason: Option<Reason>,
    /// Why no file was sent.
    pub refusal: Option<&'static str>,
}

/// Fields for an app or upstream that few requests have.
#[derive(Debug, Default)]
pub struct Told {
    /// From who let it in: names in lower case, and values.
    pub granted: Vec<(Arc<str>, Vec<u8>)>,
    /// The trace that it belongs to.
    pub trace: Option<Trace>,
}

impl Row {
    pub fn trace(&self) -> Option<&Trace> {
        self.told.as_ref()?.trace.as_ref()
    }
}

impl Default for Row {
    fn default() -> Self {
        let now = Instant::now();
        Self {
            id: 0,
            started: now,
            remote: None,
            user: None,
            bearer: None,
            told: None,
            lines: Vec::new(),
            status: 0,
            received: 0,
            sent: 0,
            queue_us: 0,
            dispatched: now,
            app_us: 0,
            worker: None,
            reason: None,
            refusal: None,
        }
    }
}

impl Row {
    /// A worker is free after a wait in line that began at `asked`.
    pub fn line_ended(&mut self, asked: Instant, worker: i32) {
        self.dispatched = Instant::now();
        self.queue_us += (self.dispatched - asked).as_micros() as u64;
        self.worker = Some(worker);
    }

    /// An upstream is chosen after a wait that began at `asked`.
    pub fn upstream_found(&mut self, asked: Instant) {
        self.dispatched = Instant::now();
        self.queue_us += (self.dispatched - asked).as_micros() as u64;
    }

    /// The app's response head came.
    pub fn head_came(&mut self) {
        // A worker that took the request by itself may have answered before we heard of that.
        self.app_us = micros_since(self.dispatched).max(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn head_that_came_at_once_has_come() {
        let mut row = Row::default();
        row.line_ended(Instant::now(), 1);
        row.dispatched += std::time::Duration::from_secs(1);
        row.head_came();
        assert_eq!(row.app_us, 1);
    }
}
