"""Socket.IO with several workers, under WSGI (Flask-SocketIO) and ASGI: polling, upgrade, broadcast, one worker killed."""

import os
import threading

import pytest
import requests
import socketio

from harness import eventually


@pytest.fixture
def threads(host, redis_url):
    """Flask-SocketIO in threading mode."""
    return host("socketio_app:app", "-w", "4", "--threads", "8", env={"REDIS_URL": redis_url})


@pytest.fixture(params=["threads", "loops"])
def four(request, host, redis_url):
    """Four workers with threads, four with event loops. Clients that only poll are for the first: on a
    loop python-engineio answers the last poll of a client that leaves only after half a minute."""
    if request.param == "threads":
        return request.getfixturevalue("threads")
    return host("async_socketio_app:app", "-w", "4", env={"REDIS_URL": redis_url})


class Listener:
    def __init__(self, host, transports):
        self.news, self.probed = [], threading.Event()
        self.client = socketio.Client(reconnection_delay=0.1, reconnection_delay_max=0.5)
        self.client.on("news", self.take)
        self.client.connect(host.url, transports=transports, wait_timeout=20)

    def take(self, data):
        if data == PROBE:
            self.probed.set()
        else:
            self.news.append(data)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.disconnect()


PROBE = {"n": 0}


def all_hear(host, listeners):
    """Until an announcement reaches each of them: a worker subscribes to Redis in a thread of its own once its first
    client has come, and what is said before that is lost to it."""
    for one in listeners:
        one.probed.clear()

    def heard():
        assert requests.post(host.url + "/announce", json=PROBE).status_code == 204
        return all(one.probed.wait(0.2) for one in listeners)

    eventually(heard, 30, "every worker listens to Redis")


@pytest.mark.parametrize("transports", [["websocket"], ["polling", "websocket"]])
def test_calls_are_answered(four, transports):
    with Listener(four, transports) as one:
        for n in range(20):
            assert one.client.call("echo", {"n": n}, timeout=10) == {"n": n}


def test_every_request_of_a_session_reaches_its_worker(four):
    url = four.url + "/socket.io/?EIO=4&transport=polling"
    replies = [requests.get(url).text for _ in range(12)]
    for opened in replies:
        sid = opened.split('"sid":"')[1].split('"')[0]
        assert [requests.post(f"{url}&sid={sid}", data="40").status_code for _ in range(4)] == [200] * 4


def test_session_that_nobody_knows_is_refused_by_the_app(four):
    url = four.url + "/socket.io/?EIO=4&transport=polling&sid=unknown"
    assert requests.get(url).status_code == 400


def test_polling_client_stays_with_its_worker(threads):
    listeners = [Listener(threads, ["polling"]) for _ in range(8)]
    try:
        for one in listeners:
            workers = {one.client.call("who", timeout=10) for _ in range(10)}
            assert len(workers) == 1
    finally:
        for one in listeners:
            one.client.disconnect()


def test_broadcast_reaches_everybody_in_every_worker(four, request):
    polling = ["polling"] if "threads" in request.node.name else ["polling", "websocket"]
    kinds = [polling, ["websocket"], ["polling", "websocket"]] * 3
    listeners = [Listener(four, kind) for kind in kinds]
    try:
        all_hear(four, listeners)
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


def test_killed_worker_loses_only_its_own_polling_clients(threads):
    only_its_own_clients_are_lost(threads, ["polling"])


def test_killed_worker_loses_only_its_own_websockets(four):
    only_its_own_clients_are_lost(four, ["websocket"])


def only_its_own_clients_are_lost(four, transports):
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
        all_hear(four, listeners)
        requests.post(four.url + "/announce", json={"n": 3})
        eventually(lambda: all({"n": 3} in one.news for one in listeners), 20)
    finally:
        for one in listeners:
            one.client.disconnect()
