"""Puts the example on the path, and starts the Redis server that the tests share."""

import os
import shutil
import socket
import subprocess
import sys
import time

import pytest

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory):
    """A real Redis on a free port, with nothing kept on disk."""
    assert shutil.which("redis-server"), "these tests need redis-server: apt-get install redis-server"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tmp_path_factory.mktemp("redis")
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        answers(port)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        server.terminate()
        server.wait(10)


def answers(port, seconds=10.0):
    """Returns once PING is answered. There is no event to wait for, so this asks, with a deadline."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), 1) as asked:
                asked.sendall(b"PING\r\n")
                if asked.recv(16).startswith(b"+PONG"):
                    return
        except ConnectionRefusedError:
            pass
        assert time.monotonic() < deadline, "redis-server did not start"
        time.sleep(0.02)


@pytest.fixture(params=["sqlite", "redis"])
def store_url(request, tmp_path):
    """The environment that selects one store, empty: every test here runs once per store."""
    if request.param == "sqlite":
        return {"MARKET_DB": str(tmp_path / "market.db")}
    import redis

    url = request.getfixturevalue("redis_url")
    redis.Redis.from_url(url).flushdb()
    return {"REDIS_URL": url}


@pytest.fixture
def environment(store_url, monkeypatch):
    monkeypatch.delenv("REDIS_URL", raising=False)
    for name, value in store_url.items():
        monkeypatch.setenv(name, value)
