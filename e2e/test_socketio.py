"""Flask-SocketIO with several workers: polling, upgrade, broadcast, one worker killed."""

import os
import threading

import pytest
import requests
import socketio

from harness import eventually


@pytest.fixture
def four(host, redis_url):
    return host("socketio_app:app", "-w", "4", "--threads", "8", env={"REDIS_URL": redis_url})


class Listener:
    def __init__(self, host, transports):
        self.news = []
        self.client = socketio.Client(reconnection_delay=0.1, reconnection_delay_max=0.5)
        self.client.on("news", self.news.append)
        self.client.connect(host.url, transports=transports, wait_timeout=20)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.disconnect()


@pytest.mark.parametrize("transports", [["polling"], ["websocket"], ["polling", "websocket"]])
def test_calls_are_answered(four, transports):
    with Listener(four, transports) as one:
        for n in range(20):
            assert one.client.call("echo", {"n": n}, timeout=10) == {"n": n}


def test_polling_client_stays_with_its_worker(four):
    listeners = [Listener(four, ["polling"]) for _ in range(8)]
    try:
        for one in listeners:
            workers = {one.client.call("who", timeout=10) for _ in range(10)}
            assert len(workers) == 1
    finally:
        for one in listeners:
            one.client.disconnect()


def test_broadcast_reaches_everybody_in_every_worker(four):
    kinds = [["polling"], ["websocket"], ["polling", "websocket"]] * 3
    listeners = [Listener(four, kind) for kind in kinds]
    try:
        assert requests.post(four.url + "/announce", json={"n": 1}).status_code == 204
        eventually(lambda: all(one.news == [{"n": 1}] for one in listeners), 15)
        listeners[0].client.emit("shout", {"n": 2})
        eventually(lambda: all(one.news == [{"n": 1}, {"n": 2}] for one in listeners), 15)
    finally:
        for one in listeners:
            one.client.disconnect()


def test_plain_pages_are_served_beside_open_sockets(four):
    listeners = [Listener(four, ["websocket"]) for _ in range(40)]
    try:
        assert all(requests.get(four.url + "/pid", timeout=5).status_code == 200 for _ in range(20))
    finally:
        for one in listeners:
            one.client.disconnect()


@pytest.mark.parametrize("transports", [["polling"], ["websocket"]])
def test_killed_worker_loses_only_its_own_clients_and_they_come_back(four, transports):
    listeners = [Listener(four, transports) for _ in range(6)]
    try:
        where = [one.client.call("who", timeout=10) for one in listeners]
        victim = where[0]
        again = [threading.Event() for _ in listeners]
        for one, event in zip(listeners, again):
            one.client.on("connect", event.set)
        os.kill(victim, 9)
        for one, worker, event in zip(listeners, where, again):
            if worker == victim:
                assert event.wait(30), "it connects anew"
            else:
                assert one.client.call("who", timeout=10) == worker
        requests.post(four.url + "/announce", json={"n": 3})
        eventually(lambda: all({"n": 3} in one.news for one in listeners), 20)
    finally:
        for one in listeners:
            one.client.disconnect()
