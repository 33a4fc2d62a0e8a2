"""W3C Trace Context: what the app is told of the trace that a request belongs to."""

import json
import re
import sys

import pytest

import harness

WSGI = """
import json
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps([environ.get("HTTP_TRACEPARENT"), environ.get("HTTP_TRACESTATE")]).encode()]
"""
ASGI = """
import json
async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    said = [(n, v.decode()) for n, v in scope["headers"] if n in (b"traceparent", b"tracestate")]
    assert len(said) == len(dict(said)), said
    body = json.dumps([dict(said).get(b"traceparent"), dict(said).get(b"tracestate")]).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
"""
CONFIG = """
[server]
listen = ["127.0.0.1:{port}"]
state = "state"
access_log = "access.log"
access_log_format = "json"
[projects.it]
source = "."
hosts = ["*"]
trace_context = {on}
[projects.it.web]
app = "app:app"
python = "{python}"
"""
SAID = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-{}"


def start(starter, folder, source, on=True):
    port = harness.free_port()
    (folder / "app.py").write_text(source)
    text = CONFIG.format(port=port, python=sys.executable, on=str(on).lower())
    (folder / "ostler.toml").write_text(text)
    return starter.serve(folder=folder, port=port, ready="it: ready")


@pytest.fixture(scope="module", params=[WSGI, ASGI], ids=["wsgi", "asgi"])
def traced(module_host, tmp_path_factory, request):
    folder = tmp_path_factory.mktemp("trace")
    running = start(module_host, folder, request.param)
    running.folder = folder
    return running


def told(running, *fields):
    """`traceparent` and `tracestate` as the app has them."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
    with running.raw() as raw:
        raw.send(f"GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n".encode())
        answer = raw.answer()
    assert answer.status == 200
    return json.loads(answer.body)


@pytest.mark.parametrize("flags", ["00", "01"])
def test_a_trace_goes_on_with_a_parent_of_ours(traced, flags):
    said = SAID.format(flags)
    parent, state = told(traced, ("traceparent", said), ("tracestate", "a=1"), ("tracestate", "b@c=x y"))
    assert state == "a=1,b@c=x y"
    assert (parent[:36], parent[52:]) == (said[:36], said[52:])
    assert re.fullmatch("[0-9a-f]{16}", parent[36:52]) and parent[36:52] not in (said[36:52], "0" * 16)


@pytest.mark.parametrize("fields", [
    [], [("traceparent", "nonsense"), ("tracestate", "a=1")], [("traceparent", SAID.format("01")[:-1])],
    [("traceparent", SAID.format("01").upper())], [("traceparent", SAID.format("01")), ("traceparent", SAID.format("01"))],
    [("traceparent", "00-" + "0" * 32 + "-00f067aa0ba902b7-01")], [("tracestate", "a=1")],
    [("traceparent", "x" * 4000)],
])
def test_what_is_no_trace_begins_a_new_one(traced, fields):
    seen = set()
    for _ in range(2):
        parent, state = told(traced, *fields)
        assert re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-01", parent) and state is None
        seen |= {parent[3:35], parent[36:52]}
    assert len(seen) == 4 and SAID[3:35] not in seen


@pytest.mark.parametrize("state", ["a" * 3000, "a=1," * 33, "no member", "a=b=c"])
def test_a_state_that_is_none_is_dropped_alone(traced, state):
    parent, state = told(traced, ("traceparent", SAID.format("01")), ("tracestate", state))
    assert parent.startswith(SAID[:36]) and state is None


def test_the_log_names_the_trace(traced):
    parent, _ = told(traced)
    log = traced.folder / "access.log"

    def logged():
        return any(json.loads(line).get("trace") == parent[3:35] for line in log.read_text().splitlines())

    harness.eventually(logged, 10, "its row")


def test_switched_off_the_clients_own_passes(host, tmp_path):
    off = start(host, tmp_path, WSGI, on=False)
    assert told(off) == [None, None]
    assert told(off, ("traceparent", "nonsense")) == ["nonsense", None]


def test_run_adds_nothing(host):
    assert told(host("app:app", source=WSGI)) == [None, None]
