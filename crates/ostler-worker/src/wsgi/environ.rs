//! `environ`: a copy of a template dict, and the strings of this request in it.
//!
//! The template holds what is the same for every request, and what has been the same in the last
//! ones (see [`Entry`]). Nothing of `os.environ` gets in. Everything is latin-1 (PEP 3333, "Unicode
//! Issues").

use std::collections::HashMap;

use ostler_wire::{BodyKind, Field, NAMES, RequestHead};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use super::Options;
use super::entry::{Entry, set};
use super::file::FileWrapper;
use super::gil::latin1;
use super::input::Input;

/// Builds the environ dicts of one slot.
pub struct Environ {
    template: Py<PyDict>,
    keys: Keys,
    fixed: Fixed,
    /// By header id; the entry 0 is not used.
    headers: Vec<Header>,
    /// Ids of headers that are in the template.
    templated: Vec<u8>,
    /// Counts requests, to tell which templated headers this one has.
    turn: u32,
    /// `HTTP_…` keys of names without an id, at most [`MOST_NAMES`].
    named: HashMap<Box<[u8]>, Py<PyString>>,
}

/// What every request has.
struct Fixed {
    method: Entry,
    root: Entry,
    path: Entry,
    raw_uri: Entry,
    request_uri: Entry,
    server: Entry,
    server_port: Entry,
    protocol: Entry,
    scheme: Entry,
    client: Entry,
}

/// A header whose name has an id.
struct Header {
    entry: Entry,
    /// The request that had it last.
    seen: u32,
    /// Secrets do not stay in memory longer than their request.
    secret: bool,
}

/// Names outside of `ostler_wire::NAMES` whose keys are kept; a client that invents names must not
/// fill the memory. Longer ones than [`LONGEST_NAME`] bytes are not kept either.
const MOST_NAMES: usize = 256;
const LONGEST_NAME: usize = 128;

const SECRETS: [&str; 5] = [
    "authorization",
    "cookie",
    "proxy-authorization",
    "x-api-key",
    "x-csrf-token",
];

/// Interned keys of what only some requests have.
struct Keys {
    query_string: Py<PyString>,
    remote_port: Py<PyString>,
    remote_user: Py<PyString>,
    content_length: Py<PyString>,
    input: Py<PyString>,
    early_hints: Py<PyString>,
}

impl Environ {
    pub fn new(py: Python<'_>, options: &Options) -> PyResult<Self> {
        let intern = |text: &str| PyString::intern(py, text).unbind();
        let entry = |key: &str| Entry::new(intern(key));
        let keys = Keys {
            query_string: intern("QUERY_STRING"),
            remote_port: intern("REMOTE_PORT"),
            remote_user: intern("REMOTE_USER"),
            content_length: intern("CONTENT_LENGTH"),
            input: intern("wsgi.input"),
            early_hints: intern("wsgi.early_hints"),
        };
        let fixed = Fixed {
            method: entry("REQUEST_METHOD"),
            root: entry("SCRIPT_NAME"),
            path: entry("PATH_INFO"),
            raw_uri: entry("RAW_URI"),
            request_uri: entry("REQUEST_URI"),
            server: entry("SERVER_NAME"),
            server_port: entry("SERVER_PORT"),
            protocol: entry("SERVER_PROTOCOL"),
            scheme: entry("wsgi.url_scheme"),
            client: entry("REMOTE_ADDR"),
        };
        let template = template(py, options, &keys)?;
        let headers = std::iter::once("").chain(NAMES).map(|name| Header {
            entry: entry(&environ_name(name.as_bytes())),
            seen: 0,
            secret: SECRETS.contains(&name),
        });
        Ok(Self {
            template: template.unbind(),
            keys,
            fixed,
            headers: headers.collect(),
            templated: Vec::new(),
            turn: 0,
            named: HashMap::new(),
        })
    }

    /// Puts the `wsgi.early_hints` of a new exchange into the template.
    pub fn set_early_hints(&self, early_hints: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = early_hints.py();
        let template = self.template.bind(py);
        template.set_item(&self.keys.early_hints, early_hints)
    }

    /// The environ of one request. `input` is `None` when there is no body.
    pub fn build<'py>(
        &mut self,
        py: Python<'py>,
        head: &RequestHead<'_>,
        input: Option<Bound<'py, Input>>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let template = self.template.bind(py).clone();
        let environ = template.copy()?;
        self.put_fixed(&template, &environ, head)?;
        let keys = &self.keys;
        if !head.query.is_empty() {
            set(
                &environ,
                &keys.query_string,
                latin1(py, head.query)?.as_any(),
            )?;
        }
        if !head.client.is_empty() {
            let port = PyString::new(py, &head.client_port.to_string());
            set(&environ, &keys.remote_port, &port)?;
        }
        if !head.user.is_empty() {
            set(&environ, &keys.remote_user, &latin1(py, head.user)?)?;
        }
        if let Some(length) = head.content_length {
            let length = PyString::new(py, &length.to_string());
            set(&environ, &keys.content_length, &length)?;
        }
        if let Some(input) = input {
            set(&environ, &keys.input, &input)?;
        }
        self.turn = self.turn.wrapping_add(1);
        let mut templated = 0;
        for field in head.fields() {
            templated += self.put_header(&template, &environ, head.body, field)?;
        }
        if templated != self.templated.len() {
            self.remove_absent(&template, &environ)?;
        }
        Ok(environ)
    }

    fn put_fixed(
        &mut self,
        template: &Bound<'_, PyDict>,
        environ: &Bound<'_, PyDict>,
        head: &RequestHead<'_>,
    ) -> PyResult<()> {
        let fixed = &mut self.fixed;
        let protocol: &[u8] = match head.version {
            10 => b"HTTP/1.0",
            20 => b"HTTP/2.0",
            _ => b"HTTP/1.1",
        };
        let scheme: &[u8] = if head.https { b"https" } else { b"http" };
        for (entry, text) in [
            (&mut fixed.method, head.method),
            (&mut fixed.root, head.root),
            (&mut fixed.path, head.path),
            (&mut fixed.raw_uri, head.raw_target),
            (&mut fixed.request_uri, head.raw_target),
            (&mut fixed.server, head.server),
            (&mut fixed.protocol, protocol),
            (&mut fixed.scheme, scheme),
            (&mut fixed.client, head.client),
        ] {
            entry.put(template, environ, text)?;
        }
        fixed
            .server_port
            .put_number(template, environ, head.server_port)
    }

    /// Sets one header; gives 1 when it is in the template and was not counted in this request yet.
    fn put_header(
        &mut self,
        template: &Bound<'_, PyDict>,
        environ: &Bound<'_, PyDict>,
        body: BodyKind,
        field: Field<'_>,
    ) -> PyResult<usize> {
        let py = environ.py();
        if field.id == CONTENT_LENGTH || (field.id == TRANSFER_ENCODING && body != BodyKind::Stream)
        {
            // The length is told by `content_length`, and of a whole body it is known.
            return Ok(0);
        }
        let header = match self.headers.get_mut(usize::from(field.id)) {
            Some(header) if field.id != 0 => header,
            _ => {
                let key = self.named(py, field.name);
                set(environ, &key, &latin1(py, field.value)?)?;
                return Ok(0);
            }
        };
        if header.secret {
            let value = latin1(py, field.value)?;
            set(environ, header.entry.key(), &value)?;
            return Ok(0);
        }
        let was_templated = header.entry.is_templated();
        header.entry.put(template, environ, field.value)?;
        match (was_templated, header.entry.is_templated()) {
            (false, true) => self.templated.push(field.id),
            (true, false) => {
                // Unlike what every request has, it must not stay with an old value.
                header.entry.remove(template)?;
                self.templated.retain(|id| *id != field.id);
            }
            _ => {}
        }
        let first = header.seen != self.turn;
        header.seen = self.turn;
        Ok(usize::from(first && header.entry.is_templated()))
    }

    /// Takes headers that this request does not have out of its environ and out of the template.
    fn remove_absent(
        &mut self,
        template: &Bound<'_, PyDict>,
        environ: &Bound<'_, PyDict>,
    ) -> PyResult<()> {
        for id in std::mem::take(&mut self.templated) {
            let header = &mut self.headers[usize::from(id)];
            if header.seen == self.turn {
                self.templated.push(id);
            } else {
                header.entry.remove(template)?;
                environ.del_item(header.entry.key())?;
            }
        }
        Ok(())
    }

    fn named(&mut self, py: Python<'_>, name: &[u8]) -> Py<PyString> {
        if let Some(key) = self.named.get(name) {
            return key.clone_ref(py);
        }
        let key = PyString::new(py, &environ_name(name)).unbind();
        if self.named.len() < MOST_NAMES && name.len() <= LONGEST_NAME {
            self.named.insert(name.into(), key.clone_ref(py));
        }
        key
    }
}

/// Ids of the two headers that say how long a body is.
const CONTENT_LENGTH: u8 = id("content-length");
const TRANSFER_ENCODING: u8 = id("transfer-encoding");

const fn id(name: &str) -> u8 {
    let mut index = 0;
    while index < NAMES.len() {
        if equal(NAMES[index].as_bytes(), name.as_bytes()) {
            return index as u8 + 1;
        }
        index += 1;
    }
    panic!("no such name")
}

const fn equal(left: &[u8], right: &[u8]) -> bool {
    if left.len() != right.len() {
        return false;
    }
    let mut index = 0;
    while index < left.len() {
        if left[index] != right[index] {
            return false;
        }
        index += 1;
    }
    true
}

fn template<'py>(py: Python<'py>, options: &Options, keys: &Keys) -> PyResult<Bound<'py, PyDict>> {
    let template = PyDict::new(py);
    template.set_item(&keys.query_string, "")?;
    template.set_item("SERVER_SOFTWARE", &options.server_software)?;
    template.set_item("wsgi.version", (1, 0))?;
    template.set_item(&keys.input, Bound::new(py, Input::empty())?)?;
    template.set_item("wsgi.errors", &options.errors)?;
    template.set_item("wsgi.multithread", options.multithread)?;
    template.set_item("wsgi.multiprocess", options.multiprocess)?;
    template.set_item("wsgi.run_once", false)?;
    template.set_item("wsgi.input_terminated", true)?;
    let wrapper = match &options.file_wrapper {
        Some(wrapper) => wrapper.bind(py).clone(),
        None => py.get_type::<FileWrapper>().into_any(),
    };
    template.set_item("wsgi.file_wrapper", wrapper)?;
    Ok(template)
}

/// `x-real-ip` → `HTTP_X_REAL_IP`; the two names that CGI has without a prefix stay so.
fn environ_name(name: &[u8]) -> String {
    let upper = name.iter().map(|byte| match byte {
        b'-' => '_',
        other => char::from(other.to_ascii_uppercase()),
    });
    match name {
        b"content-type" | b"content-length" => upper.collect(),
        _ => "HTTP_".chars().chain(upper).collect(),
    }
}

/// What a gunicorn `pre_request` hook may look at: the request as gunicorn names its parts.
pub fn request_like<'py>(py: Python<'py>, head: &RequestHead<'_>) -> PyResult<Bound<'py, PyAny>> {
    let attributes = PyDict::new(py);
    attributes.set_item("method", latin1(py, head.method)?)?;
    attributes.set_item("uri", latin1(py, head.raw_target)?)?;
    attributes.set_item("path", latin1(py, head.path)?)?;
    attributes.set_item("query", latin1(py, head.query)?)?;
    attributes.set_item("fragment", "")?;
    attributes.set_item("version", (head.version / 10, head.version % 10))?;
    attributes.set_item("scheme", if head.https { "https" } else { "http" })?;
    attributes.set_item("remote_addr", (latin1(py, head.client)?, head.client_port))?;
    let headers = head.fields().map(|field| {
        let name = latin1(py, &field.name.to_ascii_uppercase())?;
        Ok((name, latin1(py, field.value)?))
    });
    attributes.set_item("headers", headers.collect::<PyResult<Vec<_>>>()?)?;
    py.import("types")?
        .getattr("SimpleNamespace")?
        .call((), Some(&attributes))
}
