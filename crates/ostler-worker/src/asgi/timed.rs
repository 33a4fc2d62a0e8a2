//! A request whose time is noted: from its scope to the end of the app's task.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use crate::timing::{Asked, Begun, Timings};

/// What is remembered of it. Method and path as they came: an app may write other ones into its scope.
pub struct Timed {
    timings: Py<Timings>,
    scope: Py<PyDict>,
    /// `None` for a WebSocket.
    method: Option<Py<PyAny>>,
    path: Py<PyAny>,
    begun: Begun,
}

impl Timed {
    pub fn begin(timings: Py<Timings>, scope: &Bound<'_, PyDict>) -> PyResult<Self> {
        let py = scope.py();
        let method = scope.get_item(intern!(py, "method"))?;
        Ok(Self {
            timings,
            scope: scope.clone().unbind(),
            method: method.map(Bound::unbind),
            path: scope.as_any().get_item(intern!(py, "path"))?.unbind(),
            begun: Begun::now(),
        })
    }

    pub fn end(&self, py: Python<'_>, status: u16) -> PyResult<()> {
        let times = self.begun.took();
        let text = |value: &Py<PyAny>| match value.bind(py).cast::<PyString>() {
            Ok(text) => text.to_string_lossy().into_owned(),
            Err(_) => String::new(),
        };
        let method = self.method.as_ref().map(text);
        let template = template(self.scope.bind(py));
        let asked = Asked {
            method: method.as_deref().unwrap_or("WEBSOCKET"),
            template: template.as_deref(),
            path: &text(&self.path),
            status,
        };
        self.timings.get().add_request(py, times, &asked)
    }
}

/// The template of the route that Starlette or FastAPI has found. What an app has put into its scope is no reason to
/// fail.
fn template(scope: &Bound<'_, PyDict>) -> Option<String> {
    let py = scope.py();
    let entry = |name| scope.get_item(name).ok().flatten();
    let text = |value: Bound<'_, PyAny>| {
        let text = value.cast::<PyString>().ok()?;
        Some(text.to_string_lossy().into_owned())
    };
    if let Some(route) = entry(intern!(py, "route"))
        && let Ok(Some(path)) = route.getattr_opt(intern!(py, "path"))
        && let Some(path) = text(path)
    {
        return Some(path);
    }
    entry(intern!(py, "endpoint"))?;
    let module = py.import(intern!(py, "_ostler.timing")).ok()?;
    text(
        module
            .call_method1(intern!(py, "endpoint"), (scope,))
            .ok()?,
    )
}
