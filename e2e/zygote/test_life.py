"""From hello to the last exit: fork, serve, report, end."""

import os
import signal

import pytest

from conftest import HELLO, PATIENCE


def test_a_worker_serves_and_ends_when_its_slot_ends(folder, start):
    folder(app=HELLO)
    zygote = start()
    loaded = zygote.start()
    assert loaded == {"type": "loaded", "preloaded": True, "why_not": None, "interface": "wsgi"}
    worker = zygote.fork(7)
    assert worker.control.expect("booted")["pid"] == worker.pid
    worker.give_slots(1)
    worker.control.expect("ready")
    assert worker.slots[0].get("/x") == "hello /x"
    worker.end()
    assert worker.wait() == 0
    zygote.control.send({"type": "retire"})
    assert zygote.wait() == 0
