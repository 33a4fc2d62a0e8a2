//! The route that a framework has found for a request: its template names the call, whatever the path holds.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

/// The template, where the framework tells: Flask and whatever else is made of Werkzeug, and Bottle.
/// To be asked while the app answers: Flask takes its request out of the environ at the end.
pub fn template(environ: &Bound<'_, PyDict>) -> Option<String> {
    let py = environ.py();
    let found = |key: &Bound<'_, PyString>, names: &[&Bound<'_, PyString>]| {
        let mut object = environ.get_item(key).ok()??;
        for name in names {
            object = object.getattr_opt(*name).ok()??;
        }
        let text = object.cast::<PyString>().ok()?;
        Some(text.to_string_lossy().into_owned())
    };
    let rule = intern!(py, "rule");
    let names = [intern!(py, "url_rule"), rule];
    found(intern!(py, "werkzeug.request"), &names)
        .or_else(|| found(intern!(py, "bottle.route"), &[rule]))
}
