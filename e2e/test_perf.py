"""Runs: each call's time in `perf/logs/<run>/<pid>.log`, and `ostler perf` that reads them."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

import harness
from harness import Client, eventually

PACKAGE = harness.ROOT / "crates/ostler-worker/py"

FLASK = """
import os, resource, threading
from flask import Flask, request
from ostler import timed

app = Flask(__name__)
here = str(os.getpid())

@timed
def inner(value):
    return value

class Shop:
    @timed("shop.buy")
    def buy(self):
        with timed("shop.buy.stock"):
            return inner("bought")

@timed("numbers")
def numbers():
    got = yield 1
    assert got == "sent"
    yield 2

@app.get("/items/<int:item>")
def items(item):
    return Shop().buy() + " " + str(os.getpid())

@app.get("/threads")
def threads():
    def work():
        for _ in range(100):
            with shared:
                inner(1)
    shared = timed("shared")
    all = [threading.Thread(target=work) for _ in range(8)]
    for one in all: one.start()
    for one in all: one.join()
    generator = numbers()
    assert next(generator) == 1 and generator.send("sent") == 2 and list(generator) == []
    return "done"

@app.get("/fails")
def fails():
    with timed("name\\twith\\nall\\x1b that is \\ud800 bad" + "x" * 500):
        raise ValueError("no")

@app.get("/full")
def full():
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))
    return "full"

@app.get("/fork")
def fork():
    pid = os.fork()
    if pid == 0:
        for _ in range(10):
            inner(1)
        os._exit(0)
    os.waitpid(pid, 0)
    return "forked"

@app.post("/slow")
def slow():
    return request.get_data()
"""

ASGI = """
import asyncio
from fastapi import FastAPI, WebSocket
from starlette.responses import StreamingResponse
from ostler import timed

app = FastAPI()

@timed("wait")
async def wait(seconds):
    await asyncio.sleep(seconds)

@timed("pieces")
async def pieces():
    for _ in range(3):
        yield b"piece"

@app.get("/wait/{name}")
async def waits(name: str):
    await asyncio.gather(wait(0.01), wait(3))
    with timed("block"):
        await asyncio.sleep(0.01)
    return name

@app.get("/stream")
async def stream():
    return StreamingResponse(pieces())

@app.get("/fails")
async def fails():
    raise ValueError("no")

@app.websocket("/ws/{room}")
async def socket(websocket: WebSocket, room: str):
    await websocket.accept()
    await websocket.close()
"""


def perf(folder, *args, env=None):
    """What `ostler perf` says in `folder`."""
    command = [str(harness.OSTLER), "perf", *map(str, args)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env={**os.environ, **(env or {})}, timeout=60)
    assert done.returncode == 0, done.stderr
    return done


def shown(folder, run):
    """The calls of a run by name."""
    return {row["name"]: row for row in map(json.loads, perf(folder, run, "--json").stdout.splitlines())}


def lines(folder, run=None):
    """`(pid, start, duration, name, status)` of every line of a run, or of all."""
    found = []
    for path in sorted((folder / "perf/logs").glob(f"{run or '*'}/*.log")):
        text = path.read_text()
        assert not text or text.endswith("\n"), path
        for line in text.splitlines():
            start, duration, name, status = line.split("\t")
            found.append((int(path.stem), int(start), int(duration), name, status))
    return found


def named(folder, run=None):
    return Counter(name for _, _, _, name, _ in lines(folder, run))


@pytest.mark.smoke
def test_each_call_is_a_line_of_its_worker(host, tmp_path):
    before = time.time_ns() // 1000
    running = host(source=FLASK, cwd=tmp_path, *["app:app", "-w", "3", "--perf"])
    pids = Counter(int(running.get(f"/items/{number}").text.split()[1]) for number in range(30))
    running.get("/nowhere")
    running.get("/fails")
    running.request("OPTIONS", "/items/1")
    running.request("FOO", "/items/1")
    eventually(lambda: len(lines(tmp_path)) >= 96, 5, "written while it runs, within a second")
    assert running.stop() == 0
    found = lines(tmp_path)
    assert {path.name for path in (tmp_path / "perf/logs").iterdir()} == {"1"}
    assert Counter(pid for pid, _, _, name, _ in found if name == "GET /items/<int:item>") == pids
    after = time.time_ns() // 1000
    assert all(before < start < after and 0 <= duration < 20_000_000 for _, start, duration, _, _ in found)
    statuses = {name: status for _, _, _, name, status in found}
    assert statuses["GET /items/<int:item>"] == "200" and statuses["GET (no route)"] == "404"
    assert statuses["GET /fails"] == "500" and statuses["OPTIONS /items/<int:item>"] == "200"
    assert statuses["OTHER (no route)"] == "405", "a client cannot make names"
    assert statuses["shop.buy"] == statuses["shop.buy.stock"] == statuses["app.inner"] == "ok"
    [odd] = [name for name in statuses if name.startswith("name")]
    assert statuses[odd] == "ValueError" and len(odd) == 160 and odd.startswith("name with all  that is ")
    sums = shown(tmp_path, 1)
    assert sums["shop.buy"]["calls"] == sums["app.inner"]["calls"] == 30
    assert sums["GET /items/<int:item>"]["total"] >= sums["shop.buy"]["total"] >= sums["shop.buy.stock"]["total"]
    assert sums["GET /fails"]["errors"] == 1 and sums["GET (no route)"]["errors"] == 0
    [run] = [json.loads(line) for line in perf(tmp_path, "--json").stdout.splitlines()]
    assert (run["run"], run["calls"], run["app"], run["open"]) == (1, len(found), "app:app", False)
    assert run["workers"] == len({pid for pid, *_ in found}) and before < run["start"] < after and run["length"] > 0


def test_calls_of_threads_and_generators_are_noted(host, tmp_path):
    running = host(source=FLASK, cwd=tmp_path, *["app:app", "--threads", "4", "--perf"])
    asked = [threading.Thread(target=running.get, args=("/threads",)) for _ in range(4)]
    for one in asked:
        one.start()
    for one in asked:
        one.join()
    assert running.stop() == 0
    found = named(tmp_path)
    assert (found["shared"], found["app.inner"], found["numbers"], found["GET /threads"]) == (3200, 3200, 4, 4)
    assert {status for *_, name, status in lines(tmp_path) if name == "numbers"} == {"ok"}


def test_what_an_app_forks_writes_nothing(host, tmp_path):
    running = host(source=FLASK, cwd=tmp_path, *["app:app", "--perf"])
    assert running.get("/fork").text == "forked" and running.get("/items/1").status == 200
    assert running.stop() == 0
    assert named(tmp_path) == {"GET /fork": 1, "GET /items/<int:item>": 1, "shop.buy": 1, "shop.buy.stock": 1, "app.inner": 1}
    assert len(list((tmp_path / "perf/logs/1").glob("*.log"))) == 1


def test_asgi_calls_are_noted(host, tmp_path):
    running = host(source=ASGI, cwd=tmp_path, *["app:app", "-w", "2", "--perf"])
    asked = [threading.Thread(target=running.get, args=(f"/wait/{n}",)) for n in range(20)]
    for one in asked:
        one.start()
    for one in asked:
        one.join()
    assert running.get("/stream").body == b"piece" * 3
    assert (running.get("/fails").status, running.get("/nowhere").status) == (500, 404)
    with running.raw() as raw:
        raw.send(
            b"GET /ws/7 HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        assert raw.answer().status == 101
        raw.rest()
    assert running.stop() == 0
    found = named(tmp_path)
    assert (found["GET /wait/{name}"], found["wait"], found["block"], found["pieces"]) == (20, 40, 20, 1)
    statuses = {name: status for *_, name, status in lines(tmp_path)}
    assert (statuses["GET /fails"], statuses["GET (no route)"], statuses["GET /stream"]) == ("500", "404", "200")
    assert (statuses["WEBSOCKET /ws/{room}"], statuses["pieces"]) == ("101", "ok")
    waits = sorted(duration for *_, duration, name, _ in lines(tmp_path) if name == "wait")
    assert waits[19] < 2_000_000 < waits[20], "tasks that overlap are told apart"


def test_paths_without_a_known_route_make_no_endless_list(host, tmp_path):
    source = "def app(environ, start):\n    start('200 OK', [])\n    return [b'x']\n"
    running = host(source=source, cwd=tmp_path, *["app:app", "--perf"])
    with running.raw(30) as raw:
        for number in range(700):
            raw.send(f"GET /page-{number}?q={number} HTTP/1.1\r\nHost: a\r\n\r\n".encode()).answer()
        for path in ("/orders/17/lines/4", "/o/8f14e45fceea167a5a36dedd4bea2543", "/a/b", "/" + "k" * 50):
            raw.send(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode()).answer()
    running.stop()
    found = named(tmp_path)
    assert len(found) == 501 and found["GET (other)"] == 204 and found["GET /page-3"] == 1
    again = host(source=source, cwd=tmp_path, *["app:app", "--perf"])
    for path in ("/orders/17/lines/4", "/o/8f14e45fceea167a5a36dedd4bea2543", "/a/b", "/" + "k" * 50):
        again.get(path)
    again.stop()
    assert set(named(tmp_path, 2)) == {"GET /orders/{}/lines/{}", "GET /o/{}", "GET /a/b", "GET /{}"}


def test_a_run_is_from_start_to_stop(host, tmp_path):
    """Reloads and killed workers belong to it; the next start is the next number."""
    running = host(source=FLASK, cwd=tmp_path, *["app:app", "-w", "2", "--perf"])
    first = {worker.pid for worker in running.workers()}
    for number in range(10):
        running.get(f"/items/{number}")
    # The line of a request comes behind those of what it called.
    eventually(lambda: named(tmp_path)["GET /items/<int:item>"] == 10, 30, "written within a second")
    victim = running.workers()[0].pid
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: len(running.workers()) == 2 and victim not in {w.pid for w in running.workers()}, 20)
    assert named(tmp_path)["shop.buy"] == 10, "what was written stays"
    load = Client(running, "/items/{n}")
    running.kill(signal.SIGHUP)
    eventually(lambda: len(running.workers()) == 2 and not first & {w.pid for w in running.workers()}, 30)
    assert "going on" in perf(tmp_path).stdout
    load.finish()
    assert not load.failures
    last = {worker.pid for worker in running.workers()}
    running.get("/items/1")
    assert running.stop() == 0
    assert "going on" not in perf(tmp_path).stdout
    pids = {pid for pid, *_ in lines(tmp_path, 1)}
    assert pids & first and pids & last and not (tmp_path / "perf/logs/2").exists()
    assert named(tmp_path)["GET /items/<int:item>"] == load.count + 11, "no call of a worker that ends in order is lost"
    again = host(source=FLASK, cwd=tmp_path, *["app:app", "--perf"])
    again.get("/items/1")
    assert again.stop() == 0
    assert named(tmp_path, 2)["shop.buy"] == 1
    rows = [json.loads(line) for line in perf(tmp_path, "--json").stdout.splitlines()]
    assert [row["run"] for row in rows] == [1, 2] and rows[0]["start"] < rows[1]["start"]


def test_a_lost_server_goes_on_with_its_run(host, tmp_path):
    running = host(source=FLASK, cwd=tmp_path, *["app:app", "--perf"])
    running.get("/items/1")
    eventually(lambda: named(tmp_path)["shop.buy"] == 1)
    running.server().kill()
    running.log.wait(r"\bready\b", 30, count=2, alive=running.alive)
    running.get("/items/1")
    assert running.stop() == 0
    assert named(tmp_path, 1)["shop.buy"] == 2 and not (tmp_path / "perf/logs/2").exists()


def test_off_means_nothing_is_written(host, tmp_path):
    running = host(source=FLASK, cwd=tmp_path, *["app:app"])
    assert running.get("/items/1").status == 200
    assert running.stop() == 0
    assert not (tmp_path / "perf").exists()


def test_old_runs_make_room_and_strange_files_stay(host, tmp_path):
    logs = tmp_path / "perf/logs"
    for number in (3, 4, 5, 6):
        (logs / str(number)).mkdir(parents=True)
        (logs / str(number) / "17.log").write_text("1\t2\ta\tok\n")
    (logs / "4" / "notes.txt").write_text("mine")
    (logs / "0005").mkdir()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "1.log").write_text("precious")
    (logs / "2").symlink_to(outside)
    running = host(source=FLASK, cwd=tmp_path, *["app:app", "--perf", "--perf-keep", "2"])
    running.get("/items/1")
    assert running.stop() == 0
    assert {path.name for path in logs.iterdir()} == {"0005", "2", "4", "6", "7"}
    assert (logs / "4" / "notes.txt").read_text() == "mine" and (outside / "1.log").read_text() == "precious"
    assert named(tmp_path, 7)["shop.buy"] == 1


def test_a_run_that_goes_on_is_not_removed(host, tmp_path):
    running = host(source=FLASK, cwd=tmp_path, *["app:app", "--perf", "--perf-keep", "1"])
    running.get("/items/1")
    eventually(lambda: named(tmp_path)["shop.buy"] == 1)
    other = host(source=FLASK, cwd=tmp_path, *["app:app", "--perf", "--perf-keep", "1"])
    other.get("/items/1")
    assert running.get("/items/2").status == 200
    assert running.stop() == 0 and other.stop() == 0
    assert (named(tmp_path, 1)["shop.buy"], named(tmp_path, 2)["shop.buy"]) == (2, 1)


def test_all_runs_stay_below_their_size(host, tmp_path):
    logs = tmp_path / "perf/logs"
    (logs / "1").mkdir(parents=True)
    (logs / "1" / "17.log").write_text("1\t2\ta\tok\n" * 2000)
    running = host(source=FLASK, cwd=tmp_path, *["app:app", "--perf", "--perf-size", "16K"])
    running.get("/items/1")
    eventually(lambda: named(tmp_path, 2)["shop.buy"] == 1, 5)
    assert not (logs / "1").exists(), "the oldest makes room"
    assert running.stop() == 0
    small = host(source=FLASK, cwd=tmp_path, *["app:app", "--perf", "--perf-keep", "1", "--perf-size", "4K"])
    small.get("/items/1")
    small.log.wait(r"perf: worker \d+: all runs together have reached perf_size \(4096 bytes\)")
    assert small.get("/items/1").status == 200 and small.stop() == 0
    assert small.log.matches(r"perf: 8 calls of this worker were not written") and not lines(tmp_path, 3)


def test_a_full_disk_harms_no_request(host, tmp_path):
    """A limit of the process stands for the disk: the kernel refuses in the same place."""
    running = host(source=FLASK, cwd=tmp_path, *["app:app", "--perf"])
    running.get("/full")
    for number in range(50):
        assert running.get(f"/items/{number}").status == 200
    running.log.wait(r"perf: worker \d+: its calls cannot be written: File too large")
    assert running.get("/items/1").status == 200
    assert running.stop() == 0
    assert len(running.log.matches("cannot be written")) == 1
    [file] = (tmp_path / "perf/logs/1").glob("*.log")
    assert file.stat().st_size <= 300
    done = perf(tmp_path, 1)
    assert "GET /full" in done.stdout and done.stderr in ("", "note: run 1: 1 files end within a line, which is left out\n")
    assert running.log.matches(r"perf: \d+ calls of this worker were not written")


def test_a_folder_that_cannot_be_made_is_a_warning(host, tmp_path):
    (tmp_path / "perf").write_text("a file")
    running = host(source=FLASK, cwd=tmp_path, *["app:app", "--perf"])
    running.log.wait(r"perf: no calls are timed: .*\(.*/perf/logs\)")
    assert running.get("/items/1").status == 200
    assert running.stop() == 0 and (tmp_path / "perf").read_text() == "a file"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_another_user_writes_as_itself_and_root_follows_nothing(tls):
    folder = Path(tempfile.mkdtemp(prefix="ostler-perf-"))
    folder.chmod(0o755)
    source = "from ostler import timed\n@timed\ndef app(environ, start):\n    start('200 OK', [])\n    return [b'x']\n"
    try:
        options = {"source": source, "folder": folder, "python": "/usr/bin/python3"}
        args = ("app:app", "--user", "nobody", "--perf")
        running = harness.start(*args, **options).wait_ready()
        running.log.wait(r"perf: no calls are timed: Permission denied")
        assert running.get("/").body == b"x" and running.stop() == 0
        nobody = 65534
        secret = folder / "secret"
        secret.mkdir(mode=0o700)
        (folder / "perf").mkdir()
        (folder / "perf/logs").symlink_to(secret)
        running = harness.start(*args, **options).wait_ready()
        running.log.wait(r"perf: no calls are timed: Permission denied")
        assert running.get("/").body == b"x" and running.stop() == 0 and not list(secret.iterdir())
        (folder / "perf/logs").unlink()
        os.chown(folder / "perf", nobody, nobody)
        running = harness.start(*args, **options).wait_ready()
        assert running.get("/").body == b"x" and running.stop() == 0
        made = [folder / "perf/logs", folder / "perf/logs/1", *(folder / "perf/logs/1").iterdir()]
        assert len(made) == 4 and {path.stat().st_uid for path in made} == {nobody}
        # What such an app could leave for root, who reads.
        (folder / "perf/logs/1/70.log").symlink_to("/etc/shadow")
        os.mkfifo(folder / "perf/logs/1/71.log")
        (folder / "perf/logs/2").symlink_to("/etc")
        done = perf(folder, 1)
        assert "app.app" in done.stdout and "root:" not in done.stdout + done.stderr
        assert "1/70.log: " in done.stderr and "1/71.log: no regular file" in done.stderr
        assert perf(folder).returncode == 0
    finally:
        shutil.rmtree(folder)


def test_outside_ostler_nothing_happens(tmp_path):
    """`python app.py`, with the package that the wheel has."""
    (tmp_path / "plain.py").write_text(
        "import asyncio\n"
        "from ostler import timed\n"
        "@timed\ndef one(): return 1\n"
        "@timed('two')\nasync def two(): return 2\n"
        "@timed\ndef three():\n    yield 3\n"
        "@timed\nasync def four():\n"
        "    try:\n        got = yield 4\n"
        "    except KeyError:\n        got = yield 'caught'\n"
        "    yield got\n"
        "async def check():\n"
        "    items = four()\n"
        "    assert await items.asend(None) == 4 and await items.athrow(KeyError()) == 'caught'\n"
        "    assert await items.asend('x') == 'x' and [item async for item in items] == []\n"
        "    return await two()\n"
        "with timed('block') as nothing:\n    assert one() == 1 and list(three()) == [3] and asyncio.run(check()) == 2\n"
        "assert one.__name__ == 'one' and nothing is None\n"
        "for wrong in (timed(), 5):\n"
        "    try:\n"
        "        with wrong if wrong != 5 else timed(wrong): pass\n"
        "        assert False\n"
        "    except TypeError: pass\n"
        "print('harmless')\n"
    )
    env = {**os.environ, "PYTHONPATH": str(PACKAGE)}
    done = subprocess.run([sys.executable, "plain.py"], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("harmless\n", "") and list(tmp_path.glob("perf*")) == []
    assert (PACKAGE / "ostler/py.typed").exists()


@pytest.mark.parametrize("name, text, answer", [
    ("ostler.py", "def timed(f): return f\nmine = 'own'\n", "own"),
    ("ostler/state.txt", "", "ostler's"),
])
def test_an_own_module_of_that_name_is_the_apps(host, tmp_path, name, text, answer):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
    source = (
        "import ostler\n"
        "@ostler.timed\ndef app(environ, start):\n"
        "    start('200 OK', [])\n    return [getattr(ostler, 'mine', \"ostler's\").encode()]\n"
    )
    running = host(source=source, cwd=tmp_path, *["app:app", "--perf"])
    assert running.get("/").text == answer


def test_a_project_of_a_file_has_runs_of_its_own(host, tmp_path):
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop/app.py").write_text(FLASK)
    (tmp_path / "shop/ostler.toml").write_text('[web]\nperf = true\nperf_dir = "times"\n')
    port = harness.free_port()
    (tmp_path / "ostler.toml").write_text(
        f'[server]\nlisten = ["127.0.0.1:{port}"]\nstate = "state"\n'
        f'[projects.shop]\nsource = "shop"\nhosts = ["*"]\n[projects.shop.web]\napp = "app:app"\npython = "{sys.executable}"\n'
    )
    running = host.serve(port=port, ready=r"shop.*\bready\b|\bready\b")
    assert eventually(lambda: running.get("/items/1").status == 200, 20)
    assert running.stop() == 0
    assert "shop.buy" in perf(tmp_path, "last", "--project", "shop").stdout
    assert "shop.buy" in perf(tmp_path, "last").stdout, "the only project"
    assert list((tmp_path / "shop/times/1").glob("*.log")) and not (tmp_path / "shop/perf").exists()
    (tmp_path / "shop/ostler.toml").write_text('[web]\nperf = true\nperf_dir = "../../times"\n')
    done = subprocess.run([harness.OSTLER, "check"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and "perf_dir" in done.stderr and "leads out of the checkout" in done.stderr


def test_two_runs_are_compared(tmp_path):
    def run(number, *calls):
        folder = tmp_path / f"perf/logs/{number}"
        folder.mkdir(parents=True)
        text = "".join(f"{10**15 + n}\t{base + n % 50}\t{name}\tok\n" for name, count, base in calls for n in range(count))
        (folder / "1.log").write_text(text)

    run(1, ("same", 500, 1000), ("worse", 500, 1000), ("rare", 3, 1000), ("gone", 20, 10))
    run(2, ("same", 500, 1001), ("worse", 500, 1500), ("rare", 3, 9000), ("new", 20, 10))
    rows = {row["name"]: row for row in map(json.loads, perf(tmp_path, 1, 2, "--json").stdout.splitlines())}
    assert {name: row["verdict"] for name, row in rows.items()} == {
        "same": "same", "worse": "slower", "rare": "few", "gone": "gone", "new": "new",
    }
    assert 1.4 < rows["worse"]["p50_ratio"] < 1.6
    assert {row["name"]: row["verdict"] for row in map(json.loads, perf(tmp_path, 2, 1, "--json").stdout.splitlines())}["worse"] == "faster"
    text = perf(tmp_path, 1, "last").stdout
    assert re.search(r"500 → 500 .* ×1\.\d\d .* slower +worse$", text, re.M) and "\x1b" not in text
    head, *table = text.splitlines()[1:]
    column = head.rindex("CALL")
    assert sorted(line[column:] for line in table) == ["gone", "new", "rare", "same", "worse"], "tables line up"


def test_any_bytes_are_read(tmp_path):
    """Lines that are none, cut ones, and files without end, in memory that does not grow."""
    folder = tmp_path / "perf/logs/1"
    folder.mkdir(parents=True)
    (folder / "1.log").write_bytes(b"1\t2\tgood\tok\nnonsense\n\n5\t6\t\x1b[2Jname\xff\tok\n7\t8\tcut\to")
    (folder / "2.log").write_bytes(b"\0" * (32 << 20) + b"\n1\t2\tgood\tok\n")
    (folder / "notes.txt").write_text("mine")
    done = perf(tmp_path, 1, env={"MALLOC_ARENA_MAX": "1"})
    assert re.search(r"^ +2 .*good$", done.stdout, re.M) and "\x1b" not in done.stdout
    assert "3 bad lines are left out: 1/1.log:2, 1/1.log:3, 1/2.log:1" in done.stderr
    assert "1 other files are not read" in done.stderr and "1 files end within a line" in done.stderr
    for bad in (("9",), ("x",), ("--limit", "x"), ("--folder", "nowhere")):
        command = [harness.OSTLER, "perf", *bad]
        refused = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert refused.returncode == 2 and "error: " in refused.stderr and "hint: " in refused.stderr
