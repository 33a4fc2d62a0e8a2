"""Calling gunicorn's hooks, and the process in which the master hooks run.

The hook process is forked before the app is loaded, outlives reloads, and answers `call` messages
one at a time until its control socket ends:

    → {"type":"call","hook":"child_exit","seq":4,"worker":{"pid":71,"age":2}|null,"args":{}}
    ← {"type":"done","seq":4,"error":null}

`args` holds the further arguments of the hook by name (`new` and `old` of nworkers_changed) and may
hold `server`, the facts that changed: {"pid", "num_workers", "workers": [{"pid","age"}], "cfg": {}}.
"""

import os
import signal
import sys
import threading

from _ostler import logs, process, shims
from _ostler.failure import excerpt, own_traceback
from _ostler.settings import arity, to_json


class Hooks:
    """The hooks of one evaluated configuration."""

    def __init__(self, evaluated):
        self._hooks = evaluated.hooks

    def has(self, name):
        return name in self._hooks

    def call(self, name, log, *args):
        """Calls a hook that may be unset. What it raises is logged and returned as a text."""
        hook = self._hooks.get(name)
        if hook is None:
            return None
        try:
            hook(*args)
        except BaseException as error:
            text = f"the hook {name} failed:\n{own_traceback(error)}"
            log.error("%s", text)
            return text
        return None

    def around_requests(self, worker):
        """`(pre_request(environ), post_request(environ, status))` for the request loop, each None
        when neither hook is set: a request that needs no hook pays for none."""
        if not (self.has("pre_request") or self.has("post_request")):
            return None, None
        # pre_request and post_request of one request see one `req`; a thread serves one at a time.
        current = threading.local()
        # post_request takes two to four arguments.
        given = arity(self._hooks["post_request"]) if self.has("post_request") else 0

        def pre_request(environ):
            worker.nr += 1
            current.request = shims.Request(environ)
            self.call("pre_request", worker.log, worker, current.request)

        def post_request(environ, status):
            args = (worker, current.request, environ, shims.Response(status))
            self.call("post_request", worker.log, *args[:given])

        return pre_request, post_request


def run_hook_process(control, evaluated, message, server_pid):
    """The life of the hook process; does not return. `message` is the `hooks` message, whose `cfg`
    (effective settings) and `error_log` may be absent."""
    process.disregard_signals()
    process.name("hooks", os.path.basename(evaluated.file or ""))
    cfg = shims.Config(message.get("cfg") or _from_file(evaluated), evaluated)
    error_log = logs.ErrorLog(message.get("error_log"), cfg.capture_output)
    signal.signal(signal.SIGUSR1, lambda signum, frame: error_log.reopen())
    log = logs.set_up(cfg, error_log)
    server = shims.Server(server_pid, log, cfg, shims.App(cfg, cfg.wsgi_app))
    hooks = Hooks(evaluated)
    while True:
        message, _ = control.receive()
        if message is None:
            process.leave(0, cfg.graceful_timeout)
        error = _answer(hooks, server, evaluated, message)
        try:
            control.send({"type": "done", "seq": message["seq"], "error": error})
        except BrokenPipeError:
            process.leave(0, cfg.graceful_timeout)


def _from_file(evaluated):
    return {name: to_json(value) for name, value in evaluated.values.items()}


def _answer(hooks, server, evaluated, message):
    args = message.get("args") or {}
    _learn(server, evaluated, args.get("server") or {})
    arguments = [server]
    if message.get("worker"):
        facts = message["worker"]
        arguments.append(shims.Worker(server, facts["age"], facts["pid"]))
    if message["hook"] == "nworkers_changed":
        arguments += [args.get("new"), args.get("old")]
    error = hooks.call(message["hook"], server.log, *arguments)
    sys.stdout.flush()
    return error and excerpt(error)


def _learn(server, evaluated, facts):
    if "cfg" in facts:
        server.cfg = server.app.cfg = shims.Config(facts["cfg"], evaluated)
        server.address = server.cfg.address
    server.pid = facts.get("pid", server.pid)
    server.num_workers = facts.get("num_workers", server.num_workers)
    if "workers" in facts:
        workers = (shims.Worker(server, each["age"], each["pid"]) for each in facts["workers"])
        server.WORKERS = {worker.pid: worker for worker in workers}
