"""The `server`, `worker`, `cfg` and response objects that gunicorn hooks are given.

They have the attributes that configuration files in the wild use. They show facts; changing them
changes nothing in the server.
"""

import http
import os
import time

from _ostler.settings import DEFAULTS, to_json


class Setting:
    """One entry of `cfg.settings`."""

    def __init__(self, name, value):
        self.name = name
        self.default = DEFAULTS.get(name)
        self.value = value

    def get(self):
        return self.value

    def set(self, value):
        self.value = value


class Config:
    """`cfg`: every effective setting as an attribute.

    `effective` came through JSON. Where it still says what the file said, the file's own object
    (a class, a tuple) is shown instead.
    """

    def __init__(self, effective, evaluated):
        self.settings = {}
        for name, value in {**DEFAULTS, **effective}.items():
            raw = evaluated.values.get(name)
            self.settings[name] = Setting(name, raw if to_json(raw) == value else value)
        for name, hook in evaluated.hooks.items():
            self.settings[name] = Setting(name, hook)

    def __getattr__(self, name):
        try:
            return self.__dict__["settings"][name].value
        except KeyError:
            raise AttributeError(f"no setting named {name}") from None

    def set(self, name, value):
        self.settings[name].set(value)

    @property
    def address(self):
        binds = self.bind if isinstance(self.bind, (list, tuple)) else [self.bind]
        return [_address(bind) for bind in binds]

    @property
    def uid(self):
        return os.geteuid()

    @property
    def gid(self):
        return os.getegid()

    @property
    def env(self):
        return dict(entry.split("=", 1) for entry in self.raw_env)

    @property
    def worker_class_str(self):
        return to_json(self.settings["worker_class"].value)

    @property
    def proc_name(self):
        return self.settings["proc_name"].value or self.settings["default_proc_name"].value

    @property
    def is_ssl(self):
        return bool(self.certfile or self.keyfile)


def _address(bind):
    """A path for `unix:PATH`, a number for `fd://N`, `(host, port)` for the rest."""
    if bind.startswith("unix:"):
        return bind[len("unix:") :]
    if bind.startswith("fd://"):
        return int(bind[len("fd://") :])
    host, _, port = bind.rpartition("//")[2].rpartition(":")
    if not port.isdigit() or port != port.strip():
        host, port = f"{host}:{port}".strip(":"), "8000"
    return host.strip("[]") or "0.0.0.0", int(port)


class App:
    """`server.app` and `worker.app`."""

    def __init__(self, cfg, uri=None, callable=None):
        self.cfg = cfg
        self.app_uri = uri
        self.callable = callable

    def wsgi(self):
        return self.callable


class Server:
    """`server`: what gunicorn calls the arbiter."""

    def __init__(self, pid, log, cfg, app):
        self.pid = pid
        self.master_pid = 0
        self.master_name = "Master"
        self.log = log
        self.cfg = cfg
        self.app = app
        self.address = cfg.address
        self.timeout = cfg.timeout
        self.proc_name = cfg.proc_name
        self.num_workers = cfg.workers
        self.worker_age = 0
        self.WORKERS = {}
        self.LISTENERS = []


class Heartbeat:
    """`worker.tmp`: gunicorn's heartbeat file. Liveness is told by other means here."""

    def notify(self):
        pass

    def last_update(self):
        return time.monotonic()

    def close(self):
        pass


class Worker:
    """`worker`. Its pid is a word until the fork, as in gunicorn."""

    def __init__(self, server, age, pid="[booting]"):
        self.age = age
        self.pid = pid
        self.ppid = server.pid
        self.nr = 0
        self.alive = True
        self.booted = False
        self.aborted = False
        self.log = server.log
        self.cfg = server.cfg
        self.app = server.app
        self.wsgi = None
        self.timeout = server.timeout
        self.max_requests = server.cfg.max_requests
        self.sockets = []
        self.reloader = None
        self.tmp = Heartbeat()

    def notify(self):
        self.tmp.notify()

    def __str__(self):
        return f"<Worker {self.pid}>"


class Response:
    """`resp` of post_request. The headers left with the response and are not kept."""

    def __init__(self, status_code):
        self.status_code = status_code
        try:
            self.status = f"{status_code} {http.HTTPStatus(status_code).phrase}"
        except ValueError:
            self.status = str(status_code)
        self.headers = []
