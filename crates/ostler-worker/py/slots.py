"""The slots of a WSGI worker: one socket and one thread each.

With one slot the app runs on the main thread, where most apps are used to run. A slot whose socket the app
took for itself (a WebSocket) is replaced by a new one with a thread of its own.
"""

import socket
import threading
import traceback

import _ostler


class Slots:
    """`serve(fd)` is called on each socket and returns at its end, or at the end of the
    conversation for which the app took it. At most `most_extra` replacements run at a time."""

    def __init__(self, control, fds, most_extra):
        self._control = control
        self._sockets = dict.fromkeys(socket.socket(fileno=fd) for fd in fds)
        self._threads = {}  # those that run, in order of their start
        self._most_extra = most_extra
        self._extra = 0
        self._counting = threading.Lock()  # guards _extra
        self._thread = threading.local()
        self._ending = False
        self._serve = None
        self.code = 0  # what the worker should exit with

    def run(self, serve, on_ready):
        """Serves until every slot has ended. Signals are handled meanwhile: the main thread serves
        or joins, and both let Python's handlers run."""
        self._serve = serve
        slots = list(self._sockets)
        alone = slots.pop() if len(slots) == 1 else None
        for sock in slots:
            self._start(sock)
        on_ready()
        if alone is not None:
            self._run_slot(alone)
        while thread := next(iter(self._threads.copy()), None):
            thread.join()

    def end(self):
        """Each slot ends after the request it serves: nothing more comes in. For signal handlers:
        takes no lock."""
        self._ending = True
        _ostler.take_no_more()
        for sock in list(self._sockets):
            try:
                sock.shutdown(socket.SHUT_RD)
            except OSError:
                pass  # the peer has ended it, or its thread just has

    def replace(self):
        """The app is about to take the calling thread's socket for itself: another slot takes its
        place. Raises OSError when that cannot be; the app may not have the socket then."""
        if self._ending:
            return
        with self._counting:
            if self._extra >= self._most_extra:
                raise ConnectionRefusedError(
                    f"all {self._most_extra} WebSocket threads of this worker are in use"
                )
            self._extra += 1
        self._thread.replaced = True
        self._start(self._offer())

    def _start(self, sock):
        name = f"ostler-slot-{sock.fileno()}"
        thread = threading.Thread(target=self._run_thread, args=(sock,), name=name, daemon=True)
        self._threads[thread] = None
        thread.start()

    def _run_thread(self, sock):
        try:
            self._run_slot(sock)
        except SystemExit as stop:
            # The app ends its process, from a thread where Python would only end the thread.
            self.code = exit_code(stop)
            self.end()
        finally:
            self._threads.pop(threading.current_thread(), None)

    def _run_slot(self, sock):
        self._thread.replaced = False
        try:
            self._serve(sock.fileno())
        except Exception:
            # The app's exceptions end in the request loop: this one is ours, and what the worker
            # would do next cannot be known. The other slots finish, then it is replaced.
            traceback.print_exc()
            self.code = 1
            self.end()
        finally:
            self._sockets.pop(sock, None)
            sock.close()
            with self._counting:
                self._extra -= self._thread.replaced

    def _offer(self):
        """A new slot: our end; the server gets the other."""
        ours, theirs = socket.socketpair()
        with theirs:
            self._control.send({"type": "slot"}, [theirs.fileno()])
        self._sockets[ours] = None
        return ours


def exit_code(stop):
    """The code that the interpreter would exit with after `stop`, a SystemExit."""
    if stop.code is None or isinstance(stop.code, int):
        return stop.code or 0
    return 1
