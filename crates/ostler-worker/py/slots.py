"""The slots of a WSGI worker: one socket and one thread each.

With one slot the app runs on the main thread, where the most apps work. A slot whose socket the app
took for itself (a WebSocket) is replaced by a new one with a thread of its own.
"""

import socket
import sys
import threading
import traceback


class Slots:
    """`serve(fd)` is called on each socket and returns at its end, or at the end of the
    conversation for which the app took it. At most `most_extra` replacements run at a time."""

    def __init__(self, control, fds, most_extra):
        self._control = control
        self._sockets = dict.fromkeys(socket.socket(fileno=fd) for fd in fds)
        self._threads = []
        self._most_extra = most_extra
        self._extra = 0
        self._counting = threading.Lock()  # guards _extra
        self._thread = threading.local()
        self._ending = False
        self._serve = None
        self.failed = False

    def fds(self):
        return [sock.fileno() for sock in self._sockets]

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
        while self._threads:
            self._threads.pop(0).join()

    def end(self):
        """Each slot ends after the request it serves: nothing more comes in. For signal handlers:
        takes no lock."""
        self._ending = True
        for sock in list(self._sockets):
            try:
                sock.shutdown(socket.SHUT_RD)
            except OSError:
                pass  # the peer has ended it, or its thread just has

    def replace(self):
        """The app takes the calling thread's socket: True when another slot took its place at once.
        Otherwise its own thread makes a new one when it comes back."""
        with self._counting:
            replaced = self._extra < self._most_extra and not self._ending
            self._extra += replaced
        if replaced:
            sock = self._offer()
            replaced = sock is not None
            if replaced:
                self._start(sock)
        self._thread.replaced = replaced
        return replaced

    def _start(self, sock):
        name = f"ostler-slot-{sock.fileno()}"
        thread = threading.Thread(target=self._run_slot, args=(sock,), name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _run_slot(self, sock):
        while sock is not None:
            self._thread.replaced = None  # the socket was not taken
            try:
                self._serve(sock.fileno())
            except Exception:
                # The app's exceptions end in the request loop: this one is ours, and what the
                # worker would do next cannot be known. The others finish, then it is replaced.
                traceback.print_exc()
                self.failed = True
                self.end()
            self._sockets.pop(sock, None)
            sock.close()
            sock = self._next()

    def _next(self):
        """After a slot's end: another socket when this thread owes the worker one."""
        replaced = self._thread.replaced
        if replaced:
            with self._counting:
                self._extra -= 1
        elif replaced is not None and not self._ending:
            return self._offer()
        return None

    def _offer(self):
        """A new slot: our end, the other sent to the server. None when the server is gone."""
        ours, theirs = socket.socketpair()
        try:
            self._control.send({"type": "slot"}, [theirs.fileno()])
        except OSError as error:
            print(f"ostler: cannot offer a slot: {error}", file=sys.stderr)
            ours.close()
            return None
        finally:
            theirs.close()
        self._sockets[ours] = None
        return ours
