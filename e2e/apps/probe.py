"""A raw WSGI app that tells what it was given and does as the path says."""

import json
import os
import time

calls = 0


def app(environ, start_response):
    global calls
    path = environ["PATH_INFO"]
    if path != "/calls":
        calls += 1
    do = ACTIONS.get(path.strip("/").split("/")[0], hello)
    return do(environ, start_response)


def answer(start_response, body, status="200 OK", kind="text/plain", headers=()):
    body = body if isinstance(body, bytes) else body.encode()
    start_response(status, [("Content-Type", kind), ("Content-Length", str(len(body))), *headers])
    return [body]


def body_of(environ):
    return environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))


def hello(environ, start_response):
    return answer(start_response, "hello")


def count(environ, start_response):
    return answer(start_response, str(calls))


def environ_(environ, start_response):
    shown = {key: value for key, value in environ.items() if isinstance(value, (str, bool, int, tuple))}
    return answer(start_response, json.dumps(shown), kind="application/json")


def echo(environ, start_response):
    return answer(start_response, body_of(environ), kind="application/octet-stream")


def length(environ, start_response):
    return answer(start_response, str(len(body_of(environ))))


def unread(environ, start_response):
    return answer(start_response, "I never read it")


def pid(environ, start_response):
    return answer(start_response, str(os.getpid()))


def slow(environ, start_response):
    """/slow/MILLISECONDS"""
    time.sleep(int(environ["PATH_INFO"].split("/")[2]) / 1000)
    return answer(start_response, str(os.getpid()))


def status(environ, start_response):
    """/status/CODE"""
    code = environ["PATH_INFO"].split("/")[2]
    if code in ("204", "304"):
        start_response(f"{code} Whatever", [("X-Code", code)])
        return []
    return answer(start_response, code, f"{code} Whatever")


def stream(environ, start_response):
    """/stream/CHUNKS without a length"""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return (f"chunk {n}\n".encode() for n in range(int(environ["PATH_INFO"].split("/")[2])))


def large(environ, start_response):
    """/large/BYTES"""
    size = int(environ["PATH_INFO"].split("/")[2])
    start_response("200 OK", [("Content-Type", "application/octet-stream"), ("Content-Length", str(size))])
    return (b"x" * min(65536, size - at) for at in range(0, size, 65536))


ACTIONS = {
    "calls": count, "environ": environ_, "echo": echo, "length": length, "unread": unread, "pid": pid, "slow": slow,
    "status": status, "stream": stream, "large": large,
}
