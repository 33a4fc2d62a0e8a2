"""Stands in for the Rust request loop, so that these tests are about the life of the process alone.

Executed inside the zygote before it starts. A request is a line on the slot socket, a path; the
answer is the body as one line. `/hijack` takes the socket until the peer sends a line more.
"""

import socket
import sys
import types

import _ostler


def serve_wsgi(app, fd, options):
    sock = socket.socket(fileno=socket.dup(fd))
    lines = sock.makefile("rb")
    for line in lines:
        path = line.decode().strip()
        environ = {
            "REQUEST_METHOD": "GET",
            "PATH_INFO": path,
            "REMOTE_ADDR": "192.0.2.1",
            "wsgi.multithread": options["multithread"],
            "wsgi.multiprocess": options["multiprocess"],
            "wsgi.errors": options["errors"],
        }
        if path == "/wire-error":
            raise ValueError("a frame that cannot be")
        if path == "/hijack":
            try:
                options["new_slot"]()
            except OSError as error:
                sock.sendall(f"{error}\n".encode())
                continue
            sock.sendall(b"replaced\n")
            lines.readline()
            return
        statuses = []
        if options["pre_request"]:
            request = types.SimpleNamespace(method="GET", path=path)
            options["pre_request"](request, environ)
        body = b"".join(app(environ, lambda status, headers: statuses.append(int(status[:3]))))
        if options["post_request"]:
            options["post_request"](environ, statuses[0])
        sock.sendall(body + b"\n")


class LifespanFailed(Exception):
    pass


def serve_asgi(app, fds, options):
    """Answers each line with the options; ends when every channel has ended."""
    if options["lifespan"] == "on":
        raise LifespanFailed("the database is not there")
    options["on_ready"]()
    for fd in fds:
        sock = socket.socket(fileno=fd)
        for line in sock.makefile("rb"):
            sock.sendall(f"{len(fds)} {options['loop']} {options['graceful_timeout']}\n".encode())


_ostler.serve_wsgi = serve_wsgi
_ostler.asgi = sys.modules["_ostler.asgi"] = types.ModuleType("_ostler.asgi")
_ostler.asgi.serve = serve_asgi
_ostler.asgi.LifespanFailed = LifespanFailed
