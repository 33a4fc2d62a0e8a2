"""`ostler serve`: several projects on one machine, each found under its own hosts and paths."""

import json

import harness

APP = """
import json
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps([environ["HTTP_HOST"], environ["SCRIPT_NAME"], environ["PATH_INFO"]]).encode()]
"""


def seen(host, name, path="/"):
    """Host, SCRIPT_NAME and PATH_INFO as the app saw them, or the code of ostler's own answer."""
    answer = host.get(path, {"Host": name, "Accept": "application/json"})
    told = json.loads(answer.body)
    return told if answer.status == 200 else (answer.status, told["code"])


def test_one_app_is_served_under_its_hosts_without_a_file(host, tmp_path):
    (tmp_path / "app.py").write_text(APP)
    port = harness.free_port()
    running = host.serve(
        "--host", "Example.com", "--host", "*.shop.test", "--listen", f"127.0.0.1:{port}", "app:app", port=port,
    )
    assert seen(running, "example.com", "/x") == ["example.com", "", "/x"]
    assert seen(running, "EXAMPLE.com.:80") == ["EXAMPLE.com.:80", "", "/"]
    assert seen(running, "a.shop.test") == ["a.shop.test", "", "/"]
    for stranger in ["b.a.shop.test", "shop.test", "other.test", "127.0.0.1"]:
        assert seen(running, stranger) == (404, "no_route")
