"""Calling gunicorn's hooks, and the process in which the master hooks run.

The hook process is forked before the app is loaded, outlives reloads, and answers `call` messages
one at a time until its control socket ends:

    → {"type":"call","hook":"child_exit","seq":4,"worker":{"pid":71,"age":2}|null,"args":{}}
    ← {"type":"done","seq":4,"error":null}

`args` holds the further arguments of the hook by name (`new` and `old` of nworkers_changed), and
may hold `server`, the facts that changed:

    {"pid": 7, "num_workers": 2, "workers": [{"pid": 71, "age": 2}], "cfg": {}}
"""

import os
import signal
import threading
import traceback

from _ostler import logs, process, shims
from _ostler.failure import Failed, excerpt, own_traceback
from _ostler.settings import arity, enter, to_json

# Seconds that threads and exit handlers of the hooks may take when the process ends.
_PATIENCE = 5


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
        """`(pre_request(request, environ), post_request(environ, status))` for the request loop,
        both None when neither hook is set: a request that needs no hook pays for none."""
        before, after = self._hooks.get("pre_request"), self._hooks.get("post_request")
        if not (before or after):
            return None, None
        # Both hooks of one request see one `req`; a thread serves one request at a time.
        current = threading.local()
        # post_request takes two to four arguments.
        given = arity(after) if after else 0

        def pre_request(request, environ):
            worker.nr += 1
            current.request = request
            if before:
                # What it raises becomes the answer, as in gunicorn.
                before(worker, request)

        def post_request(environ, status):
            args = (worker, current.request, environ, shims.Response(status))
            self.call("post_request", worker.log, *args[:given])

        return pre_request, post_request


def run_hook_process(control, evaluated, message, server_pid):
    """The life of the hook process; does not return. `message` is the `hooks` message. It may say
    the effective settings (`cfg`), the `error_log`, and where gunicorn's master would be: `chdir`,
    `pythonpath`, `env`, `umask`."""
    try:
        process.disregard_signals()
        process.name("hooks", os.path.basename(evaluated.file or ""))
        _answer_calls(control, evaluated, message, server_pid)
    except OSError:
        pass  # nobody is left to be answered
    except BaseException:
        traceback.print_exc()
    finally:
        process.leave(0, _PATIENCE)


def _answer_calls(control, evaluated, message, server_pid):
    server, trouble = None, None
    try:
        server = _server(evaluated, message, server_pid)
    except Failed as failed:
        trouble = failed.text
    hooks = Hooks(evaluated)
    while True:
        message, _ = control.receive()
        if message is None:
            return
        error = trouble or _answer(hooks, server, evaluated, message)
        control.send({"type": "done", "seq": message["seq"], "error": error and excerpt(error)})


def _server(evaluated, message, pid):
    if message.get("umask") is not None:
        os.umask(message["umask"])
    os.environ.update(message.get("env") or {})
    enter(message.get("chdir"), message.get("pythonpath") or [])
    cfg = shims.Config(message.get("cfg") or _from_file(evaluated), evaluated)
    error_log = logs.ErrorLog(message.get("error_log"), cfg.capture_output)
    signal.signal(signal.SIGUSR1, lambda signum, frame: error_log.reopen())
    return shims.Server(pid, logs.set_up(cfg, error_log), cfg, shims.App(cfg, cfg.wsgi_app))


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
    return hooks.call(message["hook"], server.log, *arguments)


def _learn(server, evaluated, facts):
    if "cfg" in facts:
        server.cfg = server.app.cfg = shims.Config(facts["cfg"], evaluated)
        server.address = server.cfg.address
    server.pid = facts.get("pid", server.pid)
    server.num_workers = facts.get("num_workers", server.num_workers)
    if "workers" in facts:
        workers = (shims.Worker(server, each["age"], each["pid"]) for each in facts["workers"])
        server.WORKERS = {worker.pid: worker for worker in workers}
