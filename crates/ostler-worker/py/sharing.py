"""What an import has left behind that forked workers must not share.

gunicorn imports an app in each worker unless it is told otherwise, so most apps were never run any
other way. Importing once is safe to do unasked only where nobody can tell the difference.
"""

import fcntl
import gc
import os
import socket
import stat
import sys

from _ostler import process


def open_files():
    """The descriptors of this process."""
    return {int(fd) for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")}


def left_behind(files_before):
    """A line for each thing that must not be shared; `files_before` were open before the import."""
    found = [f"the thread {name}" for name in process.other_threads()]
    found += _identities()
    for fd in sorted(open_files() - files_before):
        try:
            found.append(_unshareable(fd))
        except OSError:
            pass  # closed meanwhile
    return [line for line in found if line]


def _identities():
    """A Socket.IO server that is joined with others by a message queue passes over what comes from
    itself, which it tells by a number that it drew when it was made."""
    modules = (sys.modules.get(f"socketio.{name}") for name in ("pubsub_manager", "async_pubsub_manager"))
    names = ("PubSubManager", "AsyncPubSubManager")
    managers = tuple(getattr(module, name) for module in modules for name in names if hasattr(module, name))
    if managers and any(issubclass(type(thing), managers) for thing in gc.get_objects()):
        return ["the number by which its Socket.IO server is told from others"]
    return []


def _unshareable(fd):
    """A connection answers whoever reads first; workers that wait on one event loop take each
    other's events; SQLite and its kind lose their locks and their place in the file (sqlite.org,
    "How To Corrupt", 2.6). A log, opened for appending, and datagrams can be shared."""
    mode, name = os.fstat(fd).st_mode, os.readlink(f"/proc/self/fd/{fd}")
    if stat.S_ISSOCK(mode):
        return _connection(fd)
    if name == "anon_inode:[eventpoll]":
        return "an event loop"
    access = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE
    if stat.S_ISREG(mode) and access == os.O_RDWR:
        return f"the open file {name}"
    return None


def _connection(fd):
    with socket.socket(fileno=os.dup(fd)) as sock:
        if sock.type == socket.SOCK_DGRAM:
            return None
        try:
            peer = sock.getpeername()
        except OSError:
            return None  # not connected
    if isinstance(peer, tuple):
        return "a connection to {}:{}".format(*peer)
    return f"a connection to {os.fsdecode(peer) or 'a socket without a name'}"
