"""The number of a request: the same for an app, an upstream, an error page and the log, whoever asks."""

import json
import re
import subprocess
import sys

import pytest

import harness
from test_upstreams import upstream  # noqa: F401 - a fixture

WSGI = """
def app(environ, start_response):
    if environ["PATH_INFO"] == "/fail":
        print("told", environ["HTTP_X_REQUEST_ID"], file=environ["wsgi.errors"], flush=True)
        raise ValueError
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [environ["HTTP_X_REQUEST_ID"].encode()]
"""
ASGI = """
import sys
async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    [told] = [value for name, value in scope["headers"] if name == b"x-request-id"]
    if scope["path"] == "/fail":
        print("told", told.decode(), file=sys.stderr, flush=True)
        raise ValueError
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": told})
"""
CONFIG = """
[server]
listen = ["127.0.0.1:{port}"]
state = "state"
trusted_proxies = {trusted}
[projects.it]
hosts = ["*"]
{more}
"""
WEB = """
[projects.it.web]
app = "app:app"
python = "{python}"
"""
OURS = "[0-9a-f]{16}"


def start(starter, folder, more, trusted=()):
    port = harness.free_port()
    text = CONFIG.format(port=port, trusted=json.dumps(list(trusted)), more=more)
    (folder / "ostler.toml").write_text(text)
    return starter.serve(folder=folder, port=port, ready="it: .*ready")


@pytest.fixture(params=[WSGI, ASGI], ids=["wsgi", "asgi"])
def app(host, tmp_path, request):
    def make(more="", trusted=()):
        (tmp_path / "app.py").write_text(request.param)
        return start(host, tmp_path, "source = \".\"\n" + more + WEB.format(python=sys.executable), trusted)

    return make


def told(running, *said, path="/"):
    lines = "".join(f"X-Request-Id: {value}\r\n" for value in said)
    with running.raw() as raw:
        answer = raw.send(f"GET {path} HTTP/1.1\r\nHost: a\r\n{lines}\r\n".encode()).answer()
    assert answer.status == 200
    return answer.text


def logged(folder):
    command = [harness.OSTLER, "requests", "--json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return [json.loads(line)["request"] for line in done.stdout.splitlines()]


def test_an_app_is_told_the_number_that_is_in_the_log(app, tmp_path):
    running = app()
    ids = [told(running), told(running, "forged"), told(running, "0" * 16, "forged")]
    assert all(re.fullmatch(OURS, one) and one != "0" * 16 for one in ids), ids
    harness.eventually(lambda: logged(tmp_path) == ids, 10, "the rows")
    page = running.get("/fail", {"X-Request-Id": "forged", "Accept": "application/json"})
    assert page.status == 500 and running.log.wait(f"told ({OURS})").group(1) == json.loads(page.text)["request_id"]


def test_a_trusted_proxy_names_the_request(app):
    running = app(trusted=["127.0.0.1"])
    assert told(running, "from-the.proxy:1/2+3=") == "from-the.proxy:1/2+3="
    for said in [], ["two words"], ["one", "two"], ["x" * 129]:
        assert re.fullmatch(OURS, told(running, *said)), said


def test_a_rule_of_the_site_goes_first(app):
    running = app('headers = { request_set = { "X-Request-Id" = "fixed" } }\n')
    assert told(running, "forged") == "fixed"


def test_under_run_an_app_is_told_as_well(host):
    running = host("app:app", "--forwarded-allow-ips", "192.0.2.1", source=WSGI)
    assert re.fullmatch(OURS, told(running, "forged"))


@pytest.mark.parametrize("trusted", [(), ("127.0.0.1",)], ids=["stranger", "proxy"])
def test_an_upstream_is_told_what_an_app_is(host, tmp_path, upstream, trusted):  # noqa: F811
    one = upstream()
    running = start(host, tmp_path, f"upstreams = [{json.dumps(one.url)}]\n", trusted)
    for count, said in enumerate([[], ["said"]], 1):
        told(running, *said)
        got = one.wait(count).get("x-request-id")
        assert got == "said" if said and trusted else re.fullmatch(OURS, got)
        if not (said and trusted):
            harness.eventually(lambda: got in logged(tmp_path), 10, "its row")
