"""The socket under environ["werkzeug.socket"]: the connection itself, once it is used.

Only its first use tells the server that the app takes the connection over. Until then the slot
serves requests as usual, and looking at environ (a debug page, a log line) changes nothing.
"""

import socket


class HijackSocket(socket.socket):
    """A real socket on the slot's connection."""

    # Class attributes, because socket.dup() and accept() build instances without our constructor.
    _begin = None

    @classmethod
    def waiting(cls, fd, begin):
        """A socket that owns fd and calls begin() before its first use."""
        # Family and type are stated, so that the constructor does not ask the descriptor.
        self = cls(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=fd)
        self._begin = begin
        return self

    def _take_over(self):
        begin = self._begin
        if begin is not None:
            # Forgotten only when it has worked: a refusal stays a refusal on the next try.
            begin()
            self._begin = None

    def __repr__(self):
        # The inherited one asks for fileno(), which is a use.
        return f"<{type(self).__name__} {'waiting' if self._begin else 'in use'}>"

    def detach(self):
        self._take_over()
        return super().detach()

    def fileno(self):
        # A closed socket may be asked (as selectors do) without taking anything over.
        if super().fileno() != -1:
            self._take_over()
        return super().fileno()


def _using(name):
    inherited = getattr(socket.socket, name)

    def method(self, *args, **kwargs):
        self._take_over()
        return inherited(self, *args, **kwargs)

    method.__name__ = name
    method.__qualname__ = f"HijackSocket.{name}"
    return method


for _name in (
    "getpeername",
    "getsockname",
    "getsockopt",
    "makefile",
    "recv",
    "recv_into",
    "recvfrom",
    "recvfrom_into",
    "recvmsg",
    "recvmsg_into",
    "send",
    "sendall",
    "sendfile",
    "sendmsg",
    "setblocking",
    "setsockopt",
    "settimeout",
    "shutdown",
):
    setattr(HijackSocket, _name, _using(_name))
