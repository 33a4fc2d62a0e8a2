//! How a Python gets our extension: what `python -c` runs, and the descriptor it loads from.

use std::io;
use std::os::fd::OwnedFd;

use super::fds;

/// The program of a zygote: descriptor 3 is its control socket, 4 the extension. It parses on any
/// Python, so that one which is too old can say so in words.
pub const BOOT: &str = r#"
import socket, sys

def refuse(text):
    import json
    line = json.dumps({"type": "unsupported", "text": text}).encode()
    socket.fromfd(3, socket.AF_UNIX, socket.SOCK_SEQPACKET).send(line)
    sys.exit(2)

name = "Python %d.%d" % sys.version_info[:2]
if sys.version_info < (3, 9):
    refuse(name + " is too old: 3.9 or newer is needed")
import sysconfig
if sysconfig.get_config_var("Py_GIL_DISABLED"):
    refuse(name + " without the GIL cannot load the extension: a build with the GIL is needed")
if sys.implementation.name != "cpython":
    refuse(sys.implementation.name + " cannot load the extension: CPython is needed")
from importlib import machinery, util
path = "/proc/self/fd/4"
loader = machinery.ExtensionFileLoader("_ostler", path)
try:
    module = util.module_from_spec(util.spec_from_file_location("_ostler", path, loader=loader))
except ImportError as error:
    refuse(name + " cannot load the extension: " + str(error))
sys.modules["_ostler"] = module
loader.exec_module(module)
from _ostler import zygote
zygote.main(3)
"#;

/// The extension in a sealed memfd: nothing can change it between here and the Python that loads it.
pub fn extension() -> io::Result<OwnedFd> {
    fds::sealed("ostler-worker", super::worker_so::WORKER_SO)
}
