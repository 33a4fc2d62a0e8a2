//! `environ`: a copy of a template dict, and the strings of this request in it.
//!
//! The template holds what is the same for every request. Strings that come again and again (a
//! host, a user agent) are kept as the `str` built last and used again only when the bytes are the
//! same. Nothing of `os.environ` gets in. Everything is latin-1 (PEP 3333, "Unicode Issues").

use std::collections::HashMap;

use ostler_wire::{BodyKind, Field, NAMES, RequestHead};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use super::Options;
use super::file::FileWrapper;
use super::gil::latin1;
use super::input::Input;

/// Builds the environ dicts of one slot.
pub struct Environ {
    template: Py<PyDict>,
    keys: Keys,
    words: Words,
    method: Kept,
    root: Kept,
    path: Kept,
    server: Kept,
    server_port: KeptNumber,
    client: Kept,
    client_port: KeptNumber,
    length: KeptNumber,
    /// By header id; the entry 0 is not used.
    headers: Vec<Header>,
    /// `HTTP_…` keys of names without an id, at most [`MOST_NAMES`].
    named: HashMap<Box<[u8]>, Py<PyString>>,
}

/// A header whose name has an id.
struct Header {
    key: Py<PyString>,
    value: Kept,
    /// Secrets do not stay in memory longer than their request.
    secret: bool,
}

/// Names outside of `ostler_wire::NAMES` whose keys are kept; a client that invents names must not
/// fill the memory.
const MOST_NAMES: usize = 256;

/// Values longer than this many bytes are built anew each time.
const LONGEST_KEPT: usize = 512;

const SECRETS: [&str; 5] = [
    "authorization",
    "cookie",
    "proxy-authorization",
    "x-api-key",
    "x-csrf-token",
];

/// Interned keys of what is set for each request.
struct Keys {
    request_method: Py<PyString>,
    script_name: Py<PyString>,
    path_info: Py<PyString>,
    query_string: Py<PyString>,
    raw_uri: Py<PyString>,
    request_uri: Py<PyString>,
    server_name: Py<PyString>,
    server_port: Py<PyString>,
    server_protocol: Py<PyString>,
    remote_addr: Py<PyString>,
    remote_port: Py<PyString>,
    content_length: Py<PyString>,
    url_scheme: Py<PyString>,
    input: Py<PyString>,
    early_hints: Py<PyString>,
}

/// Values out of a small set.
struct Words {
    empty: Py<PyString>,
    http: Py<PyString>,
    https: Py<PyString>,
    http10: Py<PyString>,
    http11: Py<PyString>,
    http2: Py<PyString>,
}

/// The `str` built last, and the bytes it stands for.
#[derive(Default)]
struct Kept {
    bytes: Vec<u8>,
    text: Option<Py<PyString>>,
}

/// The same for a number in decimal.
#[derive(Default)]
struct KeptNumber {
    number: u64,
    text: Option<Py<PyString>>,
}

impl Environ {
    pub fn new(py: Python<'_>, options: &Options) -> PyResult<Self> {
        let intern = |text: &str| PyString::intern(py, text).unbind();
        let keys = Keys {
            request_method: intern("REQUEST_METHOD"),
            script_name: intern("SCRIPT_NAME"),
            path_info: intern("PATH_INFO"),
            query_string: intern("QUERY_STRING"),
            raw_uri: intern("RAW_URI"),
            request_uri: intern("REQUEST_URI"),
            server_name: intern("SERVER_NAME"),
            server_port: intern("SERVER_PORT"),
            server_protocol: intern("SERVER_PROTOCOL"),
            remote_addr: intern("REMOTE_ADDR"),
            remote_port: intern("REMOTE_PORT"),
            content_length: intern("CONTENT_LENGTH"),
            url_scheme: intern("wsgi.url_scheme"),
            input: intern("wsgi.input"),
            early_hints: intern("wsgi.early_hints"),
        };
        let words = Words {
            empty: intern(""),
            http: intern("http"),
            https: intern("https"),
            http10: intern("HTTP/1.0"),
            http11: intern("HTTP/1.1"),
            http2: intern("HTTP/2"),
        };
        let template = template(py, options, &keys, &words)?;
        let headers = std::iter::once("").chain(NAMES).map(|name| Header {
            key: intern(&environ_name(name.as_bytes())),
            value: Kept::default(),
            secret: SECRETS.contains(&name),
        });
        Ok(Self {
            template: template.unbind(),
            keys,
            words,
            method: Kept::default(),
            root: Kept::default(),
            path: Kept::default(),
            server: Kept::default(),
            server_port: KeptNumber::default(),
            client: Kept::default(),
            client_port: KeptNumber::default(),
            length: KeptNumber::default(),
            headers: headers.collect(),
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
        let environ = self.template.bind(py).copy()?;
        let (keys, words) = (&self.keys, &self.words);
        set(
            &environ,
            &keys.request_method,
            self.method.text(py, head.method)?,
        )?;
        set(&environ, &keys.script_name, self.root.text(py, head.root)?)?;
        let path = self.path.text(py, head.path)?;
        let raw = if head.raw_target == head.path {
            path.clone()
        } else {
            latin1(py, head.raw_target)?
        };
        set(&environ, &keys.raw_uri, raw.clone())?;
        set(&environ, &keys.request_uri, raw)?;
        set(&environ, &keys.path_info, path)?;
        if !head.query.is_empty() {
            set(&environ, &keys.query_string, latin1(py, head.query)?)?;
        }
        set(
            &environ,
            &keys.server_name,
            self.server.text(py, head.server)?,
        )?;
        let port = self.server_port.text(py, head.server_port.into());
        set(&environ, &keys.server_port, port)?;
        let protocol = match head.version {
            10 => &words.http10,
            20 => &words.http2,
            _ => &words.http11,
        };
        set(&environ, &keys.server_protocol, protocol.bind(py).clone())?;
        set(
            &environ,
            &keys.remote_addr,
            self.client.text(py, head.client)?,
        )?;
        if !head.client.is_empty() {
            let port = self.client_port.text(py, head.client_port.into());
            set(&environ, &keys.remote_port, port)?;
        }
        if head.https {
            set(&environ, &keys.url_scheme, words.https.bind(py).clone())?;
        }
        if let Some(length) = head.content_length {
            set(&environ, &keys.content_length, self.length.text(py, length))?;
        }
        if let Some(input) = input {
            set(&environ, &keys.input, input)?;
        }
        for field in head.fields() {
            self.header(&environ, head.body, field)?;
        }
        Ok(environ)
    }

    fn header(
        &mut self,
        environ: &Bound<'_, PyDict>,
        body: BodyKind,
        field: Field<'_>,
    ) -> PyResult<()> {
        let py = environ.py();
        if field.id == CONTENT_LENGTH || (field.id == TRANSFER_ENCODING && body != BodyKind::Stream)
        {
            // The length is told by `content_length`, and of a whole body it is known.
            return Ok(());
        }
        match self.headers.get_mut(usize::from(field.id)) {
            Some(header) if field.id != 0 => {
                let value = if header.secret {
                    latin1(py, field.value)?
                } else {
                    header.value.text(py, field.value)?
                };
                set(environ, &header.key, value)
            }
            _ => {
                let key = self.named(py, field.name);
                set(environ, &key, latin1(py, field.value)?)
            }
        }
    }

    fn named(&mut self, py: Python<'_>, name: &[u8]) -> Py<PyString> {
        if let Some(key) = self.named.get(name) {
            return key.clone_ref(py);
        }
        let key = PyString::new(py, &environ_name(name)).unbind();
        if self.named.len() < MOST_NAMES && name.len() <= LONGEST_KEPT {
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

fn template<'py>(
    py: Python<'py>,
    options: &Options,
    keys: &Keys,
    words: &Words,
) -> PyResult<Bound<'py, PyDict>> {
    let template = PyDict::new(py);
    // Keys that every request sets stand here too, so that the copy has their place already.
    for key in [
        &keys.request_method,
        &keys.script_name,
        &keys.path_info,
        &keys.query_string,
        &keys.raw_uri,
        &keys.request_uri,
        &keys.server_name,
        &keys.server_port,
        &keys.server_protocol,
        &keys.remote_addr,
    ] {
        template.set_item(key, &words.empty)?;
    }
    template.set_item("SERVER_SOFTWARE", &options.server_software)?;
    template.set_item("wsgi.version", (1, 0))?;
    template.set_item(&keys.url_scheme, &words.http)?;
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

fn set<T>(environ: &Bound<'_, PyDict>, key: &Py<PyString>, value: Bound<'_, T>) -> PyResult<()> {
    // SAFETY: three live objects; the dict takes its own references. Checked for its error below.
    let result = unsafe { ffi::PyDict_SetItem(environ.as_ptr(), key.as_ptr(), value.as_ptr()) };
    if result < 0 {
        return Err(PyErr::fetch(environ.py()));
    }
    Ok(())
}

impl Kept {
    /// The `str` of `bytes`; the same object as last time when they are the same bytes.
    fn text<'py>(&mut self, py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyString>> {
        if let Some(text) = &self.text
            && self.bytes == bytes
        {
            return Ok(text.bind(py).clone());
        }
        let text = latin1(py, bytes)?;
        if bytes.len() <= LONGEST_KEPT {
            self.bytes.clear();
            self.bytes.extend_from_slice(bytes);
            self.text = Some(text.clone().unbind());
        }
        Ok(text)
    }
}

impl KeptNumber {
    fn text<'py>(&mut self, py: Python<'py>, number: u64) -> Bound<'py, PyString> {
        if let Some(text) = &self.text
            && self.number == number
        {
            return text.bind(py).clone();
        }
        let text = PyString::new(py, &number.to_string());
        self.number = number;
        self.text = Some(text.clone().unbind());
        text
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
