//! The CPython extension: wire frames → WSGI/ASGI call → wire frames.
//!
//! One `.so` for every CPython ≥ 3.9 (abi3), carried inside the ostler binary. It holds no thread,
//! no lock and no epoll before a fork, so that forking from the zygote stays safe. The process's
//! life (zygote, fork, hooks, settings) is told in Python, in `py/`; the hot path is Rust.

use pyo3::prelude::*;
use pyo3::types::PyDict;

mod asgi;
mod process;
mod timing;
mod wsgi;

pyo3::create_exception!(
    _ostler,
    ClientDisconnected,
    pyo3::exceptions::PyConnectionError,
    "The client went away before its request was read or its response was sent."
);

/// The Python side, importable as `_ostler.<name>`.
const SOURCES: &[(&str, &str)] = &[
    ("appimport", include_str!("../py/appimport.py")),
    ("blockers", include_str!("../py/blockers.py")),
    ("asgi", include_str!("../py/asgi.py")),
    ("control", include_str!("../py/control.py")),
    ("failure", include_str!("../py/failure.py")),
    ("hijack", include_str!("../py/hijack.py")),
    ("hooks", include_str!("../py/hooks.py")),
    ("logs", include_str!("../py/logs.py")),
    ("process", include_str!("../py/process.py")),
    ("reload", include_str!("../py/reload.py")),
    ("settings", include_str!("../py/settings.py")),
    ("sharing", include_str!("../py/sharing.py")),
    ("shims", include_str!("../py/shims.py")),
    ("slots", include_str!("../py/slots.py")),
    ("timing", include_str!("../py/timing.py")),
    ("worker", include_str!("../py/worker.py")),
    ("zygote", include_str!("../py/zygote.py")),
];

/// The package `ostler` that apps may import; the wheel has the same file.
const PACKAGE: &str = include_str!("../py/ostler/__init__.py");

#[pymodule]
fn _ostler(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("WIRE_VERSION", ostler_wire::VERSION)?;
    let disconnected = module.py().get_type::<ClientDisconnected>();
    module.add("ClientDisconnected", disconnected)?;
    wsgi::register(module)?;
    asgi::register(module)?;
    process::register(module)?;
    timing::register(module)?;
    let sources = PyDict::new(module.py());
    for (name, source) in SOURCES {
        sources.set_item(name, source)?;
    }
    module.add("sources", sources)?;
    module.add("package", PACKAGE)?;
    // A worker that times its calls puts its `Timings` here.
    module.add("timings", module.py().None())?;
    let boot = std::ffi::CString::new(include_str!("../py/boot.py")).expect("no NUL in boot.py");
    let globals = PyDict::new(module.py());
    globals.set_item("_ostler", module)?;
    module.py().run(&boot, Some(&globals), None)?;
    Ok(())
}
