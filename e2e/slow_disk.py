"""A disk that answers when the test says so, and a kernel that never tells what it has in memory.

A seccomp filter stands before the program and everything it starts. `openat2` is forbidden (as in older
containers) and `preadv2` is not supported (as on overlayfs), so that each look at a file may wait. Each `pread`
asks here first: one that reads a held file is let go when the test releases it.

Run as a program, it installs the filter in itself, sends the listening end over the socket whose descriptor is
its first argument, and becomes the command that follows.
"""

from __future__ import annotations

import array
import ctypes
import errno
import fcntl
import os
import platform
import select
import socket
import struct
import sys
import threading

OPENAT2, PREADV2, PREAD, SECCOMP = {"x86_64": (437, 327, 17, 317), "aarch64": (437, 286, 67, 277)}[platform.machine()]

PR_SET_NO_NEW_PRIVS = 38
SET_MODE_FILTER, NEW_LISTENER = 1, 8
ALLOW, ASK, FAIL = 0x7FFF0000, 0x7FC00000, 0x00050000
"""What a filter says (linux/seccomp.h)."""

RECEIVE, SEND = 0xC0502100, 0xC0182101
"""The calls of a listener: `SECCOMP_IOCTL_NOTIF_RECV` and `_SEND`."""

QUESTION = struct.Struct("=QIIiIQ6Q")
ANSWER = struct.Struct("=QqiI")
CONTINUE = 1

ANSWER_SECONDS = 20.0


class SlowDisk:
    """Every `pread` of the processes behind it, each answered on a thread of its own loop."""

    def __init__(self) -> None:
        self._ours, self.theirs = socket.socketpair()
        self._changed = threading.Condition()
        self._slow: str | None = None
        self._held: list[int] = []
        self._listener = -1

    def wrap(self, command: list[str]) -> list[str]:
        return [sys.executable, __file__, str(self.theirs.fileno()), *command]

    def attach(self) -> None:
        """Takes the listening end over, once the program runs."""
        self._ours.settimeout(ANSWER_SECONDS)
        descriptors = array.array("i")
        _, ancillary, _, _ = self._ours.recvmsg(1, socket.CMSG_SPACE(descriptors.itemsize))
        descriptors.frombytes(ancillary[0][2])
        self._listener = descriptors[0]
        self._ours.close()
        self.theirs.close()
        threading.Thread(target=self._answer, daemon=True).start()

    def hold(self, path) -> None:
        """From now on who reads this file waits."""
        with self._changed:
            self._slow = os.path.realpath(path)

    def wait_held(self) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self._held, ANSWER_SECONDS), "nobody reads the file"

    def release(self) -> None:
        with self._changed:
            self._slow = None
            held, self._held = self._held, []
        for question in held:
            self._let(question)

    def _answer(self) -> None:
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        while all(not event & select.POLLHUP for _, event in poll.poll()):
            question = bytearray(QUESTION.size)
            try:
                fcntl.ioctl(self._listener, RECEIVE, question)
            except OSError:
                continue  # Who asked was killed meanwhile.
            number, thread, *_, descriptor = QUESTION.unpack(question)[:7]
            with self._changed:
                if self._slow is not None and self._slow == self._file(thread, descriptor):
                    self._held.append(number)
                    self._changed.notify_all()
                    continue
            self._let(number)
        os.close(self._listener)

    def _let(self, number: int) -> None:
        try:
            fcntl.ioctl(self._listener, SEND, ANSWER.pack(number, 0, 0, CONTINUE))
        except OSError as error:
            if error.errno != errno.ENOENT:  # Who asked was killed meanwhile.
                raise

    @staticmethod
    def _file(thread: int, descriptor: int) -> str | None:
        try:
            return os.readlink(f"/proc/{thread}/fd/{descriptor}")
        except OSError:
            return None


class Step(ctypes.Structure):
    """One instruction of a filter (linux/filter.h)."""

    _fields_ = [("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte), ("k", ctypes.c_uint)]


class Program(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("steps", ctypes.POINTER(Step))]


def install() -> int:
    """Puts the filter before this process; the listening end."""
    load, equal, give = 0x20, 0x15, 0x06
    verdicts = [(OPENAT2, FAIL | errno.EPERM), (PREADV2, FAIL | errno.EOPNOTSUPP), (PREAD, ASK)]
    steps = [Step(load, 0, 0, 0)]
    for number, verdict in verdicts:
        steps += [Step(equal, 0, 1, number), Step(give, 0, 0, verdict)]
    steps.append(Step(give, 0, 0, ALLOW))
    libc = ctypes.CDLL(None, use_errno=True)
    program = Program(len(steps), (Step * len(steps))(*steps))
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    listener = libc.syscall(SECCOMP, SET_MODE_FILTER, NEW_LISTENER, ctypes.byref(program))
    if listener < 0:
        raise OSError(ctypes.get_errno(), "seccomp")
    return listener


if __name__ == "__main__":
    channel = socket.socket(fileno=int(sys.argv[1]))
    listener = install()
    channel.sendmsg([b"."], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [listener]))])
    channel.close()
    os.close(listener)
    os.execv(sys.argv[2], sys.argv[2:])
