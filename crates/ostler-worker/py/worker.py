"""A worker: from the fork to the exit.

What a request is, is known to `serve_wsgi` (Rust) and `_ostler.asgi`; this file gives them the
app, the sockets and the thread to run on, and calls gunicorn's worker hooks on the way.
"""

import faulthandler
import os
import signal
import sys
import traceback

import _ostler
from _ostler import appimport, process, reload, timing
from _ostler.failure import IMPORT, Failed, own_traceback
from _ostler.slots import Slots, exit_code

# With this signal the server asks for the stacks of all threads, on standard error.
DUMP_STACKS = signal.SIGRTMIN + 4


def main(control, zygote, shim, id, trouble):
    """The life of a forked worker; does not return. `trouble` is what pre_fork raised, if it did.

    `zygote` is the zygote's state as the fork copied it; `shim` the `worker` object of the hooks.
    """
    life = Life(control, zygote, shim)
    code = 1
    try:
        code = life.run(id, trouble)
    except Failed as failed:
        code = failed.exit
        life.tell(failed.message())
    except SystemExit as stop:
        code = exit_code(stop)
    except BrokenPipeError:
        pass  # the server is gone
    except BaseException:
        traceback.print_exc()
    finally:
        life.end(code)


class Life:
    def __init__(self, control, zygote, shim):
        self.control = control
        self.zygote_pid = zygote.pid
        self.load = zygote.load
        self.hooks = zygote.hooks
        self.server = zygote.server
        self.error_log = zygote.error_log
        self.preloaded = zygote.app
        self.shim = shim
        self.slots = None
        self.writer = timing.Writer(zygote.run, self._say) if zygote.run else None

    def run(self, id, trouble):
        """Boots, serves until every slot has ended, and returns the exit code."""
        self.shim.pid = os.getpid()
        process.die_with_parent(self.zygote_pid)
        process.name("worker", self.load["proc_name"] or self.load["app"], f" [{id}]")
        self._set_signals()
        self._refuse(trouble)
        if self.writer:
            self.writer.start()
        self._refuse(self._hook("post_fork", self.server, self.shim))
        load = self.load
        told = bool(load.get("resumed"))
        app, interface = self.preloaded or appimport.load(load["app"], load["interface"], told)
        self.shim.app.callable = self.shim.wsgi = app
        wire, pid = _ostler.WIRE_VERSION, self.shim.pid
        self.control.send({"type": "booted", "wire": wire, "pid": pid, "interface": interface})
        fds, backlog = self._receive_slots()
        if fds is None:
            return 0
        self._refuse(self._hook("post_worker_init", self.shim))
        if interface == "asgi":
            return self._serve_asgi(app, fds)
        return self._serve_wsgi(app, fds, backlog)

    def end(self, code):
        """Ends the process in order; does not return."""
        process.disregard_signals()
        self.shim.alive = False
        self._hook("worker_exit", self.server, self.shim)
        last = self.writer.finish if self.writer else None
        process.leave(code, self.load["graceful_timeout"], last=last)

    def _say(self, text):
        try:
            self.error_log.stream.write(f"ostler: {text}")
            self.error_log.stream.flush()
        except (OSError, ValueError):
            pass  # there is nowhere left to say it

    def tell(self, message):
        try:
            self.control.send(message)
        except OSError:
            pass  # nobody is left to be told

    # Booting

    def _hook(self, name, *args):
        return self.hooks.call(name, self.server.log, *args)

    @staticmethod
    def _refuse(trouble):
        """Without these hooks a worker is not what its owner wants it to be: it must not serve."""
        if trouble:
            raise Failed(IMPORT, trouble)

    def _receive_slots(self):
        """One descriptor for each slot, or None when the server changed its mind; and that of the
        backlog, if there is one."""
        fds, more, backlog = [], True, None
        while more:
            message, received = self.control.receive()
            if message is None:
                return None, None
            if message["type"] == "backlog":
                [backlog] = received
                continue
            fds += received
            more = message.get("more", False)
        return fds, backlog

    # Serving

    def _ready(self):
        self.shim.booted = True
        if self.load.get("reload"):
            reload.watch(self.control, self.load.get("reload_extra_files") or [])
        self.control.send({"type": "ready"})

    def _serve_wsgi(self, app, fds, backlog):
        self.slots = Slots(self.control, fds, self.load["websocket_threads"])
        pre_request, post_request = self.hooks.around_requests(self.shim)
        options = {
            "multithread": self.load["threads"] > 1,
            "multiprocess": self.load["workers"] > 1,
            "errors": self.error_log.stream,
            "pre_request": pre_request,
            "post_request": post_request,
            "new_slot": self.slots.replace,
            "backlog": backlog,
            "timings": _ostler.timings,
        }
        self.slots.run(lambda fd: _ostler.serve_wsgi(app, fd, options), self._ready)
        return self.slots.code

    def _serve_asgi(self, app, fds):
        from _ostler import asgi

        options = {
            "lifespan": self.load["lifespan"],
            "loop": self.load["loop"],
            "graceful_timeout": self.load["graceful_timeout"],
            "errors": self.error_log.stream,
            "on_ready": self._ready,
            "timings": _ostler.timings,
        }
        try:
            asgi.serve(app, fds, options)
        except asgi.LifespanFailed as error:
            raise Failed(IMPORT, str(error) or own_traceback(error)) from None
        return 0

    # Signals

    def _set_signals(self):
        process.disregard_signals()
        _ostler.take_no_more_on_signal()
        # Before our handlers: it takes SIGABRT too, and dumps every stack before the process dies.
        faulthandler.enable(2, all_threads=True)
        faulthandler.register(DUMP_STACKS, 2, all_threads=True, chain=False)
        signal.signal(signal.SIGTERM, self._on_term)
        signal.signal(signal.SIGINT, self._on_quit)
        signal.signal(signal.SIGQUIT, self._on_quit)
        signal.signal(signal.SIGUSR1, lambda signum, frame: self.error_log.reopen())
        if self.hooks.has("worker_abort"):
            signal.signal(signal.SIGABRT, self._on_abort)

    def _on_term(self, signum, frame):
        """Finish what is being served, then go. (The ASGI loop has a handler of its own.)"""
        if self.slots is None:
            self.end(0)
        self.shim.alive = False
        self.slots.end()

    def _on_quit(self, signum, frame):
        """Go now."""
        self.shim.alive = False
        self._hook("worker_int", self.shim)
        if not self.shim.booted:
            self.end(0)
        # The exception leaves the request on this thread; should the app catch it, the slot ends.
        if self.slots is not None:
            self.slots.end()
        sys.exit(0)

    def _on_abort(self, signum, frame):
        """The server gave this worker up. Its state is unknown, so the app gets no say."""
        self.shim.alive = False
        self.shim.aborted = True
        faulthandler.dump_traceback(2, all_threads=True)
        self._hook("worker_abort", self.shim)
        self.end(1)
