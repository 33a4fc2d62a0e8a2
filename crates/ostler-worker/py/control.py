"""JSON messages, with descriptors beside them, over an AF_UNIX SOCK_SEQPACKET socket.

One object per message. This file knows nothing of what the messages mean.
"""

import array
import json
import os
import socket

# The longest message either end sends, in bytes.
MAX_MESSAGE = 128 * 1024

# Descriptors in one message; the kernel takes at most 253 (SCM_MAX_FD).
MAX_FDS = 200


class Control:
    """One end of a conversation."""

    def __init__(self, fd):
        self._socket = socket.socket(fileno=fd)
        self._socket.setblocking(True)
        self._socket.set_inheritable(False)

    def fileno(self):
        return self._socket.fileno()

    def close(self):
        self._socket.close()

    def send(self, message, fds=()):
        """Sends one message. The descriptors stay ours: the kernel passes copies."""
        # A lone surrogate (a file name that is not UTF-8) has no place in JSON.
        data = json.dumps(message, ensure_ascii=False).encode("utf-8", "replace")
        if len(data) > MAX_MESSAGE:
            raise ValueError(f"a {message['type']} message of {len(data)} bytes")
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self._socket.sendmsg([data], rights)

    def receive(self):
        """Waits for one message: `(message, fds)`, or `(None, [])` when the peer is gone."""
        try:
            data, ancillary, flags, _ = self._socket.recvmsg(
                MAX_MESSAGE, socket.CMSG_SPACE(MAX_FDS * 4), socket.MSG_CMSG_CLOEXEC
            )
        except ConnectionResetError:  # it left without reading what we sent
            return None, []
        fds = array.array("i")
        for level, kind, payload in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            for fd in fds:
                os.close(fd)
            raise ValueError("a control message was cut short")
        if not data:
            return None, []
        return json.loads(data), list(fds)
