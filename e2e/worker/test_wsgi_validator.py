"""wsgiref.validate watches both sides: the app's, and ours."""

import warnings
from wsgiref.validate import validator

import pytest
import wsgi_wire as wire


def plain(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "5")])
    return [b"hello"]


def echo(environ, start_response):
    file = environ["wsgi.input"]
    body = file.read(3) + file.readline() + b"".join(file.readlines()) + b"".join(file)
    write = start_response("200 OK", [("Content-Type", "application/octet-stream")])
    write(b"")
    return [body]


def generator(environ, start_response):
    environ["wsgi.errors"].write("a line\n")
    environ["wsgi.errors"].flush()
    start_response("200 OK", [("Content-Type", "text/plain")])
    yield b"one"
    yield b"two"


def writes(environ, start_response):
    write = start_response("200 OK", [("Content-Type", "text/plain")])
    write(b"one")
    return [b"two"]


def nothing(environ, start_response):
    start_response("204 No Content", [])
    return []


@pytest.mark.parametrize("app", [plain, echo, generator, writes, nothing])
@pytest.mark.parametrize("kind", [wire.NONE, wire.INLINE, wire.STREAM])
@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_validator_finds_nothing(serve, app, kind, method):
    body = b"line one\nline two\nend"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        slot = serve(validator(app))
        for _ in range(3):
            headers = [(b"host", b"example.test"), (b"content-type", b"text/plain")]
            if kind == wire.INLINE:
                answer = slot.ask(method, body=body, headers=headers)
            else:
                slot.send(wire.request(method, kind=kind, headers=headers))
                if kind == wire.STREAM:
                    slot.send(wire.frame(wire.REQ_BODY, body, wire.END))
                answer = slot.response()
            assert answer.status in (200, 204) and answer.aborted is None, slot.log
            if app is echo:
                assert answer.body == (b"" if kind == wire.NONE else body)
        slot.finish()
    assert "Error" not in slot.log, slot.log
