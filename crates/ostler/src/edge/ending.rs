//! What is done when a request ends: its line in the log, and what its worker did to it.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use crate::logs::Row as LogRow;
use crate::pool::{Fault, Lease, Rest};

use super::connection::Connection;
use super::forwarded;
use super::h1::response::ResponseContext;
use super::micros_since;

impl Connection {
    /// What the response encoder must know of the request.
    pub fn response_context(&self, body_len: Option<u64>) -> ResponseContext {
        ResponseContext {
            request_version: self.head.version(),
            method_is_head: self.head.method() == b"HEAD",
            keep_alive: self.keeps_alive(),
            date: self.thread.date(),
            lines: self.secure_lines(),
            drops: self.site.policy.fields.drops.clone(),
            body_len,
        }
    }

    /// Remembers the response head that starts at `mark` in `out`, when a log may ask for its fields.
    pub fn note_head(&mut self, mark: usize) {
        if self.access.is_some() {
            self.sent_head.clear();
            self.sent_head.extend_from_slice(&self.out.bytes()[mark..]);
        }
    }

    /// Hands the request's row to the access log.
    pub fn log(&mut self) {
        let Some(access) = &self.access else { return };
        let row = &self.row;
        let took = micros_since(row.started);
        // A request whose sender was never resolved is its peer's.
        let remote = match &row.remote {
            Some(remote) => Cow::Borrowed(&remote[..]),
            None => Cow::Owned(self.peer.address.map_or_else(Vec::new, forwarded::text)),
        };
        let head = &self.head;
        let header = |name: &[u8]| head.field(name);
        let micros = |us: u64| (us > 0).then(|| Duration::from_micros(us));
        let none = |_: &[u8]| None;
        let sent = |name: &[u8]| field_of(&self.sent_head, name);
        let row = LogRow {
            at: SystemTime::now(),
            remote: &remote,
            user: row.user.as_deref().map(str::as_bytes),
            method: head.method(),
            target: head.target(),
            path: head.path(),
            query: head.query(),
            protocol: if head.version() < 11 {
                b"HTTP/1.0"
            } else {
                b"HTTP/1.1"
            },
            scheme: if self.https { "https" } else { "http" },
            host: head.host(),
            status: row.status,
            sent: row.sent,
            took: Duration::from_micros(took),
            queue: row.worker.map(|_| Duration::from_micros(row.queue_us)),
            app: micros(row.app_us),
            write: micros(took.saturating_sub(row.queue_us + row.app_us))
                .filter(|_| row.app_us > 0),
            worker: row.worker.and_then(|pid| u32::try_from(pid).ok()),
            id: row.id,
            reason: row.reason.map(|reason| reason.code()).or(row.refusal),
            request_header: &header,
            response_header: &sent,
            variable: &none,
        };
        super::lock(access).write(&row);
    }

    /// Says in the log how a worker was lost under this request; true when it crashed on a signal.
    pub async fn mourn(&self, lease: &Lease, fault: &Fault) -> bool {
        let worker = lease.worker();
        let exit = worker.exit().await;
        let how = exit.map_or_else(|| fault.to_string(), |exit| exit.to_string());
        tracing::error!(
            pid = worker.pid,
            method = %String::from_utf8_lossy(self.head.method()),
            path = %String::from_utf8_lossy(self.head.path()),
            request = %crate::logs::request_id(self.row.id),
            "the worker was lost while it served a request: {how}"
        );
        exit.is_some_and(|exit| exit.is_crash())
    }

    /// Names the request that took too long; the stacks of its worker follow in the error log.
    pub fn log_timeout(&self, lease: &Lease, limit: Duration) {
        tracing::error!(
            pid = lease.worker().pid,
            method = %String::from_utf8_lossy(self.head.method()),
            path = %String::from_utf8_lossy(self.head.path()),
            request = %crate::logs::request_id(self.row.id),
            "no response within {} s (--timeout)",
            limit.as_secs()
        );
    }

    /// Gives a slot back, now or when its worker has finished a response that nobody reads.
    pub fn release(&self, lease: Lease, rest: Rest) {
        if rest.is_nothing() {
            return lease.give_back();
        }
        let limit = lease.unwanted();
        let overdue = self.row.app_us == 0;
        tokio::spawn(lease.wait_out(rest, limit, overdue));
    }
}

/// The value of a field in the lines of a head we wrote; `name` in lower case.
fn field_of<'h>(head: &'h [u8], name: &[u8]) -> Option<&'h [u8]> {
    head.split(|&byte| byte == b'\n').skip(1).find_map(|line| {
        let colon = memchr::memchr(b':', line)?;
        line[..colon]
            .eq_ignore_ascii_case(name)
            .then(|| line[colon + 1..].trim_ascii())
    })
}
