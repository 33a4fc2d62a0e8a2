"""Which Python runs the app, that every one of them does, and those that do not do."""

import os
import shutil
import signal
import subprocess
import sys

import pytest

HELLO = """
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "5")])
    return [b"hello"]
"""
ASGI_HELLO = """
async def app(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"hello"})
"""


def fails(host, exit_code, *patterns):
    """The host ends by itself with this code, having said all this."""
    assert host.wait_exit(30) == exit_code, host.log
    for pattern in patterns:
        assert host.log.matches(pattern), f"no {pattern!r} in\n{host.log}"


# Which


def test_venv_beside_the_app_is_found(host, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / ".venv"], check=True)
    running = host(source=HELLO.replace('b"hello"', "__import__('sys').prefix.encode()").replace('"5"', "str(len(__import__('sys').prefix))"), python=None)
    assert running.get("/").text == str(tmp_path / ".venv")


def test_virtual_env_is_used(host, tmp_path):
    home = tmp_path / "elsewhere"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
    source = HELLO.replace('b"hello"', "__import__('sys').prefix.encode()").replace('"5"', "str(len(__import__('sys').prefix))")
    assert host(source=source, python=None, env={"VIRTUAL_ENV": str(home)}).get("/").text == str(home)


def other_pythons():
    """Every other CPython that this machine has: `python3.N` on the path, and pyenv's."""
    found = {}
    candidates = [shutil.which(f"python3.{minor}") for minor in range(9, 16)]
    root = os.environ.get("PYENV_ROOT", os.path.expanduser("~/.pyenv"))
    for folder in sorted(os.listdir(f"{root}/versions")) if os.path.isdir(f"{root}/versions") else []:
        candidates.append(f"{root}/versions/{folder}/bin/python")
    for candidate in filter(None, candidates):
        if not os.access(candidate, os.X_OK):
            continue
        out = subprocess.run([candidate, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], capture_output=True, text=True)
        if out.returncode == 0:
            found.setdefault(out.stdout.strip(), candidate)
    return found


PYTHONS = other_pythons()
OLD = {v: p for v, p in PYTHONS.items() if tuple(map(int, v.split("."))) < (3, 9)}
GOOD = {v: p for v, p in PYTHONS.items() if v not in OLD}


WSGI_CORE = """
import sys, tempfile
from wsgiref.validate import validator
def plain(environ, start_response):
    path, body = environ["PATH_INFO"], environ["wsgi.input"]
    if path == "/lines":
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [repr([body.readline(), body.readline(2), list(body), body.read(5)]).encode()]
    if path == "/write":
        write = start_response("201 Made", [("Content-Type", "text/plain"), ("X-Latin", "caf\\xe9")])
        write(b"written ")
        return [b"and returned"]
    if path == "/file":
        file = tempfile.TemporaryFile()
        file.write(b"x" * 100000)
        file.seek(10)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return environ["wsgi.file_wrapper"](file)
    if path == "/excinfo":
        start_response("200 OK", [("Content-Type", "text/plain")])
        try:
            raise KeyError
        except KeyError:
            start_response("503 Down", [("Content-Type", "text/plain")], sys.exc_info())
        return [b"down"]
    if path == "/raise":
        raise RuntimeError("from the app")
    start_response("200 OK", [("Content-Type", "text/plain")])
    return (part.encode() for part in ("a", "", "b", path, environ["QUERY_STRING"]))
checked = validator(plain)
def app(environ, start_response):
    # The validator knows neither write after a list nor wrapped files.
    return (plain if environ["PATH_INFO"] in ("/file", "/write") else checked)(environ, start_response)
"""
ASGI_CORE = """
events = []
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        assert (await receive())["type"] == "lifespan.startup"
        scope["state"]["started"] = True
        await send({"type": "lifespan.startup.complete"})
        assert (await receive())["type"] == "lifespan.shutdown"
        print("lifespan ended", flush=True)
        return await send({"type": "lifespan.shutdown.complete"})
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"].upper()})
        return
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message["body"], message["more_body"]
    if scope["path"] == "/raise":
        raise RuntimeError("from the app")
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-started", str(scope["state"]["started"]).encode())]})
    for part in (scope["method"].encode(), b" ", scope["raw_path"], b" ", str(len(body)).encode()):
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body"})
"""


def post(running, path, *chunks):
    """A chunked request."""
    body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))
    with running.raw() as raw:
        raw.send(f"POST {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".encode() + body)
        return raw.answer()


@pytest.mark.parametrize("version", GOOD)
def test_conformance_core_on_every_python(host, version):
    running = host("app:app", "-w", "2", "--threads", "2", source=WSGI_CORE, python=GOOD[version])
    assert f"Python {version}" in str(running.log)
    assert running.get("/a%20b?q").text == "ab/a bq"
    lines = post(running, "/lines", b"one\ntw", b"o\nthree\nfour")
    assert eval(lines.body) == [b"one\n", b"tw", [b"o\n", b"three\n", b"four"], b""], lines
    written = running.get("/write")
    assert (written.status, written.reason, written.body) == (201, "Made", b"written and returned")
    assert written.header("X-Latin") == "caf\xe9"
    assert running.get("/file").body == b"x" * 99990
    assert (running.get("/excinfo").status, running.get("/excinfo").body) == (503, b"down")
    assert running.get("/raise").status == 500
    assert running.request("HEAD", "/x").body == b""
    os.kill(running.workers()[0].pid, signal.SIGKILL)
    assert all(running.get("/").text == "ab/" for _ in range(10))
    running.kill(signal.SIGHUP)
    running.log.wait("reload", 20)
    assert all(running.get("/").text == "ab/" for _ in range(10))
    assert not running.log.matches("AssertionError"), "wsgiref.validate is content"


@pytest.mark.parametrize("version", GOOD)
def test_asgi_core_on_every_python(host, version):
    from websockets.sync.client import connect

    running = host("app:app", "-w", "2", source=ASGI_CORE, python=GOOD[version])
    answer = post(running, "/a%20b", b"x" * 70000, b"y" * 70000)
    assert (answer.text, answer.header("x-started")) == ("POST /a%20b 140000", "True")
    assert running.get("/raise").status == 500
    with connect(f"ws://127.0.0.1:{running.port}/") as socket:
        socket.send("hello")
        assert socket.recv() == "HELLO"
    os.kill(running.workers()[0].pid, signal.SIGKILL)
    assert all(running.get("/").text == "GET / 0" for _ in range(10))
    assert running.stop() == 0 and running.log.matches("lifespan ended")


@pytest.mark.parametrize("version", OLD)
def test_old_python_is_one_clear_line_and_exit_2(host, version):
    failed = host(source=HELLO, python=OLD[version], ready=False)
    assert failed.wait_exit(20) == 2, failed.log
    assert failed.log.matches(r"3\.9"), failed.log
    assert not failed.log.matches("Traceback")


# Pythons that do not do


def fake_python(folder, setup):
    """A Python that finds this in itself at its start."""
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(setup)
    script = folder / "python"
    script.write_text(f'#!/bin/sh\nPYTHONPATH={folder}/site exec {sys.executable} "$@"\n')
    script.chmod(0o755)
    return script


@pytest.mark.parametrize("setup, said", [
    ("import sys\nsys.abiflags = 't'\n", "is a free-threaded build"),
    ("import sys\nsys.implementation.name = 'pypy'\n", "is pypy, not CPython"),
    ("import sys\nsys.implementation._multiarch = 'x86_64-linux-musl'\n", "is built for musl"),
    ("import sys\nsys.version_info = (2, 7, 18)\n", "2.7.18 .* is too old"),
    ("import sys\nsys.version_info = (3, 8, 18)\n", "3.8.18 .* is too old"),
])
def test_python_that_does_not_do_is_one_line_and_exit_2(host, tmp_path, setup, said):
    failed = host(source=HELLO, python=fake_python(tmp_path, setup), ready=False)
    fails(failed, 2, said)
    (line,) = failed.log.lines
    assert "3.9 or newer" in line and "container" in line and "--python" in line


def test_newer_python_is_one_warning(host, tmp_path):
    setup = "import sys\nclass Info(tuple):\n    major, minor = 3, 99\nsys.version_info = Info((3, 99, 0, 'final', 0))\n"
    running = host(source=HELLO, python=fake_python(tmp_path, setup))
    assert running.get("/").body == b"hello"
    assert len(running.log.matches("Python 3.99.0 is newer than the ones ostler was tested with")) == 1


def test_python_that_cannot_be_run(host, tmp_path):
    for name, text, mode in (("plain", "print(1)", 0o644), ("empty", "", 0o755), ("foreign", "\x7fELF nonsense", 0o755)):
        path = tmp_path / name
        path.write_text(text)
        path.chmod(mode)
        failed = host(source=HELLO, python=path, ready=False)
        assert failed.wait_exit(20) == 2, failed.log
        assert failed.log.matches(name) and failed.log.matches("hint: "), failed.log


def test_venv_without_flask_says_what_is_missing(host, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    failed = host(source="from flask import Flask\napp = Flask(__name__)\n", python=tmp_path / "venv", ready=False)
    fails(failed, 3, "No module named 'flask'", r'app\.py", line 1')
