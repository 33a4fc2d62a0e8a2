//! The calls of a worker and how long they took, as lines that wait to be written.
//!
//! Nothing here touches a disk: `py/timing.py` has a thread that takes the lines and writes them.

use std::collections::HashSet;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

use crate::wsgi::GilCell;

/// So many bytes have the writer come before its second is over: some thousand calls.
const WRITE_AT: usize = 64 * 1024;

/// Bytes that wait while a disk is slow or full; what comes then is lost and counted. A second of
/// 15,000 requests.
const MOST: usize = 1024 * 1024;

/// Longest name, in characters: a route and its method are far shorter.
const LONGEST_NAME: usize = 160;

/// Longest status: the name of an exception.
const LONGEST_STATUS: usize = 64;

/// Different paths of requests whose route is not known; those beyond are one name. Who asks for
/// `/a`, `/b`, `/c`... makes no list of endless length.
const MOST_PATHS: usize = 500;

/// A longer segment of a path is no name but a value.
const LONGEST_SEGMENT: usize = 40;

/// What is written of a segment that is a value.
const VALUE: &str = "{}";

/// When a call began.
pub struct Begun {
    /// µs since the epoch.
    at: u64,
    clock: Instant,
}

impl Begun {
    pub fn now() -> Self {
        let at = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            at: at.map_or(0, |at| at.as_micros() as u64),
            clock: Instant::now(),
        }
    }

    /// It is over.
    pub fn took(&self) -> Times {
        Times {
            start: self.at,
            duration: self.clock.elapsed().as_micros() as u64,
        }
    }
}

/// When a call was, in µs (the start: since the epoch).
#[derive(Clone, Copy)]
pub struct Times {
    start: u64,
    duration: u64,
}

/// A request, and how it was answered.
pub struct Asked<'a> {
    pub method: &'a str,
    /// Of its route, when that is known.
    pub template: Option<&'a str>,
    /// With or without its query.
    pub path: &'a str,
    pub status: u16,
}

/// Takes calls from every thread of a worker.
#[pyclass(frozen, module = "_ostler")]
pub struct Timings {
    state: GilCell<State>,
    /// Called without arguments when the writer should come.
    wake: Py<PyAny>,
}

struct State {
    /// False in a process that the app has forked: it writes nothing.
    on: bool,
    lines: Vec<u8>,
    /// Calls that found no room.
    lost: u64,
    paths: HashSet<String>,
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Timings>()
}

#[pymethods]
impl Timings {
    #[new]
    fn new(wake: Py<PyAny>) -> Self {
        let state = GilCell::new(State {
            on: true,
            lines: Vec::with_capacity(WRITE_AT + 1024),
            lost: 0,
            paths: HashSet::new(),
        });
        Self { state, wake }
    }

    /// A call of the app's own: `start` in µs since the epoch, `duration` in µs.
    fn note(
        &self,
        py: Python<'_>,
        start: u64,
        duration: u64,
        name: &Bound<'_, PyString>,
        status: &Bound<'_, PyString>,
    ) -> PyResult<()> {
        let (name, status) = (name.to_string_lossy(), status.to_string_lossy());
        self.add(py, Times { start, duration }, &[&name], &status)
    }

    /// What waits, and how many calls were lost since the last time.
    fn take<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyBytes>, u64)> {
        let mut state = self.state.borrow(py)?;
        let lines = PyBytes::new(py, &state.lines);
        state.lines.clear();
        state.lines.shrink_to(WRITE_AT + 1024);
        Ok((lines, std::mem::take(&mut state.lost)))
    }

    /// Takes nothing more, and forgets what waits.
    fn off(&self, py: Python<'_>) -> PyResult<()> {
        let mut state = self.state.borrow(py)?;
        state.on = false;
        state.lines = Vec::new();
        Ok(())
    }
}

impl Timings {
    /// A request that was answered.
    pub fn add_request(&self, py: Python<'_>, times: Times, asked: &Asked<'_>) -> PyResult<()> {
        let name = match (asked.template, asked.status) {
            (Some(template), _) => template,
            // What nobody answers for is asked for by those who guess.
            (None, 404 | 405) => "(no route)",
            (None, _) => &self.path(py, asked.path)?,
        };
        let mut number = Decimal::new();
        let status = number.of(u64::from(asked.status));
        self.add(py, times, &[known(asked.method), " ", name], status)
    }

    /// A path without its values, of which there may be many.
    fn path(&self, py: Python<'_>, path: &str) -> PyResult<String> {
        let path = without_values(path);
        let paths = &mut self.state.borrow(py)?.paths;
        if !paths.contains(&path) {
            if paths.len() >= MOST_PATHS {
                return Ok("(other)".to_owned());
            }
            paths.insert(path.clone());
        }
        Ok(path)
    }

    fn add(&self, py: Python<'_>, times: Times, name: &[&str], status: &str) -> PyResult<()> {
        let wake = {
            let state = &mut *self.state.borrow(py)?;
            if !state.on {
                return Ok(());
            }
            if state.lines.len() >= MOST {
                state.lost += 1;
                return Ok(());
            }
            let before = state.lines.len();
            write_line(&mut state.lines, times, name, status);
            before < WRITE_AT && state.lines.len() >= WRITE_AT
        };
        if wake {
            self.wake.call0(py)?;
        }
        Ok(())
    }
}

fn write_line(out: &mut Vec<u8>, times: Times, name: &[&str], status: &str) {
    let mut number = Decimal::new();
    out.extend_from_slice(number.of(times.start).as_bytes());
    out.push(b'\t');
    out.extend_from_slice(number.of(times.duration).as_bytes());
    out.push(b'\t');
    let before = out.len();
    let mut room = LONGEST_NAME;
    for part in name {
        room = clean(out, part, room);
    }
    // A field that is empty is one that was forgotten.
    if out.len() == before {
        out.push(b'-');
    }
    out.push(b'\t');
    clean(out, status, LONGEST_STATUS);
    out.push(b'\n');
}

/// Writes `text` without what would end a field, a line or move a terminal's cursor; at most `room`
/// characters of it. Gives the room that is left.
fn clean(out: &mut Vec<u8>, text: &str, room: usize) -> usize {
    let plain = |byte: &u8| (0x20..0x7f).contains(byte);
    if text.len() <= room && text.as_bytes().iter().all(plain) {
        out.extend_from_slice(text.as_bytes());
        return room - text.len();
    }
    let mut left = room;
    for character in text.chars().take(room) {
        let shown = if character.is_control() {
            ' '
        } else {
            character
        };
        out.extend_from_slice(shown.encode_utf8(&mut [0; 4]).as_bytes());
        left -= 1;
    }
    left
}

/// The methods there are (RFC 9110 section 9, RFC 5789) and a WebSocket; a client may invent others
/// without end.
fn known(method: &str) -> &str {
    match method {
        "GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE" | "OPTIONS" | "TRACE" | "CONNECT"
        | "WEBSOCKET" => method,
        _ => "OTHER",
    }
}

/// `/users/17/orders/8f14e45fceea167a` → `/users/{}/orders/{}`.
fn without_values(path: &str) -> String {
    let path = path.split('?').next().unwrap_or_default();
    let mut out = String::with_capacity(path.len().min(LONGEST_NAME));
    for (number, segment) in path.split('/').enumerate() {
        if number > 0 {
            out.push('/');
        }
        out.push_str(if is_value(segment) { VALUE } else { segment });
        if out.len() > LONGEST_NAME {
            break;
        }
    }
    out
}

/// Numbers, the hexadecimal names of things (UUIDs, hashes), and what is too long for a name.
fn is_value(segment: &str) -> bool {
    /// Shorter ones may be words, as `cafe1`.
    const SHORTEST_HEX: usize = 16;
    let digit = |byte: &u8| byte.is_ascii_digit();
    let bytes = segment.as_bytes();
    if bytes.is_empty() {
        return false;
    }
    let hexadecimal = bytes
        .iter()
        .all(|byte| byte.is_ascii_hexdigit() || *byte == b'-');
    bytes.len() > LONGEST_SEGMENT
        || bytes.iter().all(digit)
        || (bytes.len() >= SHORTEST_HEX && hexadecimal && bytes.iter().any(digit))
}

/// A number in decimal, without the machinery of formatting.
struct Decimal([u8; 20]);

impl Decimal {
    fn new() -> Self {
        Self([0; 20])
    }

    fn of(&mut self, mut number: u64) -> &str {
        let mut at = self.0.len();
        loop {
            at -= 1;
            self.0[at] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        // Digits are ASCII.
        std::str::from_utf8(&self.0[at..]).unwrap_or_default()
    }
}
