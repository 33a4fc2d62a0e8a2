"""Another user for server and app (`--user`), which only root can give."""

import json
import os
import shutil
import ssl
import subprocess
import tempfile
import urllib.request
from pathlib import Path

import pytest

import harness
from harness import eventually

# The app's user must reach the interpreter: one below /root will not do.
PYTHON = "/usr/bin/python3"

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(not os.access(PYTHON, os.X_OK), reason=f"needs {PYTHON}"),
]

SOURCE = """
import json, os
hold = []
def app(environ, start_response):
    if environ["PATH_INFO"] == "/hog":
        hold.append(bytearray(os.urandom(1) * (90 << 20)))
    facts = {"ids": os.getresuid() + os.getresgid(), "groups": os.getgroups(), "pid": os.getpid()}
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(facts).encode()]
"""


@pytest.fixture
def folder():
    path = Path(tempfile.mkdtemp(prefix="ostler-user-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def test_server_and_app_give_up_root_for_good_and_a_key_of_root_serves(folder, tls):
    cert, key = tls
    key.chmod(0o600)
    host = harness.start(
        "app:app", "--user", "nobody", "--group", "nogroup", "--certfile", cert, "--keyfile", key,
        source=SOURCE, folder=folder, python=PYTHON,
    ).wait_ready()
    try:
        context = ssl.create_default_context(cafile=str(cert))
        context.check_hostname = False
        with urllib.request.urlopen(f"https://127.0.0.1:{host.port}/", context=context) as answer:
            facts = json.load(answer)
        nobody = harness.psutil.Process(host.server().pid).uids()
        assert facts["ids"] == [nobody.real] * 3 + [facts["ids"][3]] * 3 and nobody.real != 0 and facts["ids"][3] != 0
        assert 0 not in facts["groups"]
        assert {process.uids().saved for process in host.processes() if process.pid != host.process.pid} == {nobody.real}
    finally:
        assert host.stop() == 0


def test_memory_limit_holds_for_another_user(folder):
    host = harness.start(
        "app:app", "--user", "nobody", "--memory-hard", "60M", source=SOURCE, folder=folder, python=PYTHON,
    ).wait_ready()
    try:
        before = json.loads(host.get("/").body)["pid"]
        host.get("/hog")
        eventually(lambda: before not in {worker.pid for worker in host.workers()}, 20, "the hog is gone")
        assert json.loads(host.get("/").body)["pid"] != before
    finally:
        assert host.stop() == 0


def test_operator_asks_a_server_that_gave_up_root_and_its_apps_cannot(folder):
    """The socket is root's; the log of requests belongs to the server, which writes it."""
    (folder / "app.py").write_text(
        "import socket\n"
        "def app(environ, start_response):\n"
        "    start_response('200 OK', [])\n"
        "    try:\n"
        "        socket.socket(socket.AF_UNIX).connect('state/admin.sock')\n"
        "    except OSError as error:\n"
        "        return [type(error).__name__.encode()]\n"
        "    return [b'let in']\n"
    )
    port = harness.free_port()
    (folder / "ostler.toml").write_text(
        f"[server]\nlisten = \"127.0.0.1:{port}\"\nstate = \"state\"\nuser = \"nobody\"\n[projects.shop]\nsource = \".\"\nhosts = [\"*\"]\n"
        f"web.app = \"app:app\"\nweb.python = \"{PYTHON}\"\n"
    )
    host = harness.serve(folder=folder, port=port)
    host.log.wait("shop: ready", harness.START_SECONDS, alive=host.alive)
    try:
        assert host.get("/").body == b"PermissionError"

        def asked(*args):
            done = subprocess.run([harness.OSTLER, *args, "--json"], cwd=folder, capture_output=True, text=True, timeout=20)
            assert done.returncode == 0, done.stderr
            return done.stdout

        told = json.loads(asked("status"))
        assert told["user"] == "nobody" and told["notes"] == []
        assert told["projects"][0]["workers"][0]["memory"] > 0
        eventually(lambda: asked("requests"), 10, "the row is written")
        nobody = harness.psutil.Process(host.server().pid).uids().real
        state = folder / "state"
        assert (state.stat().st_uid, (state / "admin.sock").stat().st_uid) == (0, 0)
        assert {path.stat().st_uid for path in [state / "requests", *(state / "requests").iterdir()]} == {nobody}
        done = subprocess.run([harness.OSTLER, "reload"], cwd=folder, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout) == (0, "reloaded: nothing has changed\n"), done.stderr
    finally:
        assert host.stop() == 0
    # What the server before wrote as another user is written on.
    (folder / "ostler.toml").write_text((folder / "ostler.toml").read_text().replace('user = "nobody"', 'user = "daemon"'))
    host = harness.serve(folder=folder, port=port)
    host.log.wait("shop: ready", harness.START_SECONDS, alive=host.alive)
    try:
        assert host.get("/again").status == 200
        eventually(lambda: "/again" in asked("requests"), 20, "the row is written")
    finally:
        assert host.stop() == 0


GUEST = """
import json, os
import gunicorn_conf_ids
def app(environ, start_response):
    try:
        server = open("/proc/%s/environ" % environ["HTTP_X_SERVER"]).read()
    except OSError as error:
        server = type(error).__name__
    facts = {"configured": gunicorn_conf_ids.ids, "environment": dict(os.environ), "server": server}
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(facts).encode()]
"""


def test_nothing_of_a_project_is_run_as_root_or_sees_the_secrets_of_another(folder):
    """What is in its folder may have been written by whoever broke into its app."""
    for name in ("shop", "blog"):
        source = folder / name
        source.mkdir()
        (source / "app.py").write_text(GUEST)
        (source / "gunicorn.conf.py").write_text(
            "import os, sys, types\n"
            "sys.modules['gunicorn_conf_ids'] = types.SimpleNamespace(ids=os.getresuid() + os.getresgid())\n"
            "preload_app = True\n"
            # Who an app runs as is not for its own file to say.
            "user = group = 'daemon'\n"
        )
    port = harness.free_port()
    web = f"web.app = \"app:app\"\nweb.python = \"{PYTHON}\"\nweb.config = \"gunicorn.conf.py\"\n"
    (folder / "ostler.toml").write_text(
        f"[server]\nlisten = \"127.0.0.1:{port}\"\nstate = \"state\"\nuser = \"nobody\"\n"
        f"[projects.shop]\nsource = \"shop\"\nhosts = [\"shop.test\"]\n{web}web.env = {{ DSN = \"${{SHOP_DSN}}\" }}\n"
        f"[projects.blog]\nsource = \"blog\"\nhosts = [\"blog.test\"]\naccess.keys = true\n{web}"
    )
    secrets = {"SHOP_DSN": "dsn-of-the-shop", "API_KEYS": "key-of-ada"}
    host = harness.serve(folder=folder, port=port, env={**secrets, "EVERYBODYS": "1", "VIRTUAL_ENV": "/nowhere"})
    for name in ("shop", "blog"):
        host.log.wait(f"{name}: ready", harness.START_SECONDS, alive=host.alive)
    try:
        server = {"X-Server": str(host.server().pid)}
        nobody = harness.psutil.Process(host.server().pid).uids().real
        shop = json.loads(host.request("GET", "/", headers={"Host": "shop.test", **server}).body)
        blog = json.loads(host.request("GET", "/", headers={"Host": "blog.test", "X-API-Key": "key-of-ada", **server}).body)
        for facts in (shop, blog):
            assert set(facts["configured"][:3]) == {nobody} and 0 not in facts["configured"]
            assert facts["environment"]["EVERYBODYS"] == "1"
            assert not {"SHOP_DSN", "API_KEYS", "VIRTUAL_ENV"} & set(facts["environment"])
            assert not [text for text in secrets.values() if text in facts["server"]]
        assert shop["environment"]["DSN"] == "dsn-of-the-shop" and "DSN" not in blog["environment"]
        # A zygote that ends is started anew, by root.
        for zygote in host.zygotes():
            zygote.kill()
        host.log.wait("worker .* is up", harness.START_SECONDS, count=4, alive=host.alive)
        eventually(lambda: host.request("GET", "/", headers={"Host": "shop.test", **server}).status == 200, 20)
        again = json.loads(host.request("GET", "/", headers={"Host": "shop.test", **server}).body)
        assert set(again["configured"][:3]) == {nobody}
        # Another user comes into force with a restart, and until then nothing is lost by the line.
        text = (folder / "ostler.toml").read_text()
        (folder / "ostler.toml").write_text(text.replace('user = "nobody"', 'user = "daemon"'))
        done = subprocess.run([harness.OSTLER, "reload"], cwd=folder, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0 and "`user`" in done.stderr, done
        done = subprocess.run([harness.OSTLER, "reload", "shop"], cwd=folder, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done
        again = json.loads(host.request("GET", "/", headers={"Host": "shop.test", **server}).body)
        assert set(again["configured"][:3]) == {nobody}
    finally:
        assert host.stop() == 0
