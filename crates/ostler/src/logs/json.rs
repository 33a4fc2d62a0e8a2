//! An access row as one JSON object.
//!
//! Members that are not known are left out; times are microseconds.

use super::access::Row;
use super::clock::Clock;
use super::decimal;
use super::escape;
use super::request_id;

/// Appends the object and a line end.
pub fn row(out: &mut Vec<u8>, row: &Row<'_>, clock: &mut Clock) {
    let (second, micros_of_it) = clock.rfc3339(row.at);
    out.extend_from_slice(b"{\"time\":\"");
    out.extend_from_slice(second.as_bytes());
    out.push(b'.');
    decimal::padded(out, micros_of_it);
    out.extend_from_slice(b"Z\"");
    text(out, "id", request_id(row.id).as_str().as_bytes());
    text(out, "remote", row.remote);
    optional(out, "user", row.user().as_deref());
    text(out, "method", row.method);
    text(out, "scheme", row.scheme.as_bytes());
    text(out, "host", row.host);
    text(out, "target", row.target);
    text(out, "protocol", row.protocol);
    number(out, "status", u64::from(row.status));
    number(out, "bytes", row.sent);
    number(out, "duration_us", decimal::micros(row.took));
    for (name, time) in [
        ("queue_us", row.queue),
        ("app_us", row.app),
        ("write_us", row.write),
    ] {
        if let Some(time) = time {
            number(out, name, decimal::micros(time));
        }
    }
    if let Some(worker) = row.worker {
        number(out, "worker", u64::from(worker));
    }
    optional(out, "trace", row.trace);
    optional(out, "reason", row.reason.map(str::as_bytes));
    optional(out, "referer", (row.request_header)(b"referer"));
    optional(out, "user_agent", (row.request_header)(b"user-agent"));
    out.extend_from_slice(b"}\n");
}

fn text(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    optional(out, name, (!value.is_empty()).then_some(value));
}

fn optional(out: &mut Vec<u8>, name: &str, value: Option<&[u8]>) {
    if let Some(value) = value {
        member(out, name);
        escape::json(out, value);
    }
}

fn number(out: &mut Vec<u8>, name: &str, value: u64) {
    member(out, name);
    decimal::write(out, value);
}

fn member(out: &mut Vec<u8>, name: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}
