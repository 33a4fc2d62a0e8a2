"""What others have written to find faults in servers, run against the real binary: testssl.sh (TLS), httpwg (HTTP/2)
and Autobahn (WebSockets).

A suite that is missing is a failure. Autobahn alone is skipped, and only where there is no Python 2.7, which its last
version (25.10.1) needs. Debian has one up to version 11. It need not be installed: `dpkg -x` of python2.7,
python2.7-minimal, libpython2.7, libpython2.7-minimal, libpython2.7-stdlib, libpython2.7-dev, libffi7 and libssl1.1 into
a folder ROOT is enough, and then
    export LD_LIBRARY_PATH=ROOT/usr/lib/x86_64-linux-gnu C_INCLUDE_PATH=ROOT/usr/include:ROOT/usr/include/python2.7
    pip install 'virtualenv<20.22' && virtualenv -p ROOT/usr/bin/python2.7 autobahn
    autobahn/bin/pip install autobahntestsuite==25.10.1
`WSTEST` names its program (here autobahn/bin/wstest, or a script that sets LD_LIBRARY_PATH for it alone); else it is
looked for in PATH.
"""

import json
import os
import re
import shutil
import subprocess

import pytest

import harness
from relay import Relay

APP = """
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]
"""

GRAVE = {"MEDIUM", "HIGH", "CRITICAL"}

OURS = {
    # The certificate of this test is signed by nobody, and names no place to ask whether it was revoked.
    "cert_chain_of_trust", "cert_revocation", "cert_expirationStatus", "cert_notAfter",
    # Fields of an answer are the app's, or `headers` of its project.
    "security_headers",
}


# It opens a thousand connections, one after the other.
@pytest.mark.timeout(600)
@pytest.mark.parametrize("http", ["run", "serve"])
def test_testssl_finds_nothing(host, tmp_path, tls, http):
    tool = shutil.which("testssl") or shutil.which("testssl.sh")
    assert tool, "apt-get install testssl.sh"
    port = harness.free_port()
    (tmp_path / "app.py").write_text(APP)
    if http == "run":
        running = host("app:app", "--certfile", tls[0], "--keyfile", tls[1], "--max-connections-per-address", 0, source=APP)
        port = running.port
    else:
        (tmp_path / "ostler.toml").write_text(f"""
            [server]
            listen = []
            listen_tls = ["127.0.0.1:{port}"]
            state = "state"
            max_connections_per_address = 0
            [projects.shop]
            source = "."
            hosts = ["localhost"]
            certfile = "{tls[0]}"
            keyfile = "{tls[1]}"
            [projects.shop.web]
            app = "app:app"
            python = "{harness.sys.executable}"
        """)
        host.serve(port=port)
    found = tmp_path / "found.json"
    parts = ["--protocols", "--std", "--pfs", "--server-preference", "--server-defaults", "--vulnerable"]
    done = subprocess.run(
        [tool, "--warnings=off", "--color=0", f"--jsonfile={found}", *parts, f"localhost:{port}"],
        cwd=tmp_path, capture_output=True, text=True, timeout=600,
    )
    findings = json.loads(found.read_text())
    assert len(findings) > 60, done.stdout
    grave = [one for one in findings if one["severity"] in GRAVE and one["id"].split(" ")[0] not in OURS]
    assert not grave, (grave, done.stdout)


# HTTP/2


CASES = 107
"""Of httpwg-cli 0.2.5."""


@pytest.mark.timeout(600)
def test_httpwg_passes(host, tls):
    """Every case, each on a connection of its own; one that waits for something that does not come takes 5 s."""
    tool = shutil.which("httpwg") or shutil.which("httpwg", path=harness.ROOT / "target/tools/bin")
    assert tool, "cargo install httpwg-cli --version 0.2.5 --locked --root target/tools"
    running = host("app:app", "--certfile", tls[0], "--keyfile", tls[1], "--max-connections-per-address", 0, source=APP)
    with Relay(running.port, tls[0]) as relay:
        done = subprocess.run(
            [tool, "--address", f"127.0.0.1:{relay.port}", "--connect-timeout", "5000", "--frame-timeout", "5000"],
            env={**os.environ, "SEQUENTIAL": "1"}, capture_output=True, text=True, timeout=600,
        )
    said = re.sub("\x1b\\[[0-9;]*m", "", done.stdout + done.stderr)
    passed = re.findall(r"Test passed: RFC 9113 :: (.+)", said)
    failed = re.findall(r"Test failed: RFC 9113 :: (.+)", said)
    # One that panics is neither.
    count = re.search(r"Passed (\d+)/(\d+) tests", said)
    assert count, said
    panics = re.findall(r"(?s)panicked at .{,300}", said)
    assert not failed and len(set(passed)) == int(count[1]) == int(count[2]) >= CASES, (failed, panics, said)


# WebSockets


ECHO = """
async def app(scope, receive, send):
    if scope["type"] != "websocket":
        return
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] != "websocket.disconnect":
        await send({**message, "type": "websocket.send"})
"""

AT_ONCE = {"3.2", "3.3", "3.4", "4.1.3", "4.1.4", "4.1.5", "4.2.3", "4.2.4", "4.2.5", "5.15"}
"""A good message and behind it a frame that breaks the protocol. The connection fails at once (RFC 6455 section 7.1.7),
which may be before the app has sent the message back: Autobahn calls that not strict."""


@pytest.fixture
def wstest():
    tool = os.environ.get("WSTEST") or shutil.which("wstest")
    # A version manager may have a command of that name that starts none.
    python = shutil.which("python2.7")
    if not tool and not (python and subprocess.run([python, "-V"], capture_output=True).returncode == 0):
        pytest.skip("Autobahn needs Python 2.7, and there is none (WSTEST: see the top of this file)")
    assert tool, "Python 2.7 is there and `wstest` is not: pip install autobahntestsuite==25.10.1"
    return tool


def autobahn(host, tmp_path, wstest, *cases):
    """What Autobahn says of each case, by its number."""
    running = host("app:app", "--interface", "asgi", "--max-connections-per-address", 0, source=ECHO)
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps({
        "outdir": str(tmp_path / "found"),
        "servers": [{"agent": "ostler", "url": f"ws://127.0.0.1:{running.port}", "options": {"version": 18}}],
        "cases": list(cases), "exclude-cases": [], "exclude-agent-cases": {},
    }))
    done = subprocess.run([wstest, "-m", "fuzzingclient", "-s", spec], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "found/index.json").read_text())["ostler"]
    closes = {number: case["behaviorClose"] for number, case in found.items()}
    assert set(closes.values()) <= {"OK", "INFORMATIONAL"}, closes
    return {number: case["behavior"] for number, case in found.items()}


@pytest.mark.timeout(600)
def test_autobahn_finds_no_failure(host, tmp_path, wstest):
    found = autobahn(host, tmp_path, wstest, *[f"{part}.*" for part in (1, 2, 3, 4, 5, 6, 7, 9, 10)])
    assert len(found) == 301
    odd = {number: said for number, said in found.items() if said not in ("OK", "INFORMATIONAL")}
    assert set(odd.values()) <= {"NON-STRICT"} and set(odd) <= AT_ONCE, odd


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("part, count", [(12, 90), (13, 126)])
def test_autobahn_finds_no_failure_in_compression(host, tmp_path, wstest, part, count):
    found = autobahn(host, tmp_path, wstest, f"{part}.*")
    assert len(found) == count
    odd = {number: said for number, said in found.items() if said != "OK"}
    assert not odd, odd
