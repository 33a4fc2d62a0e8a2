"""`forward_auth`: somebody else says who may come in."""

import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time

import httpx
import pytest
from websockets.sync.client import connect

import harness
from authority import Authority
from test_access import HTML, JSON, Shop, code
from test_maintenance import APP

SECTION = """
[projects.shop.access]
forward_auth = "{url}/verify?from=shop"
forward_auth_copy = ["X-Groups", "Authorization"]
forward_auth_user = "X-User"
forward_auth_timeout = "10s"
"""


def by_cookie(request):
    """Lets in who has a cookie; sends others to a page."""
    if request.headers.get("Cookie") == "session=ada":
        return 200, [("X-User", "ada"), ("X-Groups", "staff"), ("X-Groups", "admins"), ("X-Secret", "s")], b"ignored"
    return 302, [("Location", "https://login.test/?a=b"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"), ("X-Secret", "s")], b"<p>log in"


@pytest.fixture
def authority():
    authority = Authority(by_cookie)
    yield authority
    authority.close()


@pytest.fixture
def shop(host, tmp_path, authority):
    return Shop(host, tmp_path, SECTION.replace("{url}", authority.url))


def test_who_is_let_in_reaches_the_app_with_a_name_and_what_was_copied(shop, authority):
    told = shop.told("/a/b?c=%20d", Cookie="session=ada", X_Groups="root", X_User="root", Authorization="Bearer mine")
    assert (told["REMOTE_USER"], told["HTTP_X_GROUPS"]) == ("ada", "staff, admins")
    assert "HTTP_X_USER" not in told and "HTTP_X_SECRET" not in told
    assert "HTTP_AUTHORIZATION" not in told, "only the authority says it, and it has not"
    shop.host.log.wait(r" ada \[.*200")
    method, path, fields = authority.asked[-1]
    fields = dict(fields)
    assert (method, path) == ("GET", "/verify?from=shop")
    assert fields["host"] == f"127.0.0.1:{authority.port}"
    assert {name: value for name, value in fields.items() if name.startswith("x-")} == {
        "x-forwarded-method": "GET", "x-forwarded-proto": "http", "x-forwarded-host": "shop.test",
        "x-forwarded-uri": "/a/b?c=%20d", "x-forwarded-for": "127.0.0.1",
        "x-request-id": told["HTTP_X_REQUEST_ID"],
    }, "and nothing that the client has made up"
    assert (fields["cookie"], fields["authorization"]) == ("session=ada", "Bearer mine")


def test_what_is_sent_to_the_app_is_not_sent_to_the_authority(shop, authority):
    answer = shop.ask(
        "/up", "POST", b"x" * 100_000, Cookie="session=ada", Range="bytes=0-1", If_None_Match='"a"', Accept_Encoding="gzip",
        Content_Type="text/x", Expect="100-continue", X_Forwarded_Uri="/public", X_Forwarded_Method="GET", X_Real_IP="1.2.3.4",
    )
    assert answer.status == 200 and b'"body": 100000' in answer.body
    fields = authority.fields()
    assert not {"range", "if-none-match", "accept-encoding", "content-type", "content-length", "expect", "x-real-ip"} & set(fields)
    assert (fields["x-forwarded-uri"], fields["x-forwarded-method"]) == ("/up", "POST")


@pytest.mark.parametrize("target, told", [
    ("/public/../admin?x=/..", "/admin?x=/.."),
    ("/public/%2e%2e/admin", "/admin"),
    ("/public/..%2fadmin", "/admin"),
    ("http://shop.test/public", "/public"),
    ("/public%20x", "/public%20x"),
])
def test_the_authority_is_told_the_path_that_is_served(shop, authority, target, told):
    with shop.host.raw() as raw:
        raw.send(f"GET {target} HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n".encode())
        raw.answer()
    assert authority.fields()["x-forwarded-uri"] == told


def test_any_other_answer_is_the_clients(shop, authority):
    answer = shop.ask("/x")
    assert (answer.status, answer.text, answer.header("Location")) == (302, "<p>log in", "https://login.test/?a=b")
    assert answer.all("Set-Cookie") == ["a=1", "b=2"] and answer.header("X-Secret") is None
    shop.host.log.wait(r'"GET /x HTTP/1.1" 302')
    head = shop.ask("/x", "HEAD")
    assert (head.status, head.body, head.header("Content-Length")) == (302, b"", "9")
    for status, fields in [(401, [("WWW-Authenticate", 'Basic realm="a"')]), (403, []), (500, [("Content-Type", "text/x")])]:
        authority.reply = lambda request: (status, fields, b"theirs")
        answer = shop.ask("/x", "POST", b"x" * 10)
        assert (answer.status, answer.body) == (status, b"theirs")
        for name, value in fields:
            assert answer.header(name) == value


def test_names_and_fields_that_do_not_count_let_nobody_in(shop, authority):
    for fields, body in [
        ([("X-User", "ad\xe9")], b""), ([("X-User", "a" * 300)], b""), ([("X-Groups", "g" * 20_000)], b""),
    ]:
        authority.reply = lambda request: (200, fields, body)
        answer = shop.ask(Accept=JSON)
        assert (answer.status, code(answer)) == (502, "authority_bad")
    authority.reply = lambda request: (304, [], b"")
    assert shop.ask().status == 502
    authority.reply = lambda request: (403, [], b"x" * 100_000)
    assert code(shop.ask(Accept=JSON)) == "authority_bad", "a huge refusal"
    authority.reply = lambda request: (403, [(f"X-{n}", "v") for n in range(150)], b"")
    assert shop.ask().status == 502, "a huge head"
    authority.reply = lambda request: (200, [], b"x" * 1_000_000)
    assert shop.told().get("REMOTE_USER") is None, "who has no name may still come in"
    shop.host.log.wait("shop: forward_auth: .*until it answers nobody gets in")
    shop.host.log.wait("answers again")


def test_an_authority_that_is_away_slow_or_silent_lets_nobody_in(host, tmp_path, authority):
    def slow(request):
        authority.release.wait(20)
        return 200, [], b""

    shop = Shop(host, tmp_path, SECTION.replace("{url}", authority.url).replace("10s", "2s"))
    assert shop.ask(Cookie="session=ada").status == 200
    authority.reply = slow
    began = time.monotonic()
    answer = shop.ask(Accept=JSON, Cookie="session=ada")
    assert (answer.status, code(answer)) == (504, "authority_late") and 1.5 < time.monotonic() - began < 10
    authority.close()
    answer = shop.ask(Accept=JSON, Cookie="session=ada")
    assert (answer.status, code(answer)) == (502, "authority_away")
    with socket.socket() as nonsense:
        nonsense.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        nonsense.bind(("127.0.0.1", authority.port))
        nonsense.listen()
        threading.Thread(target=lambda: nonsense.accept()[0].sendall(b"SSH-2.0-x\r\n"), daemon=True).start()
        assert shop.ask(Accept=JSON).status in (502, 504)
    assert len(shop.host.log.matches("until it answers nobody gets in")) == 1, "said once"
    again = Authority(by_cookie)
    shop.reload(SECTION.replace("{url}", again.url))
    assert shop.told(Cookie="session=ada")["REMOTE_USER"] == "ada"
    again.close()


def test_connections_to_it_are_kept_and_one_that_was_closed_is_made_anew(shop, authority):
    for _ in range(20):
        assert shop.ask(Cookie="session=ada").status == 200
    assert len(authority.asked) == 20 and authority.connections <= 2

    def closing(request):
        request.close_connection = True  # without a word about it
        return by_cookie(request)

    authority.reply = closing
    for _ in range(20):
        assert shop.ask(Cookie="session=ada").status == 200


def test_preflights_pass(host, tmp_path, authority):
    shop = Shop(host, tmp_path, SECTION.replace("{url}", authority.url) + '[projects.shop.cors]\norigins = "https://a.test"\n')
    asks = {"Access-Control-Request-Method": "PUT"}
    assert shop.ask("/x", "OPTIONS", Origin="https://a.test", **asks).status == 204 and not authority.asked
    assert shop.ask("/x", "OPTIONS").status == 302


SOCKETS = """
[server]
state = "state"
listen = ["127.0.0.1:{port}"]
listen_tls = ["127.0.0.1:{secure}"]
certfile = "{cert}"
keyfile = "{key}"
[projects.shop]
source = "shop"
hosts = ["shop.test", "localhost"]
https = "optional"
[projects.shop.web]
app = "app:app"
python = "{python}"
"""


def test_websockets_and_streams_of_http2_are_asked_about(host, tmp_path, authority, tls):
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "app.py").write_text(APP)
    port, secure = harness.free_port(), harness.free_port()
    values = {"port": port, "secure": secure, "cert": tls[0], "key": tls[1], "python": sys.executable}
    (tmp_path / "ostler.toml").write_text(SOCKETS.format(**values) + SECTION.replace("{url}", authority.url))
    host.serve(port=port, folder=tmp_path, ready="shop: ready")
    plain = lambda: socket.create_connection(("127.0.0.1", port))
    upgrade = b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    with harness.Raw(("127.0.0.1", port)) as raw:
        refused = raw.send(b"GET / HTTP/1.1\r\nHost: shop.test\r\n" + upgrade + b"\r\n").answer()
    assert (refused.status, refused.text) == (302, "<p>log in")
    with connect("ws://shop.test/ws", sock=plain(), additional_headers={"Cookie": "session=ada"}) as talk:
        talk.send("in")
        assert talk.recv(10) == "in"
    fields = authority.fields()
    assert (fields["x-forwarded-uri"], fields["x-forwarded-method"]) == ("/ws", "GET")
    assert "upgrade" not in fields
    with httpx.Client(http2=True, verify=ssl.create_default_context(cafile=tls[0]), base_url=f"https://localhost:{secure}") as client:
        stranger = client.get("/h2?x")
        assert (stranger.http_version, stranger.status_code, stranger.text) == ("HTTP/2", 302, "<p>log in")
        assert client.post("/h2?x", content=b"y" * 10_000, headers={"Cookie": "session=ada"}).text == "ok"
    fields = authority.fields()
    assert (fields["x-forwarded-proto"], fields["x-forwarded-uri"], fields["x-forwarded-method"]) == ("https", "/h2?x", "POST")
    assert fields["x-forwarded-host"] == f"localhost:{secure}"


def test_one_of_several_ways_is_enough_and_the_authority_has_the_last_word(host, tmp_path, authority):
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "auth-keys.csv").write_text("grace,key-g\n")
    shop = Shop(host, tmp_path, SECTION.replace("{url}", authority.url) + "keys = true\n")
    told = shop.told(X_API_Key="key-g", X_Groups="root")
    assert told["REMOTE_USER"] == "grace" and "HTTP_X_GROUPS" not in told and not authority.asked
    assert shop.told(Cookie="session=ada", X_API_Key="wrong")["REMOTE_USER"] == "ada"
    assert shop.ask(X_API_Key="wrong").status == 302


def test_many_at_once_are_bounded(shop, authority):
    def slow(request):
        authority.release.wait(40)
        return by_cookie(request)

    authority.reply = slow
    request = b"GET / HTTP/1.1\r\nHost: shop.test\r\nAccept: application/json\r\n\r\n"
    all_of_them = [shop.host.raw(40, f"127.0.0.{10 + n % 40}") for n in range(300)]
    for one in all_of_them:
        one.send(request)
    answers = [one.answer() for one in all_of_them]
    assert {answer.status for answer in answers} == {503, 504}
    assert 30 <= sum(code(answer) == "auth_busy" for answer in answers) <= 60
    assert all(answer.header("Retry-After") for answer in answers if answer.status == 503)
    for one in all_of_them:
        one.socket.close()


def test_it_is_the_operators_alone(host, tmp_path, authority):
    (tmp_path / "shop").mkdir()
    own = tmp_path / "shop" / "ostler.toml"
    own.write_text('[headers]\nrequest_set = { X-Groups = "made-up" }\n')
    shop = Shop(host, tmp_path, SECTION.replace("{url}", authority.url))
    assert shop.told(Cookie="session=ada")["HTTP_X_GROUPS"] == "staff, admins"
    authority.reply = lambda request: (200, [], b"")
    assert "HTTP_X_GROUPS" not in shop.told()
    own.write_text('[access]\nforward_auth = "http://127.0.0.1:1/"\n')
    shop.host.kill(1)
    shop.host.log.wait("`access` is the operator's to set")


def test_nginx_is_asked_as_well(host, tmp_path):
    nginx = shutil.which("nginx", path="/usr/sbin:/usr/bin")
    assert nginx, "this test needs nginx: apt-get install nginx-light"
    port = harness.free_port()
    folder = tmp_path / "nginx"
    folder.mkdir()
    (folder / "passwords").write_text("ada:{PLAIN}secret\n")
    (folder / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {folder}/pid; error_log stderr; events {{}}\n"
        f"http {{ access_log off; client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};"
        f" uwsgi_temp_path {folder}; scgi_temp_path {folder};\n"
        f" server {{ listen 127.0.0.1:{port}; location / {{ auth_basic shop; auth_basic_user_file {folder}/passwords;"
        f" add_header X-User $remote_user; try_files /none =204; }} }} }}\n"
    )
    process = subprocess.Popen([nginx, "-p", folder, "-c", folder / "nginx.conf"], stderr=subprocess.DEVNULL)
    try:
        harness.eventually(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0)
        shop = Shop(host, tmp_path, SECTION.replace("{url}", f"http://127.0.0.1:{port}"))
        stranger = shop.ask(Accept=HTML)
        assert (stranger.status, stranger.header("WWW-Authenticate")) == (401, 'Basic realm="shop"')
        assert shop.told(Authorization="Basic YWRhOnNlY3JldA==")["REMOTE_USER"] == "ada"
        assert shop.ask(Authorization="Basic YWRhOndyb25n").status == 401
    finally:
        process.terminate()
        process.wait(10)
