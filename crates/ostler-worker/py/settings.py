"""gunicorn.conf.py: evaluated as gunicorn does it, and told apart into settings and hooks.

This file knows gunicorn's names and defaults (27.0). What a setting means, and whether its value
is valid, is the server's business; it gets every value as JSON.
"""

import ast
import difflib
import importlib
import importlib.util
import inspect
import math
import os
import sys
import types

from _ostler.failure import CONFIG, Failed, own_traceback

# Where each hook runs, and how many arguments it takes.
ZYGOTE_HOOKS = {"pre_fork": 2}
WORKER_HOOKS = {
    "post_fork": 2,
    "post_worker_init": 1,
    "worker_int": 1,
    "worker_abort": 1,
    "pre_request": 2,
    "post_request": 4,
    "worker_exit": 2,
}
MASTER_HOOKS = {
    "on_starting": 1,
    "on_reload": 1,
    "when_ready": 1,
    "pre_exec": 1,
    "child_exit": 2,
    "nworkers_changed": 3,
    "on_exit": 1,
}
# ssl_context is accepted so that the server can warn: TLS is not spoken in Python.
HOOKS = {**ZYGOTE_HOOKS, **WORKER_HOOKS, **MASTER_HOOKS, "ssl_context": 2}

# Every setting that is not a hook, with gunicorn's default. Those that depend on the place
# (chdir, user, group, control_socket) are None.
DEFAULTS = {
    # config
    "config": "./gunicorn.conf.py",
    "wsgi_app": None,
    # socket
    "bind": ["127.0.0.1:8000"],
    "backlog": 2048,
    # workers
    "workers": 1,
    "worker_class": "sync",
    "threads": 1,
    "worker_connections": 1000,
    "max_requests": 0,
    "max_requests_jitter": 0,
    "timeout": 30,
    "graceful_timeout": 30,
    "keepalive": 2,
    "asgi_loop": "auto",
    "asgi_lifespan": "auto",
    "asgi_disconnect_grace_period": 3,
    "http_parser": "auto",
    "websocket_max_message_size": 16777216,
    # limits
    "limit_request_line": 4094,
    "limit_request_fields": 100,
    "limit_request_field_size": 8190,
    # debugging
    "reload": False,
    "reload_engine": "auto",
    "reload_extra_files": [],
    "spew": False,
    "check_config": False,
    "print_config": False,
    # mechanics
    "preload_app": False,
    "sendfile": None,
    "reuse_port": False,
    "chdir": None,
    "daemon": False,
    "raw_env": [],
    "pidfile": None,
    "worker_tmp_dir": None,
    "user": None,
    "group": None,
    "umask": 0,
    "initgroups": False,
    "tmp_upload_dir": None,
    "secure_scheme_headers": {
        "X-FORWARDED-PROTOCOL": "ssl",
        "X-FORWARDED-PROTO": "https",
        "X-FORWARDED-SSL": "on",
    },
    "forwarded_allow_ips": "127.0.0.1,::1",
    "pythonpath": None,
    "paste": None,
    "raw_paste_global_conf": [],
    "proxy_protocol": False,
    "proxy_allow_ips": "127.0.0.1,::1",
    "protocol": "http",
    "uwsgi_allow_ips": "127.0.0.1,::1",
    "permit_obsolete_folding": False,
    "strip_header_spaces": False,
    "permit_unconventional_http_method": False,
    "permit_unconventional_http_version": False,
    "casefold_http_method": False,
    "forwarder_headers": "SCRIPT_NAME,PATH_INFO",
    "header_map": "drop",
    "root_path": "",
    # logging
    "accesslog": None,
    "disable_redirect_access_to_syslog": False,
    "access_log_format": '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s"',
    "errorlog": "-",
    "loglevel": "info",
    "capture_output": False,
    "logger_class": "gunicorn.glogging.Logger",
    "logconfig": None,
    "logconfig_dict": {},
    "logconfig_json": None,
    "syslog_addr": "udp://localhost:514",
    "syslog": False,
    "syslog_prefix": None,
    "syslog_facility": "user",
    "enable_stdio_inheritance": False,
    "statsd_host": None,
    "dogstatsd_tags": "",
    "statsd_prefix": "",
    "enable_backlog_metric": False,
    # naming
    "proc_name": None,
    "default_proc_name": "gunicorn",
    # TLS
    "keyfile": None,
    "certfile": None,
    "ssl_version": 2,
    "cert_reqs": 0,
    "ca_certs": None,
    "suppress_ragged_eofs": True,
    "do_handshake_on_connect": False,
    "ciphers": None,
    # HTTP/2
    "http_protocols": "h1",
    "http2_cleartext": "off",
    "http2_max_concurrent_streams": 100,
    "http2_initial_window_size": 65535,
    "http2_max_frame_size": 16384,
    "http2_max_header_list_size": 65536,
    # dirty arbiters, with their hooks: accepted and without meaning here
    "dirty_apps": [],
    "dirty_workers": 0,
    "dirty_timeout": 300,
    "dirty_threads": 1,
    "dirty_graceful_timeout": 30,
    "on_dirty_starting": None,
    "dirty_post_fork": None,
    "dirty_worker_init": None,
    "dirty_worker_exit": None,
    # control socket
    "control_socket": None,
    "control_socket_mode": 0o600,
    "control_socket_disable": False,
}


class Evaluated:
    """What a configuration file says. Without a file: nothing."""

    def __init__(self):
        self.file = None
        self.values = {}
        self.hooks = {}
        self.unknown = []

    def message(self):
        return {
            "type": "configured",
            "file": self.file,
            "settings": {name: to_json(value) for name, value in self.values.items()},
            "hooks": sorted(self.hooks),
            "master_hooks": any(name in MASTER_HOOKS for name in self.hooks),
            "unknown": self.unknown,
        }


def evaluate(message):
    """Evaluates the file or module a `configure` message names. `names` in it are the settings of
    the server's own, beyond gunicorn's. Raises `Failed`."""
    known = {*DEFAULTS, *message.get("names", ())}
    enter(message["chdir"], message["pythonpath"])
    evaluated = Evaluated()
    if message["module"]:
        namespace, evaluated.file, source = _import(message["module"])
    elif message["file"] and (message["explicit"] or os.path.exists(message["file"])):
        evaluated.file = message["file"]
        namespace, source = _execute(message["file"])
    else:
        return evaluated
    for name, value in namespace.items():
        if name in HOOKS:
            evaluated.hooks[name] = _hook(name, value, evaluated.file)
        elif name in known:
            evaluated.values[name] = value
    evaluated.unknown = _unknown(namespace, source, known)
    return evaluated


def enter(chdir, pythonpath):
    """Goes to the app's folder and makes its modules importable: the folder first, and before it
    each entry of `pythonpath`, as gunicorn orders them."""
    if chdir:
        try:
            os.chdir(chdir)
        except OSError as error:
            raise Failed(CONFIG, f"cannot enter {chdir}: {error.strerror}") from None
    # `python -c` put "" in front: whatever the working directory is at that moment.
    sys.path[:] = [entry for entry in sys.path if entry]
    for entry in [os.getcwd(), *map(os.path.abspath, pythonpath)]:
        if entry not in sys.path:
            sys.path.insert(0, entry)


def _execute(path):
    module = types.ModuleType("__config__")
    module.__file__ = path
    try:
        with open(path, "rb") as file:
            source = file.read()
    except OSError as error:
        raise Failed(CONFIG, f"cannot read {path}: {error.strerror}") from None
    # Importable under its name, so that what it defines can be pickled or named in logconfig_dict.
    sys.modules["__config__"] = module
    try:
        exec(compile(source, path, "exec"), module.__dict__)
    except BaseException as error:
        raise _broken(error) from None
    return module.__dict__, source


def _import(name):
    try:
        module = importlib.import_module(name)
    except BaseException as error:
        raise _broken(error) from None
    try:
        source = inspect.getsource(module)
    except (OSError, TypeError):
        source = ""
    return module.__dict__, getattr(module, "__file__", None), source


def _broken(error):
    text = own_traceback(error)
    if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] == "gunicorn":
        text += (
            "\nhint: ostler does not need gunicorn, but this file imports it: take the import out, "
            "or leave gunicorn installed"
        )
    return Failed(CONFIG, text)


def _hook(name, value, file):
    """The callable of a hook, which may be named by a string, with the arity gunicorn demands."""
    try:
        if isinstance(value, str):
            module, _, attribute = value.rpartition(".")
            value = getattr(importlib.import_module(module), attribute)
        if not callable(value):
            raise TypeError(f"{value!r} is not callable")
        takes, wanted = arity(value), HOOKS[name]
        if takes != wanted and not (name == "post_request" and takes in (2, 3)):
            raise TypeError(f"it takes {takes} arguments, not {wanted}")
    except Exception as error:
        raise Failed(CONFIG, f"{file}: invalid hook {name}: {error}") from None
    return value


def arity(function):
    """How many positional arguments `function` names, as gunicorn counts them."""
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    return sum(parameter.kind in positional for parameter in parameters)


def _unknown(namespace, source, known):
    """The names that look like settings and are none. Such a file is a program with helpers of its
    own: what it reads again is a helper, what it only sets must have been meant for the server. A
    function is suspect only when its name comes close to a hook's."""
    nodes = list(ast.walk(ast.parse(source)))
    names = [node for node in nodes if isinstance(node, ast.Name)]
    read = {node.id for node in names if isinstance(node.ctx, ast.Load)}
    suspects = [node.id for node in names if isinstance(node.ctx, ast.Store)]
    suspects += [
        node.name
        for node in nodes
        if isinstance(node, ast.FunctionDef)
        and difflib.get_close_matches(node.name, HOOKS, n=1, cutoff=0.8)
    ]
    return [
        name
        for name in dict.fromkeys(suspects)
        if name in namespace
        and name not in read
        and name not in HOOKS
        and name not in known
        and not name.startswith("_")
        and (not callable(namespace[name]) or isinstance(namespace[name], types.FunctionType))
    ]


def to_json(value):
    """`value` as JSON: classes by their dotted name, what JSON cannot say by its `repr`."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    if isinstance(value, (list, tuple, set, frozenset)):
        return [to_json(item) for item in value]
    if isinstance(value, dict):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    return repr(value)
