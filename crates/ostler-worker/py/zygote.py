"""The zygote: the process from which the workers of one generation are forked.

It evaluates gunicorn.conf.py, imports the app once when that can be shared, forks, reaps and
reports. One thread, one poll loop. It knows nothing of requests, addresses or time-outs; when its
control socket ends it kills its workers and goes.
"""

import gc
import os
import select
import signal
import socket
import sys
import traceback

import _ostler
from _ostler import appimport, hooks, logs, process, settings, sharing, shims, timing, worker
from _ostler.control import Control
from _ostler.failure import CONFIG, IMPORT, Failed

# Seconds that threads and exit handlers of a preloaded app may take when the zygote ends.
_PATIENCE = 5

# In the environment of a zygote that started over: the descriptor with the messages to read first.
_RESUME = "_OSTLER_RESUME"


def main(fd):
    """Holds the conversation on the control socket `fd` until it ends; does not return."""
    zygote = Zygote(Control(fd))
    code = 1
    try:
        zygote.converse()
        code = 0
    except Failed as failed:
        code = failed.exit
        zygote.tell(failed.message())
    except BrokenPipeError:
        pass  # nobody is left to be told
    except BaseException:
        traceback.print_exc()
    finally:
        # Workers that are still there were not told to end: nobody looks after what they started.
        process.leave(code, _PATIENCE, group=zygote.kill_workers())


class Child:
    """A forked process: what the server calls it (None for the hook process), and the pidfd that
    tells its end."""

    def __init__(self, id, pid, pidfd):
        self.id = id
        self.pid = pid
        self.pidfd = pidfd


class Zygote:
    def __init__(self, control):
        self.control = control
        self.pid = os.getpid()
        self.parent = os.getppid()
        self.command = _command()
        self.extension = _extension()
        self.workers = {}  # the Child of each, by pidfd
        self.hook_process = None  # a Child
        self.configure = None  # the `configure` message
        self.evaluated = None
        self.load = None  # the `load` message
        self.hooks = None
        self.server = None
        self.error_log = None
        self.keeper = None  # how its runs name it
        self.run = None  # where calls are timed
        self.app = None  # (app, interface) once imported here
        self.retiring = False
        self.poll = select.poll()
        self.poll.register(control, select.POLLIN)

    # The conversation

    def converse(self):
        process.disregard_signals()
        process.die_with_parent(self.parent, group=True)
        process.name("zygote", "")
        # Lines appear when they are printed, also in a file or a pipe.
        sys.stdout.reconfigure(line_buffering=True)
        resume = os.environ.pop(_RESUME, None)
        if resume is not None:
            self._resume(Control(int(resume)))
        else:
            self.control.send(self._hello())
        while not (self.retiring and not self.workers):
            for fd, _ in self.poll.poll():
                if fd != self.control.fileno():
                    self._reap(fd)
                elif not self._obey(*self.control.receive()):
                    return

    def _hello(self):
        version = ".".join(map(str, sys.version_info[:3]))
        return {
            "type": "hello",
            "wire": _ostler.WIRE_VERSION,
            "pid": self.pid,
            "python": version,
            "executable": sys.executable,
        }

    def _obey(self, message, fds):
        """Does what a message says; False at the end of the conversation."""
        if message is None:
            return False
        kind = message["type"]
        if kind == "configure":
            self._configure(message)
            self.control.send(self.evaluated.message())
        elif kind == "hooks":
            self._fork_hook_process(message, *fds)
        elif kind == "load":
            self._load(message)
        elif kind == "fork":
            self._fork(message, *fds)
        elif kind == "retire":
            self.retiring = True
        else:
            raise Failed(CONFIG, f"the zygote does not know the message {kind}")
        return True

    def _configure(self, message):
        self.configure = message
        self.evaluated = settings.evaluate(message)
        self.hooks = hooks.Hooks(self.evaluated)

    # Loading

    def _load(self, message):
        self.load = message
        self._know_server(message)
        try:
            process.switch_user(message["user"], message["group"], message["groups"])
        except OSError as error:
            user = f"user {message['user']}, group {message['group']}"
            raise Failed(CONFIG, f"cannot become {user}: {error.strerror}") from None
        process.die_with_parent(self.parent, group=True)
        self._prepare(message)
        self._claim_run(message)
        preloaded, why_not = self._preload(message)
        gc.collect()
        gc.freeze()
        # The import may have taken the signals; the workers set their own.
        process.disregard_signals()
        signal.signal(signal.SIGUSR1, lambda signum, frame: self.error_log.reopen())
        if self.extension is not None:
            os.close(self.extension)
            self.extension = None
        interface = self.app[1] if preloaded else message.get("interface")
        self.control.send(
            {
                "type": "loaded",
                "preloaded": preloaded,
                "why_not": why_not,
                "interface": None if interface == "auto" else interface,
            }
        )

    def _prepare(self, message):
        """Everything an app may look at while it is imported."""
        if message["umask"] is not None:
            os.umask(message["umask"])
        os.environ.update(message["env"])
        settings.enter(message["chdir"], message["pythonpath"])
        sys.argv[:] = ["ostler", "run", message["app"]]
        process.name("zygote", message["proc_name"] or message["app"])
        cfg = shims.Config(message["cfg"], self.evaluated)
        self.error_log = logs.ErrorLog(message["error_log"], message["capture_output"])
        log = logs.set_up(cfg, self.error_log)
        self.server = shims.Server(self.parent, log, cfg, shims.App(cfg, message["app"]))
        self.server.num_workers = message["workers"]

    def _know_server(self, message):
        """Before the change of user: a process of another one may be hidden (proc(5), hidepid)."""
        if "resumed" in message:
            self.keeper = message["resumed"]["keeper"]
        elif message.get("perf"):
            self.keeper = timing.identity(self.parent)

    def _claim_run(self, message):
        """An app whose calls cannot be timed serves all the same."""
        perf = message.get("perf")
        if not perf:
            return
        try:
            self.run = timing.claim(perf, self.keeper, {"app": message["app"]})
        except OSError as error:
            timing.warn(self.error_log.stream, error, perf["folder"])

    def _preload(self, message):
        """Imports the app for all workers: `(preloaded, why not or what is odd about it)`."""
        mode, resumed = message["preload"], message.get("resumed")
        if mode == "off" or (mode == "auto" and message["interface"] == "asgi"):
            return False, resumed and resumed["why_not"]
        environment, files = dict(os.environ), sharing.open_files()
        self.app = appimport.load(message["app"], message["interface"])
        found = sharing.left_behind(files)
        why_not = None
        if found:
            why_not = f"its import left behind {', '.join(found[:8])}"
        if mode == "auto" and (found or self.app[1] == "asgi"):
            error = self._start_over(environment, why_not)
            why_not = f"{why_not or 'it is an ASGI app'}, but the zygote cannot start over: {error}"
        return True, why_not

    # Starting over: an app that must be imported in each worker has been imported here by the time
    # that is known. Its traces go when the process executes Python anew, under the same pid.

    def _start_over(self, environment, why_not):
        """Executes Python again, with the messages so far to be read first. Returns only on
        failure, with the error."""
        if not os.path.exists(_ostler.__file__):
            return "its extension is not open any more"
        hook_process = self.hook_process and [self.hook_process.pid, self.hook_process.pidfd]
        resumed = {"why_not": why_not, "hook_process": hook_process, "keeper": self.keeper}
        load = {**self.load, "preload": "off", "interface": self.app[1], "resumed": resumed}
        # The user is switched already, and the one who could do it again is gone.
        load.update(user=None, group=None)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # Both messages wait in the socket while nobody reads.
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        sender = Control(ours.detach())
        sender.send(self.configure)
        sender.send(load)
        kept = [self.control.fileno(), theirs.fileno(), self.extension]
        if hook_process:
            kept.append(self.hook_process.pidfd)
        _set_inheritable(kept, True)
        try:
            environment[_RESUME] = str(theirs.fileno())
            os.execve(sys.executable, self.command, environment)
        except OSError as error:
            _set_inheritable(kept, False)
            return error.strerror

    def _resume(self, messages):
        configure, _ = messages.receive()
        load, _ = messages.receive()
        messages.close()
        self._configure(configure)
        if load["resumed"]["hook_process"]:
            pid, pidfd = load["resumed"]["hook_process"]
            _set_inheritable([pidfd], False)
            self._watch_hook_process(pid, pidfd)
        self._load(load)

    # Children

    def _fork_hook_process(self, message, fd):
        pid = self._split()
        if pid == 0:
            hooks.run_hook_process(Control(fd), self.evaluated, message, self.parent)
        os.close(fd)
        self._watch_hook_process(pid, _ostler.pidfd_open(pid))

    def _watch_hook_process(self, pid, pidfd):
        self.hook_process = Child(None, pid, pidfd)
        self.poll.register(pidfd, select.POLLIN)

    def _fork(self, message, fd):
        shim = shims.Worker(self.server, message["age"])
        trouble = self.hooks.call("pre_fork", self.server.log, self.server, shim)
        try:
            pid = self._split()
        except OSError as error:
            self._report_no_fork(message["worker"], fd, error)
            return
        if pid == 0:
            worker.main(Control(fd), self, shim, message["worker"], trouble)
        os.close(fd)
        shim.pid = pid
        self.server.WORKERS[pid] = shim
        self.server.worker_age = message["age"]
        child = Child(message["worker"], pid, _ostler.pidfd_open(pid))
        self.workers[child.pidfd] = child
        self.control.send({"type": "forked", "worker": child.id, "pid": pid}, [child.pidfd])
        self.poll.register(child.pidfd, select.POLLIN)

    def _report_no_fork(self, id, fd, error):
        failed = Failed(IMPORT, f"cannot fork: {error.strerror}")
        control = Control(fd)
        control.send(failed.message())
        control.close()
        self.control.send({"type": "exited", "worker": id, "pid": 0, "status": IMPORT << 8})

    def _split(self):
        """Forks. The child, to whom 0 is returned, lets go of what belongs to the zygote alone."""
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid != 0:
            return pid
        self.control.close()
        for pidfd in self.workers:
            os.close(pidfd)
        self.workers = {}
        if self.hook_process is not None:
            os.close(self.hook_process.pidfd)
        if self.extension is not None:
            os.close(self.extension)
        return 0

    def _reap(self, pidfd):
        """Waits only for what we forked: the processes that the app started are the app's."""
        self.poll.unregister(pidfd)
        child = self.workers.pop(pidfd, self.hook_process)
        _, status = os.waitpid(child.pid, 0)
        os.close(pidfd)
        if child is self.hook_process:
            self.hook_process = None
            return
        self.server.WORKERS.pop(child.pid, None)
        self.control.send(
            {"type": "exited", "worker": child.id, "pid": child.pid, "status": status}
        )

    def tell(self, message):
        try:
            self.control.send(message)
        except OSError:
            pass  # nobody is left to be told

    def kill_workers(self):
        """True when there were any."""
        for child in self.workers.values():
            os.kill(child.pid, signal.SIGKILL)
        for child in self.workers.values():
            os.waitpid(child.pid, 0)
        return bool(self.workers)


def _command():
    """The command line of this process, before its title takes its place."""
    with open("/proc/self/cmdline", "rb") as file:
        return file.read().split(b"\0")[:-1]


def _set_inheritable(fds, inheritable):
    for fd in fds:
        if fd is not None:
            os.set_inheritable(fd, inheritable)


def _extension():
    """The descriptor the extension was loaded from, which a Python that starts over loads it from
    again. None when it was loaded from a file, or when whoever loaded it has closed it."""
    directory, _, fd = _ostler.__file__.rpartition("/")
    if directory != "/proc/self/fd" or not os.path.exists(_ostler.__file__):
        return None
    os.set_inheritable(int(fd), False)
    return int(fd)
