//! What is done when a request ends: its line in the log, and what its worker did to it.

use std::borrow::Cow;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::logs::Row as LogRow;
use crate::pool::{Fault, Lease, Rest};
use crate::store::Record;

use super::connection::Connection;
use super::forwarded;
use super::h1::head::Framing;
use super::h1::recode::Recode;
use super::h1::response::ResponseContext;
use super::io::Io;
use super::micros_since;
use super::trace::Trace;

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
            recode: Recode::Off,
            body_len,
        }
    }

    /// Called when a response head is whole, which starts at `mark` in `out`. It is remembered when a log
    /// may ask for its fields; a stream takes it away, to send it as fields.
    pub fn note_head(&mut self, mark: usize) {
        if self.access.is_some() {
            self.sent_head.clear();
            self.sent_head.extend_from_slice(&self.out.bytes()[mark..]);
        }
        if let Io::Stream(stream) = &mut self.io {
            self.out.take_head(mark, stream);
        }
    }

    /// Hands the request's row to the access log.
    pub fn log(&mut self) {
        let took = micros_since(self.row.started);
        self.count(took);
        if self.access.is_none() && self.thread.requests.is_none() {
            return;
        }
        let row = &self.row;
        // A request whose sender was never resolved is its peer's.
        let remote = match &row.remote {
            Some(remote) => Cow::Borrowed(&remote[..]),
            None => Cow::Owned(self.peer.address.map_or_else(Vec::new, forwarded::text)),
        };
        if let Some(requests) = &self.thread.requests {
            requests.push(&self.record(&remote, took));
        }
        let Some(access) = &self.access else { return };
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
            protocol: match head.version() {
                _ if self.io.is_stream() => b"HTTP/2.0",
                11 => b"HTTP/1.1",
                _ => b"HTTP/1.0",
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
            trace: row.trace().map(Trace::id),
            request_header: &header,
            response_header: &sent,
            variable: &none,
        };
        super::lock(access).write(&row);
    }

    /// The request's row in the request log.
    fn record<'a>(&'a self, remote: &'a [u8], took: u64) -> Record<'a> {
        let (row, head) = (&self.row, &self.head);
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let meters = self
            .site
            .meters
            .as_ref()
            .filter(|_| !head.method().is_empty());
        Record {
            at: now.map_or(0, |now| now.as_micros() as u64),
            id: row.id,
            status: row.status,
            received: match head.framing() {
                Framing::None => None,
                Framing::Length(_) | Framing::Chunked | Framing::UntilEnd => Some(row.received),
            },
            sent: row.sent,
            queue: row.worker.map(|_| row.queue_us),
            app: (row.app_us > 0).then_some(row.app_us),
            total: took,
            worker: row.worker.map(|pid| u64::from(pid.unsigned_abs())),
            project: meters.map_or(b"", |meters| meters.project.as_bytes()),
            method: head.method(),
            path: head.path(),
            client: remote,
            user: row.user.as_deref().unwrap_or_default().as_bytes(),
            reason: row
                .reason
                .map_or(row.refusal.unwrap_or_default(), |reason| reason.code())
                .as_bytes(),
        }
    }

    fn count(&self, took: u64) {
        let (tally, method) = (&self.thread.tally, self.head.method());
        // A head that was refused belongs nowhere, wherever the one before it went.
        let meters = self.site.meters.as_ref().filter(|_| !method.is_empty());
        match meters {
            Some(meters) => meters.of(self.thread.index).count(method, &self.row, took),
            None => tally.nowhere.count(method, &self.row, took),
        }
        if let Some(reason) = self.row.reason {
            tally.refused(reason.code());
        }
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
