"""The example as `make run` serves it."""

import os
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
import requests

import harness

MARKET = harness.ROOT / "examples" / "market"


@pytest.fixture(params=["sqlite", "redis"])
def market(request, host, tmp_path):
    if request.param == "sqlite":
        env = {"MARKET_DB": str(tmp_path / "market.db"), "REDIS_URL": ""}
    else:
        url = request.getfixturevalue("redis_url")
        redis.Redis.from_url(url).flushdb()
        env = {"REDIS_URL": url}
    return host("app:app", "-w", "4", "--static", "/static=static", cwd=MARKET, env=env)


def test_eight_clients_through_four_workers_lose_no_trade(market):
    with requests.Session() as session:
        assert session.put(market.url + "/markets/cup", json={"b": 100, "outcomes": 3}).status_code == 201
    with ThreadPoolExecutor(8) as clients:
        accepted = list(clients.map(lambda n: trade_until_accepted(market.url, n, 25), range(8)))
    expected = [sum(bought) for bought in zip(*(vector for one in accepted for vector in one))]
    seen = requests.get(market.url + "/markets/cup").json()
    assert seen["holdings"] == expected
    assert seen["trades"] == sum(len(one) for one in accepted) == 8 * 25
    assert sum(seen["prices"]) == pytest.approx(1)


def trade_until_accepted(url, client, count):
    """Makes `count` trades, each agreed to at the price of the last refusal, and returns them."""
    done = []
    with requests.Session() as session:
        for n in range(count):
            quantity = [0.0, 0.0, 0.0]
            quantity[(client + n) % 3] = float(1 + client)
            price = 0.0
            while True:
                answer = session.post(url + "/markets/cup/trades", json={"quantity": quantity, "price": price})
                if answer.status_code == 201:
                    break
                assert answer.status_code in (409, 503), answer.text
                price = answer.json().get("price", price)
            done.append(quantity)
    return done


def test_markets_are_seen_by_every_worker_and_survive_a_restart(market):
    assert requests.put(market.url + "/markets/a", json={"b": 10, "outcomes": 2}).status_code == 201
    for _ in range(20):
        assert requests.get(market.url + "/markets/a").json()["prices"] == [0.5, 0.5]
    market.kill(signal.SIGHUP)
    market.log.wait("reload complete")
    assert requests.get(market.url + "/markets/a").json()["prices"] == [0.5, 0.5]


@pytest.mark.smoke
def test_page_and_its_files(host, tmp_path):
    running = host("app:app", "-w", "2", "--static", "/static=static", cwd=MARKET, env={"MARKET_DB": str(tmp_path / "m.db")})
    page = requests.get(running.url + "/")
    assert page.status_code == 200 and "<h1>Markets</h1>" in page.text
    assert requests.get(running.url + "/static/market.js").headers["ETag"]
    assert requests.get(running.url + "/static/market.css").status_code == 200


def test_make_run_drains_on_ctrl_c_and_exits_0(tmp_path):
    """Through a terminal, as a person does it: only there Ctrl-C reaches a whole foreground group."""
    import pty

    port = harness.free_port()
    env = {**os.environ, "OSTLER_BIN": str(harness.OSTLER), "MARKET_DB": str(tmp_path / "m.db")}
    link = MARKET / ".venv"
    if not link.exists():
        subprocess.run(["make", "examples/market/.venv/ready"], cwd=harness.ROOT, check=True, capture_output=True)
    makefile = tmp_path / "Makefile"
    makefile.write_text(f"run:\n\t@{MARKET}/serve 127.0.0.1:{port}\n")
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        os.execvpe("make", ["make", "run"], env)
    said = b""
    while b"ready" not in said.split(b"Ctrl-C stops it.")[-1]:
        said += os.read(terminal, 4096)
    assert b"curl" in said and f"http://127.0.0.1:{port}".encode() in said
    assert requests.get(f"http://127.0.0.1:{port}/markets").json() == {"markets": []}
    os.write(terminal, b"\x03")
    try:
        while data := os.read(terminal, 4096):
            said += data
    except OSError:
        pass  # the terminal is gone with its last process
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, said.decode()
