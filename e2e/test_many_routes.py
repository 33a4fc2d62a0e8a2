"""A configuration of 10,000 routes: each leads where it should, and a reload of them is noticed by nobody."""

import random

import pytest

import harness
from harness import Client, eventually
from test_serve import Machine
from test_status import ostler
from test_upstreams import Upstream

PROJECTS, HOSTS, PREFIXES = 100, 10, 10


class Many(Machine):
    """Projects with upstreams in turn, and `ostler serve` for them."""

    def __init__(self, host, folder):
        self.file, self.port = folder / "ostler.toml", harness.free_port()
        says = lambda body: lambda *_: b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n" + body
        self.upstreams = [Upstream(says(b"0")), Upstream(says(b"1"))]
        self.write(self.text())
        self.host = host.serve(port=self.port, folder=folder, ready=f"p{PROJECTS - 1}: requests go on")

    def text(self, changed=""):
        text = f'[server]\nlisten = ["127.0.0.1:{self.port}"]\nstate = "state"\n'
        for project in range(PROJECTS):
            hosts = ", ".join(f'"h{number}.p{project}.test"' for number in range(HOSTS))
            text += f'[projects.p{project}]\nhosts = [{hosts}]\nupstreams = ["{self.upstreams[project % 2].url}"]\n'
            prefixes = [f"/p{number}" for number in range(PREFIXES)] + [changed] * (project == 50 and changed != "")
            text += "".join(f'[[projects.p{project}.routes]]\nprefix = "{prefix}"\n' for prefix in prefixes)
        return text

    def ask(self, project, host, path):
        answer = self.host.get(path, {"Host": f"h{host}.p{project}.test"})
        return int(answer.body) if answer.status == 200 else answer.status


@pytest.fixture
def many(host, tmp_path):
    return Many(host, tmp_path)


def test_reload_of_ten_thousand_routes_with_one_changed_is_noticed_by_nobody(many):
    chance = random.Random(1)
    for _ in range(200):
        project, host, prefix = (chance.randrange(most) for most in (PROJECTS, HOSTS, PREFIXES))
        assert many.ask(project, host, f"/p{prefix}/x") == project % 2
    assert many.ask(50, 3, "/new") == 404 and many.ask(50, HOSTS, "/p0") == 404
    clients = [Client(many.host, "/p7/{n}", keep, name=f"h1.p{number}.test") for number, keep in [(1, True), (50, True), (98, False)]]
    try:
        eventually(lambda: all(client.count > 5 for client in clients))
        for changed in ["/new", "/newer"]:
            many.write(many.text(changed))
            done = ostler(many, "reload")
            assert done.returncode == 0, done.stderr
            assert "p50: changed" in done.stdout and done.stdout.count("changed") == 1, done.stdout
            assert many.ask(50, 3, f"{changed}/x") == 0
        counts = [client.count for client in clients]
        eventually(lambda: all(client.count > count + 5 for client, count in zip(clients, counts)))
    finally:
        found = [client.finish().failures for client in clients]
    assert found == [[], [], []]
    assert many.ask(50, 3, "/new/x") == 404
