"""`--static PREFIX=DIR`: what is sent, what is saved, what is never shown."""

import gzip
import os
import time
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate, parsedate_to_datetime

import pytest

from harness import eventually
from slow_disk import SlowDisk

HELLO = """
def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "8")])
    return [b"from app"]
"""
TEXT = b"abcdefghijklmnopqrstuvwxyz" * 40


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    root = folder / "root"
    (root / "sub").mkdir(parents=True)
    (root / "text.txt").write_bytes(TEXT)
    (root / "sub" / "page.html").write_bytes(b"<p>page")
    (root / "large.bin").write_bytes(bytes(range(256)) * 4096)
    (root / "empty").write_bytes(b"")
    (root / "script.js").write_bytes(b"let a = 1;" * 100)
    (root / "script.js.gz").write_bytes(gzip.compress(b"let a = 1;" * 100))
    (root / "script.js.br").write_bytes(b"brotli, or so it says")
    (root / "sp ace é.txt").write_bytes(b"odd name")
    (folder / "outside.txt").write_bytes(b"outside")
    (root / "out").symlink_to(folder / "outside.txt")
    (root / "up").symlink_to(folder)
    (root / "inside").symlink_to("text.txt")
    for hidden in (".env", ".git/config", "sub/.hidden"):
        path = root / hidden
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"secret")
    (root / ".well-known").mkdir()
    (root / ".well-known" / "security.txt").write_bytes(b"contact")
    os.mkfifo(root / "pipe")
    return root


@pytest.fixture(scope="module", params=["memory", "disk"])
def site(module_host, files, request):
    """The same files: as the kernel tells what it has in memory, and where it never does."""
    disk = SlowDisk() if request.param == "disk" else None
    running = module_host("app:app", "--static", f"/static={files}", source=HELLO, disk=disk)
    running.follows_links = disk is None
    return running


@pytest.mark.smoke
def test_file_is_sent_with_its_type_and_validators(site):
    answer = site.get("/static/text.txt")
    assert answer.status == 200 and answer.body == TEXT
    assert answer.header("Content-Type").startswith("text/plain")
    assert answer.header("Accept-Ranges") == "bytes"
    assert answer.header("ETag") and parsedate_to_datetime(answer.header("Last-Modified"))
    assert site.get("/static/sub/page.html").header("Content-Type").startswith("text/html")
    assert site.get("/static/script.js").header("Content-Type").startswith(("text/javascript", "application/javascript"))


def test_large_and_empty_files(site, files):
    assert site.get("/static/large.bin").body == (files / "large.bin").read_bytes()
    empty = site.get("/static/empty")
    assert empty.status == 200 and empty.header("Content-Length") == "0"


def test_head_says_the_same_without_a_body(site):
    head, got = site.request("HEAD", "/static/text.txt"), site.get("/static/text.txt")
    assert head.status == 200 and head.body == b""
    assert [head.header(n) for n in ("Content-Length", "ETag", "Content-Type")] == [got.header(n) for n in ("Content-Length", "ETag", "Content-Type")]


def test_name_in_percent_escapes(site):
    assert site.get("/static/sp%20ace%20%C3%A9.txt").body == b"odd name"


def test_what_is_no_file_below_the_prefix_is_404_or_the_apps(site):
    assert site.get("/static/nothing.txt").status == 404
    assert site.get("/static/sub").status in (301, 308, 404)
    assert site.get("/staticky").body == b"from app"
    assert site.get("/").body == b"from app"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_only_get_and_head(site, method):
    answer = site.request(method, "/static/text.txt")
    assert answer.status == 405 and "GET" in answer.header("Allow")


# Conditions


def test_if_none_match(site):
    tag = site.get("/static/text.txt").header("ETag")
    for value in (tag, f'"other", {tag}', "*", f"W/{tag.removeprefix('W/')}"):
        answer = site.get("/static/text.txt", {"If-None-Match": value})
        assert answer.status == 304 and answer.body == b"" and answer.header("ETag") == tag
    assert site.get("/static/text.txt", {"If-None-Match": '"other"'}).status == 200


def test_if_modified_since(site):
    when = site.get("/static/text.txt").header("Last-Modified")
    assert site.get("/static/text.txt", {"If-Modified-Since": when}).status == 304
    assert site.get("/static/text.txt", {"If-Modified-Since": formatdate(0, usegmt=True)}).status == 200
    assert site.get("/static/text.txt", {"If-Modified-Since": "yesterday"}).status == 200
    both = {"If-Modified-Since": when, "If-None-Match": '"other"'}
    assert site.get("/static/text.txt", both).status == 200, "If-None-Match decides alone"


def test_if_match_and_if_unmodified_since(site):
    assert site.get("/static/text.txt", {"If-Match": '"other"'}).status == 412
    assert site.get("/static/text.txt", {"If-Unmodified-Since": formatdate(0, usegmt=True)}).status == 412


def test_changed_file_is_seen_within_a_second(site, files):
    changing = files / "changing.txt"
    took, old = [], b"one"
    changing.write_bytes(old)
    for new in (b"two, longer", b"three, longer still", b"four, as long as that is"):
        assert site.get("/static/changing.txt").body == old
        changing.write_bytes(new)
        began = time.monotonic()
        while (body := site.get("/static/changing.txt").body) != new:
            assert body == old and time.monotonic() - began < 15
        took.append(time.monotonic() - began)
        old = new
    # A delay of ostler's is in each of them.
    assert min(took) < 2.5, took


# Ranges


@pytest.mark.parametrize(
    "asked, expected, said",
    [
        ("bytes=0-4", TEXT[0:5], f"bytes 0-4/{len(TEXT)}"),
        ("bytes=5-5", TEXT[5:6], f"bytes 5-5/{len(TEXT)}"),
        ("bytes=1000-", TEXT[1000:], f"bytes 1000-1039/{len(TEXT)}"),
        ("bytes=-10", TEXT[-10:], f"bytes 1030-1039/{len(TEXT)}"),
        ("bytes=-99999", TEXT, f"bytes 0-1039/{len(TEXT)}"),
        ("bytes=1000-99999", TEXT[1000:], f"bytes 1000-1039/{len(TEXT)}"),
    ],
)
def test_single_range(site, asked, expected, said):
    answer = site.get("/static/text.txt", {"Range": asked})
    assert answer.status == 206 and answer.body == expected and answer.header("Content-Range") == said


@pytest.mark.parametrize("asked", ["bytes=2000-", "bytes=1040-1050", "bytes=-0"])
def test_range_beyond_the_end_is_416(site, asked):
    answer = site.get("/static/text.txt", {"Range": asked})
    assert answer.status == 416 and answer.header("Content-Range") == f"bytes */{len(TEXT)}"


@pytest.mark.parametrize("asked", ["bytes=5-4", "bytes=a-b", "lines=1-2", "bytes=", "bytes=1", "bytes=1-2-3"])
def test_range_that_is_none_is_ignored(site, asked):
    answer = site.get("/static/text.txt", {"Range": asked})
    assert answer.status == 200 and answer.body == TEXT


def test_several_ranges(site):
    answer = site.get("/static/text.txt", {"Range": "bytes=0-1,100-101,-2"})
    assert answer.status == 206
    kind = answer.header("Content-Type")
    assert kind.startswith("multipart/byteranges; boundary=")
    parts = answer.body.split(b"--" + kind.partition("boundary=")[2].strip('"').encode())
    assert len(parts) == 5 and parts[-1].strip() == b"--"
    for part, body, where in zip(parts[1:], (TEXT[0:2], TEXT[100:102], TEXT[-2:]), ("0-1", "100-101", "1038-1039")):
        head, _, content = part.partition(b"\r\n\r\n")
        assert f"bytes {where}/{len(TEXT)}".encode() in head and content == body + b"\r\n"


@pytest.mark.parametrize("asked", ["bytes=" + ",".join(f"{n}-{n}" for n in range(0, 400, 20)), "bytes=" + "0-," * 1000 + "0-"])
def test_bomb_of_ranges_gets_the_file_once(site, asked):
    answer = site.get("/static/text.txt", {"Range": asked})
    assert answer.status in (200, 400, 431) and len(answer.body) <= len(TEXT) + 1000


def test_if_range(site):
    tag = site.get("/static/text.txt").header("ETag")
    assert site.get("/static/text.txt", {"Range": "bytes=0-1", "If-Range": tag}).status in (200, 206)
    assert site.get("/static/text.txt", {"Range": "bytes=0-1", "If-Range": '"other"'}).status == 200


def test_range_of_a_large_file(site, files):
    answer = site.get("/static/large.bin", {"Range": "bytes=500000-900000"})
    assert answer.status == 206 and answer.body == (files / "large.bin").read_bytes()[500000:900001]


# Encodings that lie beside the file


@pytest.mark.parametrize("accept, encoding", [("gzip", "gzip"), ("br, gzip", "br"), ("gzip;q=1, br;q=0", "gzip"), ("identity", None), ("gzip;q=0", None), (None, None)])
def test_precompressed_neighbour(site, files, accept, encoding):
    answer = site.get("/static/script.js", {"Accept-Encoding": accept} if accept else {})
    assert answer.header("Content-Encoding") == encoding
    assert "accept-encoding" in (answer.header("Vary") or "").lower()
    suffix = {"gzip": ".gz", "br": ".br", None: ""}[encoding]
    assert answer.body == (files / f"script.js{suffix}").read_bytes()
    assert "javascript" in answer.header("Content-Type")


def test_etag_differs_by_encoding(site):
    plain, packed = site.get("/static/script.js"), site.get("/static/script.js", {"Accept-Encoding": "gzip"})
    assert plain.header("ETag") != packed.header("ETag")


# Ways out


@pytest.mark.parametrize(
    "path",
    [
        "/static/../outside.txt", "/static/..%2foutside.txt", "/static/%2e%2e/outside.txt", "/static/%2e%2e%2foutside.txt",
        "/static/sub/../../outside.txt", "/static/..%5coutside.txt", "/static/..\\outside.txt", "/static//../outside.txt",
        "/static/....//outside.txt", "/static/%252e%252e/outside.txt", "/static/..;/outside.txt", "/static/%c0%ae%c0%ae/outside.txt",
        "/static/out", "/static/up/outside.txt", "/static/text.txt%00.html", "/static/%00", "/static/sub%2fpage.html%00",
        "/static/.env", "/static/.git/config", "/static/sub/.hidden", "/static/%2eenv", "/static/.%65nv", "/static/./.env", "/static/sub/..%2f.env",
        "/static/pipe", "/static/", "/static", "/static/text.txt/", "/static/text.txt/more", "//static/../outside.txt", "/static/" + "a" * 300,
        "/static/" + "a/" * 2000,
    ],
)
def test_no_way_out(site, path):
    answer = site.get(path)
    assert b"outside" not in answer.body and b"secret" not in answer.body
    assert answer.status in (400, 404, 414) or answer.body == b"from app", answer


def test_link_within_the_root_is_followed(site):
    answer = site.get("/static/inside")
    if site.follows_links:
        assert answer.body == TEXT
    else:
        assert answer.status == 404, "without openat2 no link is followed"


def test_well_known_is_shown(site):
    assert site.get("/static/.well-known/security.txt").body == b"contact"


def test_file_that_may_not_be_read_is_not_a_server_error(host, tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "locked").write_bytes(b"x")
    (tmp_path / "files" / "locked").chmod(0)
    running = host("app:app", "--static", f"/static={tmp_path / 'files'}", source=HELLO)
    assert running.get("/static/locked").status in (403, 404)


def test_relative_folder_is_below_the_apps(host, tmp_path):
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets" / "a.txt").write_bytes(b"a")
    assert host("app:app", "--static", "/assets=assets", source=HELLO).get("/assets/a.txt").body == b"a"


def test_root_prefix_serves_files_before_the_app(host, tmp_path):
    (tmp_path / "public").mkdir()
    (tmp_path / "public" / "robots.txt").write_bytes(b"robots")
    running = host("app:app", "--static", f"/static={tmp_path / 'public'}", "--static", f"/more={tmp_path / 'public'}", source=HELLO)
    assert running.get("/more/robots.txt").body == b"robots"


def test_keep_alive_after_files(site):
    with site.raw() as raw:
        for _ in range(3):
            assert raw.send(b"GET /static/text.txt HTTP/1.1\r\nHost: a\r\n\r\n").answer().body == TEXT
            assert raw.send(b"GET /static/large.bin HTTP/1.1\r\nHost: a\r\nRange: bytes=0-70000\r\n\r\n").answer().status == 206


def test_body_sent_to_a_file_is_never_a_request(site):
    smuggled = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
    with site.raw() as raw:
        raw.send(b"GET /static/text.txt HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(smuggled) + smuggled)
        assert raw.answer().body == TEXT
        raw.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert raw.rest().count(b"HTTP/1.1 200") <= 1


def test_body_that_is_not_read_ends_the_connection_and_the_answer_says_so(site):
    for said in ("Expect: 100-continue\r\nContent-Length: 9", "Content-Length: 200000"):
        with site.raw() as raw:
            raw.send(f"GET /static/text.txt HTTP/1.1\r\nHost: a\r\n{said}\r\n\r\n".encode() + bytes(100_000))
            answer = raw.answer()
            assert (answer.status, answer.header("Connection")) == (200, "close")
            raw.rest()


GATED = """
import os, time

def app(environ, start_response):
    open("entered", "w").close()
    while not os.path.exists("go"):
        time.sleep(0.01)
    start_response("200 OK", [("Content-Length", "8")])
    return [b"from app"]
"""


def test_no_worker_is_needed(host, files, tmp_path):
    running = host("app:app", "--static", f"/static={files}", source=GATED)
    with running.raw() as busy:
        busy.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        eventually((tmp_path / "entered").exists, 20, "the only worker is busy")
        assert running.get("/static/text.txt", timeout=20).body == TEXT
        (tmp_path / "go").touch()
        assert busy.answer().body == b"from app"


# A disk that does not answer


SENDER = """
def app(environ, start_response):
    name = environ["QUERY_STRING"]
    if environ["PATH_INFO"] == "/named":
        start_response("200 OK", [("X-Sendfile", name)])
        return [b""]
    if environ["PATH_INFO"] == "/passed":
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"](open(name, "rb"))
    start_response("200 OK", [("Content-Length", "8")])
    return [b"from app"]
"""


@pytest.fixture
def slow_disk(host):
    disk = SlowDisk()
    yield disk
    disk.release()


@pytest.mark.parametrize("sendfile", [[], ["--no-sendfile"]], ids=["sendfile", "through memory"])
@pytest.mark.parametrize("name", ["text.txt", "large.bin"])
@pytest.mark.parametrize("way", ["/static/{name}", "/named?{files}/{name}", "/passed?{files}/{name}"], ids=["static", "named", "passed"])
def test_file_on_a_slow_disk_stops_nobody_else(host, slow_disk, files, way, name, sendfile):
    args = ["--static", f"/static={files}", "--sendfile-root", files, "--edge-threads", "1", *sendfile]
    running = host("app:app", *args, source=SENDER, disk=slow_disk)
    slow_disk.hold(files / name)
    with running.raw(20) as waiting:
        waiting.send(b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n" % way.format(files=files, name=name).encode())
        slow_disk.wait_held()
        assert running.get("/").body == b"from app"
        assert running.get("/static/sub/page.html").body == b"<p>page"
        slow_disk.release()
        assert waiting.answer().body == (files / name).read_bytes()


def test_file_that_is_cold_half_way_stops_nobody_else(host, slow_disk, tmp_path):
    """The client takes the first bytes of a file that no socket's buffers hold, then its disk is silent."""
    film, size = tmp_path / "film.bin", 64 << 20
    film.touch()
    os.truncate(film, size)
    (tmp_path / "page.html").write_text("page")
    running = host("app:app", "--static", f"/static={tmp_path}", "--edge-threads", "1", source=SENDER, disk=slow_disk)
    with running.raw(20) as waiting, ThreadPoolExecutor(1) as reading:
        waiting.send(b"GET /static/film.bin HTTP/1.1\r\nHost: a\r\n\r\n")
        stream = waiting.socket.makefile("rb")
        assert stream.readline().startswith(b"HTTP/1.1 200 ")
        while stream.readline() != b"\r\n":
            pass
        slow_disk.hold(film)
        rest = reading.submit(stream.read, size)
        slow_disk.wait_held()
        assert not rest.done()
        assert running.get("/").body == b"from app"
        assert running.get("/static/page.html").body == b"page"
        slow_disk.release()
        assert rest.result() == bytes(size)
