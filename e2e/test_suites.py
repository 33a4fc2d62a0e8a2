"""What others have written to find faults in servers, run against the real binary: testssl.sh and httpwg."""

import json
import shutil
import subprocess

import pytest

import harness

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
