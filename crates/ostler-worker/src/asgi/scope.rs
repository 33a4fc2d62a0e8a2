//! Request heads as ASGI connection scopes.
//!
//! What is the same for every request is built once and copied, which is far cheaper than building
//! it anew; nothing an app may change is shared between two requests.

use ostler_wire::{NAMES, RequestHead};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyString, PyTuple};

use super::event::text;

/// The version of the HTTP and WebSocket message specification that this folder implements.
const SPEC_VERSION: &str = "2.4";

/// Builds scopes.
pub struct Scopes {
    http: Kind,
    websocket: Kind,
    /// Header names that travel as a number, by that number minus one.
    names: Vec<Py<PyBytes>>,
    state: Py<PyDict>,
}

/// What all scopes of one type have in common.
struct Kind {
    constant: Py<PyDict>,
    asgi: Py<PyDict>,
    extensions: Py<PyDict>,
}

impl Scopes {
    /// `state` is what lifespan startup left; every request gets a copy.
    pub fn new(py: Python<'_>, state: Py<PyDict>) -> PyResult<Self> {
        let http = [
            "http.response.early_hint",
            "http.response.pathsend",
            "http.response.trailers",
        ];
        Ok(Self {
            http: Kind::new(py, "http", &http)?,
            websocket: Kind::new(py, "websocket", &["websocket.http.response"])?,
            names: NAMES
                .iter()
                .map(|name| PyBytes::new(py, name.as_bytes()).unbind())
                .collect(),
            state,
        })
    }

    /// The scope of one request.
    pub fn build<'py>(
        &self,
        py: Python<'py>,
        head: &RequestHead<'_>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let kind = if head.websocket {
            &self.websocket
        } else {
            &self.http
        };
        let scope = kind.start(py)?;
        if head.websocket {
            let wanted = subprotocols(py, head)?;
            scope.set_item(intern!(py, "subprotocols"), wanted)?;
        } else {
            scope.set_item(intern!(py, "method"), method(py, head.method)?)?;
        }
        scope.set_item(intern!(py, "http_version"), version(py, head.version))?;
        scope.set_item(intern!(py, "scheme"), scheme(py, head))?;
        scope.set_item(intern!(py, "query_string"), PyBytes::new(py, head.query))?;
        self.set_paths(&scope, head)?;
        scope.set_item(intern!(py, "headers"), self.headers(py, head)?)?;
        let client = address(py, head.client, head.client_port)?;
        scope.set_item(intern!(py, "client"), client)?;
        let server = address(py, head.server, head.server_port)?;
        scope.set_item(intern!(py, "server"), server)?;
        scope.set_item(intern!(py, "state"), self.state.bind(py).copy()?)?;
        Ok(scope)
    }

    /// `path` and `raw_path` hold the whole path, `root_path` the part of it that the app is
    /// mounted under, as the specification has it since 2.3 and as uvicorn does.
    fn set_paths(&self, scope: &Bound<'_, PyDict>, head: &RequestHead<'_>) -> PyResult<()> {
        let py = scope.py();
        let raw = raw_path(head.raw_target);
        let (root, path, raw) = match head.root {
            b"" => {
                let root = intern!(py, "").clone().into_any();
                (root, text(py, head.path)?, PyBytes::new(py, raw))
            }
            // A proxy in front may have taken the prefix off.
            root if !lies_below(raw, root) => (
                text(py, root)?,
                text(py, &[root, head.path].concat())?,
                PyBytes::new(py, &[root, raw].concat()),
            ),
            root => (
                text(py, root)?,
                text(py, &[root, head.path].concat())?,
                PyBytes::new(py, raw),
            ),
        };
        scope.set_item(intern!(py, "root_path"), root)?;
        scope.set_item(intern!(py, "path"), path)?;
        scope.set_item(intern!(py, "raw_path"), raw)
    }

    fn headers<'py>(
        &self,
        py: Python<'py>,
        head: &RequestHead<'_>,
    ) -> PyResult<Bound<'py, PyList>> {
        let list = PyList::empty(py);
        for field in head.fields() {
            let name = match usize::from(field.id).checked_sub(1) {
                Some(known) => self.names[known].bind(py).clone(),
                None => PyBytes::new(py, field.name),
            };
            list.append(PyTuple::new(py, [name, PyBytes::new(py, field.value)])?)?;
        }
        Ok(list)
    }
}

impl Kind {
    fn new(py: Python<'_>, kind: &str, extensions: &[&str]) -> PyResult<Self> {
        let constant = PyDict::new(py);
        constant.set_item(intern!(py, "type"), PyString::intern(py, kind))?;
        let asgi = PyDict::new(py);
        asgi.set_item("version", "3.0")?;
        asgi.set_item("spec_version", SPEC_VERSION)?;
        let offered = PyDict::new(py);
        for extension in extensions {
            offered.set_item(extension, PyDict::new(py))?;
        }
        Ok(Self {
            constant: constant.unbind(),
            asgi: asgi.unbind(),
            extensions: offered.unbind(),
        })
    }

    fn start<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let scope = self.constant.bind(py).copy()?;
        scope.set_item(intern!(py, "asgi"), self.asgi.bind(py).copy()?)?;
        let extensions = self.extensions.bind(py).copy()?;
        scope.set_item(intern!(py, "extensions"), extensions)?;
        Ok(scope)
    }
}

fn method<'py>(py: Python<'py>, method: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    Ok(match method {
        b"GET" => intern!(py, "GET").clone().into_any(),
        b"POST" => intern!(py, "POST").clone().into_any(),
        b"HEAD" => intern!(py, "HEAD").clone().into_any(),
        other => text(py, other)?,
    })
}

fn version<'py>(py: Python<'py>, version: u8) -> Bound<'py, PyString> {
    match version {
        10 => intern!(py, "1.0"),
        20 => intern!(py, "2"),
        _ => intern!(py, "1.1"),
    }
    .clone()
}

fn scheme<'py>(py: Python<'py>, head: &RequestHead<'_>) -> Bound<'py, PyString> {
    match (head.websocket, head.https) {
        (false, false) => intern!(py, "http"),
        (false, true) => intern!(py, "https"),
        (true, false) => intern!(py, "ws"),
        (true, true) => intern!(py, "wss"),
    }
    .clone()
}

/// `(host, port)`, or `None` when there is no address.
fn address<'py>(py: Python<'py>, host: &[u8], port: u16) -> PyResult<Option<Bound<'py, PyTuple>>> {
    if host.is_empty() {
        return Ok(None);
    }
    (text(py, host)?, port).into_pyobject(py).map(Some)
}

/// The path of a request target as the client sent it, without query, scheme and authority.
fn raw_path(target: &[u8]) -> &[u8] {
    let target = match memchr::memchr(b'?', target) {
        Some(at) => &target[..at],
        None => target,
    };
    match target.first() {
        Some(b'/' | b'*') => target,
        // absolute-form (RFC 9112 section 3.2.2)
        _ => match memchr::memmem::find(target, b"://") {
            Some(at) => match memchr::memchr(b'/', &target[at + 3..]) {
                Some(slash) => &target[at + 3 + slash..],
                None => b"/",
            },
            None => target,
        },
    }
}

/// Whether `path` is `root` or begins with it and a slash, as the server has it.
fn lies_below(path: &[u8], root: &[u8]) -> bool {
    let below = path.strip_prefix(root);
    below.is_some_and(|below| matches!(below.first(), None | Some(b'/')))
}

fn subprotocols<'py>(py: Python<'py>, head: &RequestHead<'_>) -> PyResult<Bound<'py, PyList>> {
    let list = PyList::empty(py);
    for field in head.fields() {
        if field.name != b"sec-websocket-protocol" {
            continue;
        }
        for wanted in field.value.split(|byte| *byte == b',') {
            let wanted = wanted.trim_ascii();
            if !wanted.is_empty() {
                list.append(text(py, wanted)?)?;
            }
        }
    }
    Ok(list)
}
