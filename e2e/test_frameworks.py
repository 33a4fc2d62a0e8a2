"""Real apps through real clients: Flask, Django, FastAPI, httpbin and smaller ones, with requests, httpx and curl."""

import subprocess

import httpx
import pytest
import requests


def conforms(url, stream="/stream", slow="/slow"):
    """What every one of the four must do alike."""
    with requests.Session() as session:
        lines = session.get(url + stream, stream=True).text.splitlines()
        assert lines == [f"line {n}" for n in range(100)]
        assert session.get(url + slow).status_code == 200
        assert session.get(url + "/nothing/here").status_code == 404
        assert session.get(url + "/error").status_code == 500
        assert session.head(url + "/").text == ""
    curl = subprocess.run(["curl", "-sS", "-i", "--compressed", url + "/"], check=True, capture_output=True, text=True).stdout
    assert curl.startswith("HTTP/1.1 200") and "hello" in curl.lower()


@pytest.mark.smoke
def test_flask(host):
    running = host("flask_app:app", "-w", "2", "--threads", "2")
    conforms(running.url)
    with requests.Session() as session:
        posted = session.post(running.url + "/form", data={"a": ["1", "2"]}, files={"f": ("name.bin", b"x" * 3_000_000)})
        assert posted.json() == {"fields": {"a": ["1", "2"]}, "files": {"f": ["name.bin", 3_000_000]}}
        assert session.post(running.url + "/json", json={"n": [1, None, "\u00e9"]}).json() == {"n": [1, None, "\u00e9"]}
        assert [session.get(running.url + "/session").json() for _ in range(3)] == [1, 2, 3]
        assert session.get(running.url + "/redirect").json()["url"] == running.url + "/where"
        assert session.get(running.url + "/caf\u00e9/w\u00f6rld").text == "\u00e9: w\u00f6rld"
        assert "A Flask app" in session.get(running.url + "/file").text
        assert session.get(running.url + "/teapot").status_code == 418
        assert len(session.get(running.url + "/cookies").raw.headers.getlist("Set-Cookie")) == 2
        assert session.get(running.url + "/cookies").json() == {"a": "1", "b": "2", "session": session.cookies["session"]}
        assert session.put(running.url + "/").status_code == 405


def test_flask_chunked_upload(host):
    running = host("flask_app:app")

    def parts():
        yield b'{"a": '
        yield b"1}"

    answer = requests.post(running.url + "/json", data=parts(), headers={"Content-Type": "application/json"})
    assert answer.json() == {"a": 1}


def test_forwarded_scheme_and_host_reach_flask(host):
    running = host("flask_app:app")
    said = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "9.9.9.9"}
    seen = requests.get(running.url + "/where", headers=said).json()
    assert seen["secure"] and seen["addr"] == "9.9.9.9" and seen["url"].startswith("https://")


@pytest.mark.parametrize("target", ["django_app:app", "django_app:asgi"])
def test_django(host, target):
    running = host(target, "-w", "2")
    conforms(running.url)
    with requests.Session() as session:
        posted = session.post(running.url + "/upload", data={"a": "1"}, files={"f": ("n", b"x" * 3_000_000)})
        assert posted.json() == {"fields": {"a": "1"}, "files": {"f": 3_000_000}}
        assert session.post(running.url + "/body", data=b"\0\xff").content == b"\0\xff"
        assert [session.get(running.url + "/visits").json()["visits"] for _ in range(3)] == [1, 2, 3]
        assert session.get(running.url + "/where").json() == {"url": running.url + "/where", "secure": False, "addr": "127.0.0.1"}
        assert "Django in one file" in session.get(running.url + "/file").text


def test_fastapi(host, tmp_path):
    ended = tmp_path / "ended"
    running = host("fastapi_app:app", "-w", "2", env={"LIFESPAN_ENDED": str(ended)})
    conforms(running.url)
    with httpx.Client(base_url=running.url) as client:
        assert client.get("/async").json() == {"hello": "async"}
        assert client.get("/state").json() == {"started": True, "client": "127.0.0.1", "url": running.url + "/state"}
        assert client.post("/items", json={"name": "a", "price": 1.5}).json() == {"name": "a", "price": 1.5}
        assert client.post("/items", json={"name": "a"}).status_code == 422
        uploaded = client.post("/upload", data={"note": "n"}, files={"file": ("f.bin", b"x" * 3_000_000)})
        assert uploaded.json() == {"size": 3_000_000, "name": "f.bin", "note": "n"}
        assert client.post("/body", content=(b"x" * 1000 for _ in range(500))).json() == 500_000
        assert "FastAPI app" in client.get("/file").text
        assert client.get("/docs").status_code == 200
        assert client.get("/teapot").status_code == 418
    assert running.stop() == 0
    assert ended.exists(), "the lifespan has ended in order"


def test_fastapi_async_client_with_many_at_once(host):
    import asyncio

    running = host("fastapi_app:app")

    async def many():
        async with httpx.AsyncClient(base_url=running.url, limits=httpx.Limits(max_connections=100)) as client:
            answers = await asyncio.gather(*(client.get("/slow?seconds=0.2", timeout=30) for _ in range(200)))
            return {answer.status_code for answer in answers}

    assert asyncio.run(many()) == {200}


def test_httpbin(host):
    running = host("httpbin:app", "-w", "2", "--threads", "2")
    with httpx.Client(base_url=running.url, timeout=20) as client:
        for method in ("get", "post", "put", "patch", "delete"):
            assert client.request(method, f"/{method}", params={"a": "b"}).json()["args"] == {"a": "b"}
        assert client.post("/post", data={"x": "y"}).json()["form"] == {"x": "y"}
        assert client.post("/post", content=b"\xff" * 10).json()["data"].startswith("data:application/octet-stream;base64,")
        assert client.get("/gzip").json()["gzipped"] and client.get("/deflate").json()["deflated"]
        assert len(client.get("/bytes/100000").content) == 100_000
        assert len(client.get("/stream-bytes/50000").content) == 50_000
        assert len(client.get("/stream/20").text.splitlines()) == 20
        assert client.get("/drip?duration=0.2&numbytes=5").content == b"*****"
        assert client.get("/range/1000", headers={"Range": "bytes=10-19"}).status_code == 206
        assert client.get("/basic-auth/a/b", auth=("a", "b")).json()["authenticated"]
        assert client.get("/digest-auth/auth/a/b", auth=httpx.DigestAuth("a", "b")).status_code == 200
        assert client.get("/redirect/3", follow_redirects=True).status_code == 200
        assert client.get("/cookies/set?a=b", follow_redirects=True).json()["cookies"]["a"] == "b"
        assert client.get("/encoding/utf8").status_code == 200
        assert client.get("/image/png").headers["content-type"] == "image/png"
        assert client.get("/delay/0.2").status_code == 200
        assert client.get("/etag/abc", headers={"If-None-Match": "abc"}).status_code == 304
        assert client.get("/response-headers?X-A=1&X-A=2").headers.get_list("x-a") == ["1", "2"]
        for code in (200, 201, 204, 301, 304, 400, 404, 418, 500, 503):
            assert client.get(f"/status/{code}").status_code == code
        assert client.get("/headers").json()["headers"]["Host"] == f"127.0.0.1:{running.port}"


def test_httpbin_chunked_upload(host):
    running = host("httpbin:app")
    answer = httpx.post(running.url + "/post", content=(b"part " for _ in range(3)))
    assert answer.json()["data"] == "part part part "


# An app in each framework: `/` says its name, `/up` the length of what was posted.
SMALL = {
    "bottle": """
import bottle
app = bottle.Bottle()
app.get("/")(lambda: "bottle")
app.post("/up")(lambda: str(len(bottle.request.body.read())))
""",
    "falcon": """
import falcon
class Resource:
    def on_get(self, request, response): response.text = "falcon"
    def on_post(self, request, response): response.text = str(len(request.bounded_stream.read()))
app = falcon.App()
app.add_route("/", Resource()), app.add_route("/up", Resource())
""",
    "falcon.asgi": """
import falcon.asgi
class Resource:
    async def on_get(self, request, response): response.text = "falcon.asgi"
    async def on_post(self, request, response): response.text = str(len(await request.stream.read()))
app = falcon.asgi.App()
app.add_route("/", Resource()), app.add_route("/up", Resource())
""",
    "litestar": """
from litestar import Litestar, Request, get, post
@get("/")
async def name() -> str: return "litestar"
@post("/up")
async def up(request: Request) -> str: return str(len(await request.body()))
app = Litestar([name, up])
""",
    "pyramid": """
from pyramid.config import Configurator
from pyramid.response import Response
with Configurator() as config:
    config.add_route("name", "/"), config.add_view(lambda request: Response("pyramid"), route_name="name")
    config.add_route("up", "/up"), config.add_view(lambda request: Response(str(len(request.body))), route_name="up")
    app = config.make_wsgi_app()
""",
    "quart": """
from quart import Quart, request
app = Quart(__name__)
@app.get("/")
async def name(): return "quart"
@app.post("/up")
async def up(): return str(len(await request.get_data()))
""",
    "starlette": """
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
async def name(request): return PlainTextResponse("starlette")
async def up(request): return PlainTextResponse(str(len(await request.body())))
app = Starlette(routes=[Route("/", name), Route("/up", up, methods=["POST"])])
""",
}


@pytest.mark.parametrize("framework", SMALL)
def test_smaller_frameworks(host, framework):
    running = host(source=SMALL[framework])
    body = bytes(300_000)
    kind = {"Content-Type": "application/octet-stream"}
    with httpx.Client(base_url=running.url) as client:
        assert client.get("/").text == framework
        assert client.post("/up", content=body, headers=kind).text == "300000"
        assert client.post("/up", content=iter([body[:1000], body[1000:]]), headers=kind).text == "300000"
