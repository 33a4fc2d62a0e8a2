"""What holds on a route beside its app: addresses, rates, passwords, header rules, redirects, pages, CORS, maintenance."""

import base64
import concurrent.futures
import json
import math
import signal
import sys
import threading
import time

import pytest

import harness

APP = """
import json
def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path.startswith("/status/"):
        code = path[8:11]
        body = b"the app's own" if path.endswith("/body") else b""
        start_response(code + " X", [("Content-Type", "text/x-app"), ("X-App", "kept"), ("Content-Length", str(len(body)))])
        return [body]
    body = environ["wsgi.input"].read()
    names = [n for n in environ if n.startswith("HTTP_") or n in ("REMOTE_USER", "PATH_INFO", "SCRIPT_NAME")]
    start_response("200 OK", [
        ("Content-Type", "application/json"), ("X-Powered-By", "app"), ("Cache-Control", "no-cache"),
        ("Access-Control-Allow-Origin", "https://wrong.test"),
    ])
    return [json.dumps({**{n: environ[n] for n in names}, "body": len(body)}).encode()]
"""

BASE = """
[server]
state = "state"
listen = ["127.0.0.1:{port}"]
access_log = "-"
trusted_proxies = ["127.0.0.1"]

[projects.shop]
source = "shop"
hosts = ["shop.test"]
{keys}
[projects.shop.web]
app = "app:app"
python = "{python}"
{sections}
"""


class Shop:
    """One project, and another one beside it that no rule is for."""

    def __init__(self, host, folder, sections="", keys=""):
        self.folder = folder / "shop"
        for path, text in {
            "app.py": APP, "dist/index.html": "<p>the app", "dist/a.txt": "a file", "pages/404.html": "<p>ours: not here",
            "pages/50x.html": "<p>ours: broken", "pages/back.html": "<p>ours: back soon",
        }.items():
            (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / path).write_text(text)
        self.file = folder / "ostler.toml"
        self.port = harness.free_port()
        self.write(sections, keys)
        self.host = host.serve(port=self.port, ready="shop: ready")
        self.workers = {worker.pid for worker in self.host.workers()}

    def write(self, sections, keys=""):
        parts = {"port": self.port, "python": sys.executable, "sections": sections, "keys": keys}
        text = BASE
        for name, value in parts.items():
            text = text.replace("{" + name + "}", str(value))
        self.file.write_text(text)

    def reload(self, sections, keys=""):
        """Takes other rules; no worker may notice."""
        line = "reload complete: the configuration"
        before = len(self.host.log.matches(line))
        self.write(sections, keys)
        self.host.kill(signal.SIGHUP)
        self.host.log.wait(line, count=before + 1)
        assert {worker.pid for worker in self.host.workers()} == self.workers

    def ask(self, path="/", method="GET", body=b"", **headers):
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.host.request(method, path, {"Host": "shop.test", **named}, body)

    def told(self, path="/", **headers):
        return json.loads(self.ask(path, **headers).body)


def code(answer):
    return json.loads(answer.body)["code"]


JSON = "application/json"
HTML = "text/html,application/xhtml+xml"


def test_addresses_are_let_in_or_not(host, tmp_path):
    shop = Shop(host, tmp_path, '[projects.shop.access]\nallow = ["10.0.0.0/8", "2001:db8::/32"]\ndeny = ["10.9.0.0/16"]')
    for address, status in [
        ("10.1.2.3", 200), ("2001:db8::5", 200), ("10.9.1.1", 403), ("192.0.2.1", 403), ("::ffff:10.1.2.3", 200),
    ]:
        answer = shop.ask(X_Forwarded_For=address, Accept=JSON)
        assert answer.status == status, address
        assert status == 200 or code(answer) == "address_denied"
    assert shop.ask().status == 403, "the proxy itself"
    shop.reload("")
    assert shop.ask(X_Forwarded_For="192.0.2.1").status == 200


def test_a_rate_is_counted_per_address_and_told(host, tmp_path):
    shop = Shop(host, tmp_path, '[projects.shop.limits]\nrate = ["3/h", "1000/h per route"]')
    began = time.monotonic()
    first = shop.ask(X_Forwarded_For="192.0.2.1")
    assert first.status == 200
    assert first.all("RateLimit-Policy") == ['"address";q=3;w=3600', '"route";q=1000;w=3600']
    assert first.all("RateLimit")[0] == '"address";r=2;t=1200'
    assert [shop.ask(X_Forwarded_For="192.0.2.1").status for _ in range(3)] == [200, 200, 429]
    refused = shop.ask(X_Forwarded_For="192.0.2.1", Accept=JSON)
    late = math.ceil(time.monotonic() - began)
    assert (refused.status, code(refused)) == (429, "rate_limited")
    assert 1200 - late <= int(refused.header("Retry-After")) <= 1200
    assert refused.all("RateLimit")[0].startswith('"address";r=0;t=')
    assert shop.ask(X_Forwarded_For="192.0.2.2").status == 200
    six = [shop.ask(X_Forwarded_For=f"2001:db8::{n}").status for n in range(1, 5)]
    assert six == [200, 200, 200, 429], "a network of 64 bits is one subscriber"
    assert shop.ask(X_Forwarded_For="2001:db8:0:1::1").status == 200
    shop.reload('[projects.shop.limits]\nrate = ["3/h", "1000/h per route"]\nbody = 9')
    assert shop.ask(X_Forwarded_For="192.0.2.1").status == 429, "a reload forgets nobody"
    shop.reload("")
    answer = shop.ask(X_Forwarded_For="192.0.2.1")
    assert (answer.status, answer.header("RateLimit")) == (200, None)


def test_who_comes_too_often_costs_the_others_nothing(host, tmp_path):
    shop = Shop(host, tmp_path, '[projects.shop.limits]\nrate = ["3/h", "5/h per route"]')
    often = [shop.ask(X_Forwarded_For="192.0.2.1").status for _ in range(10)]
    assert often == [200] * 3 + [429] * 7
    others = [shop.ask(X_Forwarded_For="192.0.2.2").status for _ in range(3)]
    assert others == [200, 200, 429], "five of the route: three and two"


def test_a_rate_per_key_is_for_each_user(host, tmp_path):
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "auth-keys.csv").write_text("ada,key-a\ngrace,key-g\n")
    shop = Shop(host, tmp_path, '[projects.shop.access]\nkeys = true\n[projects.shop.limits]\nrate = "2/h per key"')
    assert [shop.ask(X_API_Key="key-a").status for _ in range(3)] == [200, 200, 429]
    assert shop.ask(X_API_Key="key-g").status == 200
    assert [shop.ask(X_API_Key="key-x").status for _ in range(4)] == [403] * 4


def test_the_limit_of_a_body_is_the_routes(host, tmp_path):
    shop = Shop(host, tmp_path, """
[[projects.shop.routes]]
prefix = "/"
[[projects.shop.routes]]
prefix = "/up"
limits.body = "1KiB"
""")
    assert shop.ask("/up", "POST", b"x" * 1024).status == 200
    assert shop.ask("/up", "POST", b"x" * 1025).status == 413
    assert shop.ask("/", "POST", b"x" * 2000).status == 200


# Of "password": a vector of Argon2's reference implementation.
HASH = "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4"
USERS = f"""
[projects.shop.access]
users = {{ ada = "{HASH.replace("$", "$$")}" }}
realm = "the shop"
"""


def basic(credentials):
    return "Basic " + base64.b64encode(credentials.encode()).decode()


def test_a_password_lets_in_and_wrong_ones_are_slowed_down(host, tmp_path):
    shop = Shop(host, tmp_path, USERS)
    stranger = shop.ask(Accept=JSON)
    assert (stranger.status, code(stranger)) == (401, "credentials")
    assert stranger.header("WWW-Authenticate") == 'Basic realm="the shop", charset="UTF-8"'
    good = basic("ada:password")
    assert shop.told(Authorization=good, X_Forwarded_For="192.0.2.1")["REMOTE_USER"] == "ada"
    wrong = [shop.ask(Authorization=basic(f"ada:{n}"), X_Forwarded_For="192.0.2.1").status for n in range(11)]
    assert wrong == [401] * 10 + [429]
    assert shop.ask(Authorization=good, X_Forwarded_For="192.0.2.1").status == 200, "known already"
    assert shop.ask(Authorization=basic("eve:password"), X_Forwarded_For="192.0.2.2").status == 401
    shop.host.log.wait(r" ada \[.*200")


def test_many_guesses_at_once_are_no_more_than_one_after_the_other(host, tmp_path):
    shop = Shop(host, tmp_path, USERS)
    wrong = basic("ada:wrong")
    with concurrent.futures.ThreadPoolExecutor(30) as pool:
        asked = [pool.submit(shop.ask, "/", X_Forwarded_For="192.0.2.7", Authorization=wrong) for _ in range(30)]
        codes = sorted(answer.result().status for answer in asked)
    assert codes[0] == 401 and codes.count(401) <= 11, codes
    assert set(codes[codes.count(401):]) == {429}, codes


SLOW_KEYS = f'''
[projects.shop.access]
keys = true
key_file = "../keys.csv"
key_hash = "argon2id"
'''


@pytest.mark.parametrize(("rules", "shown", "wrong"), [
    (USERS, {"Authorization": basic("ada:password")}, lambda n: {"Authorization": basic(f"ada:{n}")}),
    (SLOW_KEYS, {"X_API_Key": "key-of-ada"}, lambda n: {"X_API_Key": f"key-{n}"}),
], ids=["password", "key"])
def test_a_page_with_a_good_password_is_served_right_after_a_start(host, tmp_path, rules, shown, wrong):
    (tmp_path / "keys.csv").write_text("ada,key-of-ada\n")
    shop = Shop(host, tmp_path, rules)
    start = threading.Barrier(30)

    def ask(fields):
        start.wait(30)
        return shop.ask("/", X_Forwarded_For="192.0.2.7", **fields).status

    with concurrent.futures.ThreadPoolExecutor(30) as pool:
        assert list(pool.map(ask, [shown] * 30)) == [200] * 30
        codes = sorted(pool.map(ask, map(wrong, range(30))))
        refused = 401 if rules is USERS else 403
        assert codes[:10] == [refused] * 10 and set(codes[11:]) == {429}, codes
        assert list(pool.map(ask, [shown] * 30)) == [200] * 30, "known already"


def test_a_reload_does_not_forget_who_has_shown_a_good_password(host, tmp_path):
    shop = Shop(host, tmp_path, USERS)
    good = basic("ada:password")
    wrong = basic("ada:wrong")
    ask = lambda who: shop.ask("/", X_Forwarded_For="192.0.2.7", Authorization=who).status
    assert ask(good) == 200
    shop.reload(USERS, keys='hsts = "10s"')
    assert [ask(wrong) for _ in range(12)][-1] == 429
    assert ask(good) == 200, "it is known"


def test_header_rules_hold_for_every_answer(host, tmp_path):
    shop = Shop(host, tmp_path, """
[projects.shop.static]
"/dist" = "dist"
[projects.shop.headers]
set = { "Cache-Control" = "max-age=60", "X-Frame-Options" = "DENY" }
add = { "X-App" = "ours" }
remove = ["x-powered-by"]
request_set = { "X-Stage" = "test" }
request_remove = ["Accept-Language"]
""")
    for path in ["/", "/dist/a.txt", "/dist/missing", "/status/404"]:
        answer = shop.ask(path)
        assert answer.all("Cache-Control") == ["max-age=60"], path
        assert answer.all("X-Frame-Options") == ["DENY"] and answer.header("X-Powered-By") is None
        assert "ours" in answer.all("X-App")
    assert shop.ask("/status/404").all("X-App") == ["kept", "ours"]
    told = shop.told(X_Stage="forged", Accept_Language="en", X_Other="1")
    assert told["HTTP_X_STAGE"] == "test" and "HTTP_ACCEPT_LANGUAGE" not in told and told["HTTP_X_OTHER"] == "1"


def test_what_has_moved_is_sent_on(host, tmp_path):
    shop = Shop(host, tmp_path, """
[[projects.shop.redirects]]
from = "/old"
to = "/new"
status = 301
[[projects.shop.redirects]]
from = "/blog/*"
to = "https://blog.test/*"
[[projects.shop.redirects]]
from = "/up/*"
to = "/*"
status = 302
""")
    for path, status, to in [
        ("/old?a=1", 301, "/new?a=1"), ("/blog/a%20b?x", 308, "https://blog.test/a%20b?x"),
        ("/up//evil.test", 302, "/evil.test"), ("/up/%5cevil.test", 302, "/%5Cevil.test"), ("/up/../old", 301, "/new"),
    ]:
        answer = shop.ask(path)
        assert (answer.status, answer.header("Location")) == (status, to), path
    assert shop.ask("/older").status == 200
    with shop.host.raw() as raw:
        raw.send(b"POST /old HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 5\r\n\r\nhelloGET / HTTP/1.1\r\nHost: shop.test\r\n\r\n")
        assert [raw.answer().status, raw.answer().status] == [301, 200], "the body is read"


def test_own_pages_take_the_place_of_errors(host, tmp_path):
    pages = '[projects.shop.static]\n"/dist" = "dist"\n[projects.shop.errors]\npages = { 404 = "pages/404.html", 50x = "pages/50x.html" }\n'
    shop = Shop(host, tmp_path, pages + "app = true")
    missing = shop.ask("/dist/x", Accept=HTML)
    assert (missing.status, missing.text, missing.header("Content-Type")) == (404, "<p>ours: not here", "text/html; charset=utf-8")
    assert code(shop.ask("/dist/x", Accept=JSON)) == "static_not_found"
    head = shop.host.raw().send(b"HEAD /dist/x HTTP/1.1\r\nHost: shop.test\r\n\r\n").answer(head_only=True)
    assert head.header("Content-Length") == str(len("<p>ours: not here"))
    for path, text, kind in [
        ("/status/404", "<p>ours: not here", "text/html; charset=utf-8"),
        ("/status/503", "<p>ours: broken", "text/html; charset=utf-8"),
        ("/status/404/body", "the app's own", "text/x-app"),
        ("/status/410", "", "text/x-app"),
    ]:
        answer = shop.ask(path, Accept=HTML)
        assert (answer.status, answer.text) == (int(path[8:11]), text)
        assert answer.all("Content-Type") == [kind] and answer.all("X-App") == ["kept"]
    shop.reload(pages)
    assert shop.ask("/status/404", Accept=HTML).text == "", "only when asked"
    (shop.folder / "pages" / "404.html").write_text("<p>anew")
    shop.reload(pages + "app = true")
    assert shop.ask("/dist/x", Accept=HTML).text == "<p>anew"


def test_a_reload_takes_pages_that_alone_have_changed(host, tmp_path):
    rules = '[projects.shop.static]\n"/dist" = "dist"\n[projects.shop.errors]\npages = { 404 = "pages/404.html" }\nmaintenance = "pages/back.html"'
    shop = Shop(host, tmp_path, rules)
    assert shop.ask("/dist/x", Accept=HTML).text == "<p>ours: not here"
    (shop.folder / "pages" / "404.html").write_text("<p>anew")
    shop.reload(rules)
    shop.host.log.wait("shop: changed")
    assert shop.ask("/dist/x", Accept=HTML).text == "<p>anew"
    (shop.folder / "pages" / "back.html").write_text("<p>back later")
    shop.reload(rules)
    shop.host.log.wait("shop: changed", count=2)
    shop.reload(rules, "maintenance = true")
    assert shop.ask(Accept=HTML).text == "<p>back later"
    shop.reload(rules, "maintenance = true")
    assert len(shop.host.log.matches("shop: changed")) == 3, "what is the same is no change"
    (shop.folder / "pages" / "back.html").write_text("<p>back tomorrow")
    shop.reload(rules, "maintenance = true")
    assert shop.ask(Accept=HTML).text == "<p>back tomorrow"


def test_a_page_that_is_not_there_is_the_browser_apps(host, tmp_path):
    shop = Shop(host, tmp_path, '[projects.shop.static]\n"/" = "dist"\n', 'fallback = "index.html"')
    for path in ["/cart/7", "/", "/index.html"]:
        page = shop.ask(path, Accept=HTML)
        assert (page.status, page.text) == (200, "<p>the app"), path
        assert page.header("Content-Type").startswith("text/html")
    assert shop.ask("/a.txt", Accept=HTML).text == "a file"
    assert shop.told("/api/cart", Accept="*/*")["PATH_INFO"] == "/api/cart"
    assert json.loads(shop.ask("/api/cart", "POST", b"abc").body)["body"] == 3
    shop.reload('[projects.shop.static]\n"/" = "dist"\n')
    assert shop.ask("/cart/7", Accept=HTML).status == 404


def test_pages_of_other_origins(host, tmp_path):
    shop = Shop(host, tmp_path, '[projects.shop.cors]\norigins = ["https://a.test"]\ncredentials = true\nexpose = ["X-Total"]')
    plain = shop.ask(Origin="https://a.test")
    assert plain.all("Access-Control-Allow-Origin") == ["https://a.test"] and plain.header("Vary") == "Origin"
    assert plain.header("Access-Control-Allow-Credentials") == "true"
    other = shop.ask(Origin="https://b.test")
    assert (other.status, other.header("Access-Control-Allow-Origin"), other.header("Vary")) == (200, None, "Origin")
    asks = {"Access_Control_Request_Method": "PUT", "Access_Control_Request_Headers": "x-api-key"}
    allowed = shop.ask("/x", "OPTIONS", Origin="https://a.test", **asks)
    assert allowed.status == 204 and allowed.header("Access-Control-Allow-Headers") == "x-api-key"
    assert "PUT" in allowed.header("Access-Control-Allow-Methods")
    refused = shop.ask("/x", "OPTIONS", Origin="https://b.test", Accept=JSON, **asks)
    assert (refused.status, code(refused)) == (403, "cors_origin")
    assert shop.ask("/x", "OPTIONS").status == 200, "the app's own"
    (shop.folder / "auth-keys.csv").write_text("ada,key-a\n")
    shop.reload('[projects.shop.cors]\norigins = "*"\n[projects.shop.access]\nkeys = true')
    assert shop.ask("/x", "OPTIONS", Origin="https://b.test", **asks).status == 204, "a preflight has no key"
    stranger = shop.ask(Origin="https://b.test")
    assert (stranger.status, stranger.header("Access-Control-Allow-Origin")) == (403, "*"), "a page can read why"


def test_maintenance(host, tmp_path):
    page = '[projects.shop.errors]\nmaintenance = "pages/back.html"'
    shop = Shop(host, tmp_path, page)
    assert shop.ask().status == 200
    shop.reload(page, "maintenance = true")
    answer = shop.ask(Accept=HTML)
    assert (answer.status, answer.text, answer.header("Retry-After")) == (503, "<p>ours: back soon", "60")
    assert code(shop.ask(Accept=JSON)) == "maintenance"
    shop.reload(page)
    assert shop.ask().status == 200


def test_a_repository_sets_its_own_keys_and_no_others(host, tmp_path):
    (tmp_path / "shop").mkdir()
    own = tmp_path / "shop" / "ostler.toml"
    own.write_text('[headers]\nset = { "X-Own" = "1" }\n[[redirects]]\nfrom = "/old"\nto = "/new"\n')
    shop = Shop(host, tmp_path)
    assert shop.ask().header("X-Own") == "1" and shop.ask("/old").status == 308
    own.write_text("[limits]\nbody = 0\n[access]\nkeys = false\n")
    shop.host.kill(signal.SIGHUP)
    shop.host.log.wait("`limits` is the operator's to set")
    shop.host.log.wait("`access` is the operator's to set")
    shop.host.log.wait("reload failed")
    assert shop.ask().header("X-Own") == "1"
