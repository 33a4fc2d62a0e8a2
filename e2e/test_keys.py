"""API keys: who is let in, what app and log learn of it, and what a changed file does, at once."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

import harness

WSGI = """
import json
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/json")])
    seen = {name: environ.get(name) for name in ("REMOTE_USER", "HTTP_X_OSTLER_USER", "PATH_INFO")}
    return [json.dumps(seen).encode()]
"""

ASGI = """
import json
async def app(scope, receive, send):
    assert scope["type"] == "http"
    users = [value.decode() for name, value in scope["headers"] if name == b"x-ostler-user"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps(users).encode()})
"""

FILE = """
[server]
state = "state"
listen = ["127.0.0.1:{port}"]
access_log = "-"

[projects.shop]
source = "shop"
hosts = ["shop.test"]
[projects.shop.web]
app = "app:app"
python = "{python}"
[projects.shop.static]
"/static" = "static"
[projects.shop.access]
keys = true
"""

KEYS = "# who may\nusername,apikey\n\nada,key-of-ada\r\ngrace,key-of-grace # and a comment\n"


class Shop:
    """One project that wants keys."""

    def __init__(self, host, folder, text=FILE, keys=KEYS, source=WSGI, env=None, ready="shop: ready"):
        self.folder = folder / "shop"
        (self.folder / "static").mkdir(parents=True)
        (self.folder / "static" / "a.txt").write_text("a file")
        (self.folder / "app.py").write_text(source)
        self.keys = self.folder / "auth-keys.csv"
        if keys is not None:
            self.keys.write_text(keys)
        self.port = harness.free_port()
        self.file = folder / "ostler.toml"
        self.write(text)
        self.host = host.serve(port=self.port, ready=ready, env=env or {})

    def write(self, text):
        self.file.write_text(text.replace("{port}", str(self.port)).replace("{python}", sys.executable))

    def get(self, path="/", **headers):
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.host.get(path, {"Host": "shop.test", "Accept": "application/json", **named})

    def status(self, key):
        return self.get(Authorization=key).status

    def becomes(self, key, status):
        """Seconds until a key is answered with this status."""
        began = time.monotonic()
        harness.eventually(lambda: self.status(key) == status, 20, f"{key} gives {status}")
        return time.monotonic() - began


@pytest.fixture
def shop(host, tmp_path):
    return Shop(host, tmp_path)


def test_a_key_lets_in_by_each_of_its_fields_and_names_its_user(shop):
    for headers in [
        {"Authorization": "key-of-ada"}, {"Authorization": "Bearer key-of-ada"}, {"X_API_Key": "key-of-ada"},
        {"Authorization": "Basic eDp5", "X_API_Key": "key-of-ada"},
    ]:
        answer = shop.get("/x", **headers, X_Ostler_User="root", Remote_User="root")
        assert answer.status == 200
        assert json.loads(answer.body) == {"REMOTE_USER": "ada", "HTTP_X_OSTLER_USER": None, "PATH_INFO": "/x"}
    shop.host.log.wait(r'127\.0\.0\.1 - ada \[.*"GET /x HTTP/1\.1" 200')


def test_without_a_key_nothing_is_given_out(shop):
    for headers, code in [
        ({}, "key_missing"), ({"Authorization": "key-of-eve"}, "key_unknown"),
        ({"Authorization": "Bearer"}, "key_unknown"), ({"Authorization": "Basic YWRhOmtleS1vZi1hZGE="}, "key_missing"),
        ({"Authorization": "apikey"}, "key_unknown"), ({"Authorization": "KEY-OF-ADA"}, "key_unknown"),
        ({"Authorization": "key-of-ad"}, "key_unknown"), ({"X_API_Key": ""}, "key_missing"),
    ]:
        for path in ["/", "/static/a.txt"]:
            answer = shop.get(path, **headers)
            assert (answer.status, json.loads(answer.body)["code"]) == (403, code), headers
    assert shop.get("/static/a.txt", Authorization="key-of-ada").body == b"a file"
    assert "key-of-" not in str(shop.host.log), "no key in the log"


def test_a_changed_file_counts_within_two_seconds(shop):
    workers = {worker.pid for worker in shop.host.workers()}
    rounds = []
    # Once more where the machine stood still: a delay of ostler's is in every round.
    while not rounds or len(rounds) < 3 and not all(min(took) < 2 for took in zip(*rounds)):
        rounds.append(change_in_every_way(shop, len(rounds) + 1))
    assert all(min(took) < 2 for took in zip(*rounds)), rounds
    assert {worker.pid for worker in shop.host.workers()} == workers


def change_in_every_way(shop, count):
    """Seconds that each change took; it is the `count`-th time that all of them are made."""
    took = []
    shop.keys.write_text("eve,key-of-eve\n")
    took.append(shop.becomes("key-of-eve", 200))
    assert shop.status("key-of-ada") == 403
    other = shop.keys.with_name("new")
    other.write_text("ada,key-of-ada\n")
    other.rename(shop.keys)
    took.append(shop.becomes("key-of-ada", 200))
    assert shop.status("key-of-eve") == 403
    shop.keys.write_text("this is no key\n")
    shop.host.log.wait(r"auth-keys\.csv:1: it has no comma", count=2 * count - 1)
    shop.host.log.wait("no key and a bad line.*the API keys stay as they were", count=count)
    assert shop.status("key-of-ada") == 200
    shop.keys.write_text("a bad line\ngrace,key-of-grace\n")
    took.append(shop.becomes("key-of-grace", 200))
    assert shop.status("key-of-ada") == 403
    shop.keys.unlink()
    shop.host.log.wait("No such file.*the API keys stay as they were", count=count)
    assert shop.status("key-of-grace") == 200
    shop.keys.write_text("")
    took.append(shop.becomes("key-of-grace", 403))
    shop.host.log.wait("every API key is revoked", count=count)
    return took


def test_keys_of_the_environment_count_beside_the_file(host, tmp_path):
    shop = Shop(host, tmp_path, env={"API_KEYS": "imove-0123456789, plain"})
    for key, user in [("imove-0123456789", "imove"), ("plain", "key2"), ("key-of-ada", "ada")]:
        assert json.loads(shop.get(Authorization=key).body)["REMOTE_USER"] == user
    shop.keys.write_text("")
    shop.becomes("key-of-ada", 403)
    assert shop.status("plain") == 200


def test_the_environment_alone_is_enough(host, tmp_path):
    shop = Shop(host, tmp_path, keys=None, env={"API_KEYS": "only-0123456789"})
    assert (shop.status("only-0123456789"), shop.status("key-of-ada")) == (200, 403)
    shop.keys.write_text(KEYS)
    shop.becomes("key-of-ada", 200)


@pytest.mark.parametrize("keys", [None, "", "# nobody\n", "no key here\n"])
def test_without_any_key_it_does_not_start(tmp_path, keys):
    once = Once(tmp_path)
    with pytest.raises(AssertionError, match="the process ended"):
        Shop(once, tmp_path, keys=keys)
    assert once.host.wait_exit() == 1
    text = str(once.host.log)
    assert "error: shop: access.keys is set and there is no API key" in text
    assert "hint: write a line `name,key`" in text


class Once:
    """Starts a server that is not expected to stay."""

    def __init__(self, folder):
        self.folder = folder

    def serve(self, ready, **options):
        self.host = harness.serve(folder=self.folder, **options)
        self.host.log.wait(ready, harness.START_SECONDS, alive=self.host.alive)


def test_a_reload_without_keys_is_refused_and_one_with_keys_needs_no_worker(shop):
    workers = {worker.pid for worker in shop.host.workers()}
    shop.write(FILE.replace("keys = true", 'keys = true\nkey_file = "other.csv"'))
    shop.host.kill(signal.SIGHUP)
    shop.host.log.wait("other.csv cannot be read")
    shop.host.log.wait("reload failed")
    assert shop.status("key-of-ada") == 200
    (shop.folder / "other.csv").write_text("eve,key-of-eve\n")
    shop.host.kill(signal.SIGHUP)
    shop.host.log.wait("reload complete: the configuration")
    assert (shop.status("key-of-ada"), shop.status("key-of-eve")) == (403, 200)
    shop.write(FILE.replace("keys = true", "keys = false"))
    shop.host.kill(signal.SIGHUP)
    shop.host.log.wait("reload complete: the configuration", count=2)
    assert shop.get().status == 200
    assert json.loads(shop.get(X_Ostler_User="root").body)["REMOTE_USER"] is None
    assert {worker.pid for worker in shop.host.workers()} == workers


def test_a_route_has_its_own_door(host, tmp_path):
    text = FILE.replace("keys = true", "keys = false") + """
[[projects.shop.routes]]
prefix = "/"
[[projects.shop.routes]]
prefix = "/admin"
strip = false
access.keys = true
"""
    shop = Shop(host, tmp_path, text)
    assert shop.get("/").status == 200
    for path in ["/admin", "/admin/x", "/a/../admin/x", "/%61dmin/x", "/admin/./x", "//admin/x", "/admin//x"]:
        answer = shop.get(path)
        told = json.loads(answer.body)
        assert answer.status == 403 or not re.match("/+admin(/|$)", told["PATH_INFO"]), path
    assert json.loads(shop.get("/admin/x", Authorization="key-of-ada").body)["PATH_INFO"] == "/admin/x"


def test_asgi_apps_learn_the_user_from_a_field_that_clients_cannot_set(host, tmp_path):
    shop = Shop(host, tmp_path, source=ASGI)
    for forged in ["X-Ostler-User", "x-ostler-user", "X_Ostler_User"]:
        answer = shop.host.get("/", {"Host": "shop.test", "Authorization": "key-of-ada", forged: "root"})
        assert json.loads(answer.body) == ["ada"]


def test_a_server_that_was_lost_comes_again_with_nobody_let_in(shop):
    shop.keys.write_text("")
    shop.becomes("key-of-ada", 403)
    shop.host.server().kill()
    shop.host.log.wait("until then nobody gets in")
    shop.host.log.wait("shop: ready", count=2)
    assert shop.status("key-of-ada") == 403
    shop.keys.write_text(KEYS)
    shop.becomes("key-of-ada", 200)


@pytest.mark.parametrize("function", ["sha512", "argon2id"])
def test_the_function_can_be_chosen(host, tmp_path, function):
    shop = Shop(host, tmp_path, FILE.replace("keys = true", f'keys = true\nkey_hash = "{function}"'))
    for _ in range(3):
        assert (shop.status("key-of-ada"), shop.status("key-of-eve")) == (200, 403)


def test_no_key_is_kept_in_the_memory_of_the_server(host, tmp_path):
    secret = "key-that-must-not-stay-5a8d"
    shop = Shop(host, tmp_path, keys=f"ada,{secret}\n")
    assert shop.get(Authorization="key-of-eve").status == 403
    if os.geteuid() != 0:
        pytest.skip("reads the memory of another process")
    pid = shop.host.server().pid
    found = subprocess.run(
        [sys.executable, "-c", LOOK_FOR, str(pid), secret], capture_output=True, text=True, check=True,
    )
    assert found.stdout.strip() == "0", "places with the key"


LOOK_FOR = """
import re, sys
pid, secret = sys.argv[1], sys.argv[2].encode()
found = 0
with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
    for line in maps:
        first, last = (int(part, 16) for part in line.split()[0].split("-"))
        if "rw" not in line.split()[1] or "[vvar" in line:
            continue
        try:
            memory.seek(first)
            found += memory.read(last - first).count(secret)
        except (OSError, ValueError, OverflowError):
            pass
print(found)
"""
