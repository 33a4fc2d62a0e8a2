"""Certificates: had from a real CA (pebble), renewed, handed out by host, and the operator's own."""

import json
import os
import pwd
import signal
import socket
import ssl
import stat
import subprocess
import sys

import httpx
import pytest

import harness
import pebble as ca
from harness import eventually

APP = """
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [environ["wsgi.url_scheme"].encode(), b" ", environ["HTTP_HOST"].encode()]
"""


@pytest.fixture
def pebble(tmp_path_factory):
    started = []

    def start(**options):
        started.append(ca.Pebble(tmp_path_factory.mktemp("ca"), **options))
        return started[-1]

    yield start
    for one in started:
        one.finish()


def config(authority, hosts, *more, listen=True, acme=()):
    """A whole ostler.toml for one app under `hosts`."""
    return "\n".join([
        "[server]", f'listen = ["127.0.0.1:{authority.http_port}"]' if listen else "",
        f'listen_tls = ["127.0.0.1:{authority.tls_port}"]', 'state = "state"',
        authority.acme(*acme),
        "[projects.shop]", 'source = "shop"', f"hosts = {hosts}".replace("'", '"'), *more,
        "[projects.shop.web]", 'app = "app:app"', f'python = "{sys.executable}"', "",
    ])


class Shop:
    """`ostler serve` with one project."""

    def __init__(self, host, folder, authority, text, **options):
        (folder / "shop").mkdir(exist_ok=True)
        (folder / "shop" / "app.py").write_text(APP)
        self.file = folder / "ostler.toml"
        self.file.write_text(text)
        self.port = authority.tls_port
        self.host = host.serve(port=authority.http_port, ready="shop: ready", **options)

    def reload(self, text):
        self.file.write_text(text)
        before = len(self.host.log.matches("reload complete: the configuration"))
        self.host.kill(signal.SIGHUP)
        self.host.log.wait("reload complete: the configuration", count=before + 1)

    def trusted(self, name, context):
        """Waits until clients trust what they get for `name`; gives it."""
        found = lambda: ca.handshake(self.port, name, context)
        eventually(lambda: isinstance(found(), bytes), 60, f"a trusted certificate for {name}\n{self.host.log}")
        return found()

    def alert(self, name):
        """What a client that trusts anybody is told for `name`."""
        anybody = ssl._create_unverified_context()
        found = ca.handshake(self.port, name, anybody)
        return None if isinstance(found, bytes) else found.reason


def test_hosts_get_certificates_by_themselves(host, tmp_path, pebble):
    authority = pebble()
    shop = Shop(host, tmp_path, authority, config(authority, ["shop.example", "www.shop.example"]))
    assert shop.alert("shop.example") is None, "there is one of our own until then"
    context = authority.trusting()
    one, other = shop.trusted("shop.example", context), shop.trusted("www.shop.example", context)
    assert one != other, "each name has its own: one that cannot be proved does not hold up the others"
    assert ca.get(shop.port, "shop.example", context).endswith(b"https shop.example")
    sent_on = shop.host.get("/x?y", {"Host": "shop.example"})
    assert (sent_on.status, sent_on.header("location")) == (308, f"https://shop.example:{shop.port}/x?y")
    assert shop.alert("other.example") == "TLSV1_ALERT_ACCESS_DENIED"
    nothing = shop.host.get("/.well-known/acme-challenge/nobodys", {"Host": "shop.example"})
    assert nothing.status == 308, "a token that is not ours belongs to the app"
    state = tmp_path / "state" / "certs"
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    keys = list(state.rglob("current.pem"))
    assert len(keys) == 2 and all(stat.S_IMODE(key.stat().st_mode) == 0o600 for key in keys)


def test_certificates_stay_while_their_address_is_bound_whatever_the_file_says(host, tmp_path, pebble):
    authority = pebble()
    text = config(authority, ["shop.example"])
    shop = Shop(host, tmp_path, authority, text)
    context = authority.trusting()
    shop.trusted("shop.example", context)
    without = text.replace(authority.acme(), "").replace("listen_tls", "# listen_tls")
    shop.reload(without)
    shop.host.log.wait("`listen_tls` of .server. changed; it takes effect with `ostler upgrade` or a restart")
    assert ca.get(shop.port, "shop.example", context).endswith(b"https shop.example")
    assert shop.host.get("/", {"Host": "shop.example"}).status == 308


def ask(folder, *words):
    """What a command of ostler says in the folder, and its exit code."""
    done = subprocess.run([harness.OSTLER, *words], cwd=folder, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


def test_certificates_are_listed(host, tmp_path, pebble):
    authority = pebble()
    shop = Shop(host, tmp_path, authority, config(authority, ["shop.example", "localhost", "*"]))
    shop.trusted("shop.example", authority.trusting())
    listed = lambda: json.loads(ask(tmp_path, "certs", "--json")[1])
    eventually(lambda: all(one["state"] != "ordering" for one in listed()), 20, "the order is done")
    by_name = {one["names"][0]: one for one in listed()}
    assert by_name["shop.example"]["state"] == "valid" and by_name["shop.example"]["days_left"] > 100
    assert by_name["localhost"]["state"] == "self-signed", "no CA certifies it"
    assert shop.alert("other.example") == "TLSV1_ALERT_ACCESS_DENIED" and "*" not in by_name
    code, text = ask(tmp_path, "certs")
    assert code == 0 and text.splitlines()[0].split()[:3] == ["CERTIFICATE", "STATE", "DAYS"], text
    assert "shop.example" in ask(tmp_path, "status")[1]


def test_what_certbot_has_is_served_without_an_order(host, tmp_path, pebble):
    authority = pebble()
    trusting = pair(tmp_path, "shop.example", "www.shop.example", days=60)
    live = tmp_path / "letsencrypt" / "live" / "shop.example"
    live.mkdir(parents=True)
    os.replace(tmp_path / "own.pem", live / "fullchain.pem")
    os.replace(tmp_path / "own.key", live / "privkey.pem")
    text = config(authority, ["shop.example", "www.shop.example"])
    (tmp_path / "ostler.toml").write_text(text)
    (tmp_path / "shop").mkdir()
    code, said = ask(tmp_path, "certs", "import", "letsencrypt")
    assert code == 0 and "shop.example: adopted: shop.example, www.shop.example (" in said, said
    code, said = ask(tmp_path, "certs", "import", "nowhere")
    assert code == 1 and "is no folder of certbot" in said
    shop = Shop(host, tmp_path, authority, text)
    for name in ("shop.example", "www.shop.example"):
        assert isinstance(ca.handshake(shop.port, name, trusting), bytes)
    assert not shop.host.log.matches("ordering a certificate"), "it is valid for long enough"


def test_lost_server_comes_back_with_the_same_certificates(host, tmp_path, pebble):
    authority = pebble()
    shop = Shop(host, tmp_path, authority, config(authority, ["shop.example"]))
    context = authority.trusting()
    before = shop.trusted("shop.example", context)
    # The order must be on disk as done.
    eventually(lambda: list((tmp_path / "state").rglob("current.pem")), 20)
    shop.host.server().kill()
    shop.host.log.wait("shop: ready", count=2)
    assert shop.trusted("shop.example", context) == before


def test_new_host_gets_its_certificate_with_a_reload(host, tmp_path, pebble):
    authority = pebble()
    shop = Shop(host, tmp_path, authority, config(authority, ["shop.example"]))
    context = authority.trusting()
    before = shop.trusted("shop.example", context)
    load = ca.Load(shop.port, "shop.example", context)
    try:
        shop.reload(config(authority, ["shop.example", "new.example"]))
        shop.trusted("new.example", context)
        shop.reload(config(authority, ["shop.example"]))
    finally:
        load.finish()
    assert load.failures == [] and load.certificates == [before]
    assert shop.alert("new.example") == "TLSV1_ALERT_ACCESS_DENIED"


def test_names_are_proved_in_a_handshake_when_nothing_listens_for_http(host, tmp_path, pebble):
    authority = pebble()
    text = config(authority, ["shop.example"], listen=False)
    shop = Shop(host, tmp_path, authority, text)
    context = authority.trusting()
    shop.trusted("shop.example", context)
    assert ca.get(shop.port, "shop.example", context).endswith(b"https shop.example")
    anybody = ssl._create_unverified_context()
    anybody.set_alpn_protocols(["acme-tls/1"])
    assert not isinstance(ca.handshake(shop.port, "shop.example", anybody), bytes), "only while a CA asks"


def test_wildcard_is_proved_through_dns(host, tmp_path, pebble):
    authority = pebble()
    acme = ['challenge = "dns-01"', f'hook = "{authority.dns_hook()}"']
    shop = Shop(host, tmp_path, authority, config(authority, ["*.shop.example"], acme=acme))
    context = authority.trusting()
    shop.trusted("a.shop.example", context)
    assert ca.get(shop.port, "b.shop.example", context).endswith(b"https b.shop.example")
    assert shop.alert("a.b.shop.example") == "TLSV1_ALERT_ACCESS_DENIED"


@pytest.mark.timeout(180)
def test_certificates_are_renewed_under_load(host, tmp_path, pebble):
    # A third of the life is left for a renewal.
    authority = pebble(life=30)
    shop = Shop(host, tmp_path, authority, config(authority, ["shop.example"]))
    context = authority.trusting()
    shop.trusted("shop.example", context)
    load = ca.Load(shop.port, "shop.example", context)
    try:
        eventually(lambda: len(load.certificates) >= 3, 90, "two renewals")
    finally:
        load.finish()
    assert load.failures == [] and load.count > 10


def test_hosts_are_served_while_the_ca_is_away(host, tmp_path, pebble):
    authority = pebble()
    authority.down()
    shop = Shop(host, tmp_path, authority, config(authority, ["shop.example"]))
    shop.host.log.wait("shop.example: no certificate: the CA: .*refused.*; next attempt in 1 min")
    assert shop.alert("shop.example") is None, "it is served meanwhile"
    anybody = ssl._create_unverified_context()
    assert ca.get(shop.port, "shop.example", anybody).endswith(b"https shop.example")
    authority.up()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_unprivileged_server_keeps_certificates_in_a_folder_of_its_own(host, tmp_path, pebble):
    authority = pebble()
    nobody = pwd.getpwnam("nobody")
    for folder in [tmp_path, *tmp_path.parents]:
        if stat.S_IMODE(folder.stat().st_mode) == 0o700:
            folder.chmod(0o755)
    text = config(authority, ["shop.example"]).replace("[server]", '[server]\nuser = "nobody"')
    # Who the app runs as must reach its interpreter: one below /root will not do.
    text = text.replace(sys.executable, "/usr/bin/python3")
    shop = Shop(host, tmp_path, authority, text)
    shop.trusted("shop.example", authority.trusting())
    eventually(lambda: list((tmp_path / "state").rglob("current.pem")), 20)
    folder = tmp_path / "state" / "certs"
    assert all(path.stat().st_uid == nobody.pw_uid for path in [folder, *folder.rglob("*")])
    assert shop.host.server().uids().real == nobody.pw_uid


def pair(folder, *names, days=2):
    """A self-signed pair for `names` in `folder`; the client that trusts it."""
    cert, key = folder / "own.pem", folder / "own.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", str(days),
         "-subj", f"/CN={names[0]}", "-addext", "subjectAltName=" + ",".join(f"DNS:{name}" for name in names),
         "-keyout", folder / "new.key", "-out", folder / "new.pem"],
        check=True, capture_output=True,
    )
    (folder / "new.key").chmod(0o600)
    os.replace(folder / "new.key", key)
    os.replace(folder / "new.pem", cert)
    return pair_context(cert)


def pair_context(cert):
    context = ssl.create_default_context(cafile=cert)
    context.verify_flags &= ~getattr(ssl, "VERIFY_X509_STRICT", 0)
    return context


OWN = """
[server]
listen_tls = ["127.0.0.1:{port}"]
state = "state"
[projects.shop]
source = "shop"
hosts = ["shop.example", "*.shop.example"]
certfile = "own.pem"
keyfile = "own.key"
[projects.shop.web]
app = "app:app"
python = "{python}"
"""


class Ports:
    """Where a server without a CA listens."""

    def __init__(self):
        self.tls_port = self.http_port = harness.free_port()


def test_own_certificate_is_followed_when_its_files_change(host, tmp_path):
    first = pair(tmp_path, "shop.example", "*.shop.example")
    ports = Ports()
    text = OWN.replace("{port}", str(ports.tls_port)).replace("{python}", sys.executable)
    shop = Shop(host, tmp_path, ports, text)
    assert ca.get(shop.port, "shop.example", first).endswith(b"https shop.example")
    assert isinstance(ca.handshake(shop.port, "a.shop.example", first), bytes)
    assert shop.alert("other.example") == "TLSV1_ALERT_ACCESS_DENIED"
    assert not (tmp_path / "state" / "certs").exists(), "nothing has to be kept"
    second = pair(tmp_path, "shop.example", "*.shop.example")
    shop.host.log.wait("certificate files have changed")
    eventually(lambda: isinstance(ca.handshake(shop.port, "shop.example", second), bytes), 10)
    (tmp_path / "own.pem").write_text("nothing")
    shop.host.log.wait("shop: cannot use the certificate .*own.pem.*hint")
    assert isinstance(ca.handshake(shop.port, "shop.example", second), bytes), "what was read before is served"


def test_own_certificate_is_still_followed_after_a_reload_that_was_refused(host, tmp_path):
    first = pair(tmp_path, "shop.example", "*.shop.example")
    ports = Ports()
    text = OWN.replace("{port}", str(ports.tls_port)).replace("{python}", sys.executable)
    shop = Shop(host, tmp_path, ports, text)
    for name in ("other.pem", "other.key"):
        (tmp_path / name).write_text("nothing")
    shop.file.write_text(text.replace("own.", "other."))
    shop.host.kill(signal.SIGHUP)
    shop.host.log.wait("shop: cannot use the certificate .*other.pem")
    shop.host.log.wait("reload failed: the configuration stays as it was")
    assert isinstance(ca.handshake(shop.port, "shop.example", first), bytes)
    second = pair(tmp_path, "shop.example", "*.shop.example")
    shop.host.log.wait("certificate files have changed")
    eventually(lambda: isinstance(ca.handshake(shop.port, "shop.example", second), bytes), 10)


def authority(folder, name):
    """An authority for client certificates; gives its file, and a function that makes a pair for a client."""
    run = lambda *args: subprocess.run(["openssl", *args], check=True, capture_output=True, cwd=folder)
    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    run("req", "-x509", *new, "-days", "2", "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.pem")

    def client(who):
        run("req", *new, "-subj", f"/CN={who}", "-addext", "extendedKeyUsage=clientAuth", "-keyout", f"{who}.key", "-out", f"{who}.csr")
        run("x509", "-req", "-in", f"{who}.csr", "-CA", f"{name}.pem", "-CAkey", f"{name}.key", "-CAcreateserial",
            "-days", "2", "-copy_extensions", "copy", "-out", f"{who}.pem")
        return folder / f"{who}.pem", folder / f"{who}.key"

    return folder / f"{name}.pem", client


GUARDED = """
[server]
listen = ["127.0.0.1:{port}"]
listen_tls = ["127.0.0.1:{tls_port}"]
state = "state"
certfile = "own.pem"
keyfile = "own.key"
[projects.shop]
source = "shop"
hosts = ["shop.example"]
[projects.shop.web]
app = "app:app"
python = "{python}"
[projects.staff]
source = "shop"
hosts = ["staff.example"]
client_ca = "staff.pem"
[projects.staff.web]
app = "app:app"
python = "{python}"
"""


def resumed(port, context, name, path="/", session=None):
    """The status of an answer, whether its connection went on with `session`, and the session it has itself."""
    with socket.create_connection(("127.0.0.1", port), 10) as plain:
        with context.wrap_socket(plain, server_hostname=name, session=session) as secure:
            secure.sendall(f"GET {path} HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode())
            head = secure.recv(4096)
            while secure.recv(4096):
                pass
            return int(head.split()[1]), secure.session_reused, secure.session


def test_clients_of_a_guarded_host_show_certificates(host, tmp_path):
    trusting = lambda: pair_context(tmp_path / "own.pem")
    pair(tmp_path, "shop.example", "staff.example")
    staff, employ = authority(tmp_path, "staff")
    _, strange = authority(tmp_path, "strangers")
    good, bad = employ("ann"), strange("eve")
    ports = Ports()
    ports.http_port = harness.free_port()
    text = GUARDED.replace("{port}", str(ports.http_port)).replace("{tls_port}", str(ports.tls_port))
    shop = Shop(host, tmp_path, ports, text.replace("{python}", sys.executable))
    shop.host.log.wait("staff: ready")

    def asked(sni, name, client=None):
        """The status for a request for `name` on a connection that was made for `sni`, or why there is none."""
        context = trusting()
        if client:
            context.load_cert_chain(*client)
        with socket.create_connection(("127.0.0.1", shop.port), 10) as plain:
            try:
                with context.wrap_socket(plain, server_hostname=sni) as secure:
                    secure.sendall(f"GET / HTTP/1.1\r\nHost: {name}\r\n\r\n".encode())
                    return int(secure.recv(4096).split()[1])
            except ssl.SSLError as error:
                return error.reason

    assert asked("staff.example", "staff.example", good) == 200
    assert asked("staff.example", "staff.example") == "TLSV13_ALERT_CERTIFICATE_REQUIRED"
    assert asked("staff.example", "staff.example", bad) in ("TLSV1_ALERT_UNKNOWN_CA", "TLSV1_ALERT_DECRYPT_ERROR")
    assert asked("shop.example", "shop.example") == 200
    assert asked("shop.example", "staff.example", good) == 421, "the handshake did not ask for it"
    assert asked("staff.example", "shop.example", good) == 421
    context = trusting()
    context.load_cert_chain(*good)
    with httpx.Client(http2=True, http1=False, verify=context) as client:
        # One connection for both, as browsers have it for the hosts of one certificate.
        for name, status in [("staff.example", 200), ("shop.example", 421), ("staff.example", 200)]:
            asks = {"headers": {"Host": name}, "extensions": {"sni_hostname": "staff.example"}}
            assert client.get(f"https://127.0.0.1:{shop.port}/", **asks).status_code == status
    assert shop.host.get("/", {"Host": "staff.example"}).status == 308
    forwarded = {"Host": "staff.example", "X-Forwarded-Proto": "https"}
    assert shop.host.get("/", forwarded).status == 421, "no proxy vouches for a client's certificate"


def test_routes_ask_for_certificates(host, tmp_path):
    context = pair(tmp_path, "shop.example")
    _, employ = authority(tmp_path, "staff")
    ports = Ports()
    ports.http_port = harness.free_port()
    text = GUARDED.split("[projects.staff]")[0].replace("[projects.shop.web]", '''
client_ca = "staff.pem"
client_certificates = "optional"
[[projects.shop.routes]]
prefix = "/"
[[projects.shop.routes]]
prefix = "/staff"
access = { client_certificate = true }
[projects.shop.static]
"/staff/plans" = "plans"
[projects.shop.web]''')
    (tmp_path / "shop" / "plans").mkdir(parents=True)
    (tmp_path / "shop" / "plans" / "a.txt").write_text("secret")
    text = text.replace("{port}", str(ports.http_port)).replace("{tls_port}", str(ports.tls_port))
    shop = Shop(host, tmp_path, ports, text.replace("{python}", sys.executable))
    url, asks = f"https://127.0.0.1:{shop.port}", {"headers": {"Host": "shop.example"}, "extensions": {"sni_hostname": "shop.example"}}

    def statuses(context, http2):
        with httpx.Client(verify=context, http2=http2, http1=not http2) as client:
            return [client.get(url + path, **asks).status_code for path in ("/", "/staff", "/staff/plans/a.txt", "/%73taff/x")]

    for http2 in (False, True):
        assert statuses(context, http2) == [200, 403, 403, 403]
    ann = employ("ann")
    context.load_cert_chain(*ann)
    for http2 in (False, True):
        assert statuses(context, http2) == [200, 200, 200, 200]
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        # A session is what its handshake was, whatever the client could show by now.
        resuming = pair_context(tmp_path / "own.pem")
        resuming.maximum_version = version
        without = resumed(shop.port, resuming, "shop.example", "/staff")
        resuming.load_cert_chain(*ann)
        shown = resumed(shop.port, resuming, "shop.example", "/staff")
        for (status, reused, session), expected in ((without, 403), (shown, 200)):
            assert (status, reused) == (expected, False)
            assert resumed(shop.port, resuming, "shop.example", "/staff", session)[:2] == (expected, True), version
    with httpx.Client(verify=pair_context(tmp_path / "own.pem")) as stranger:
        assert "certificate_missing" in stranger.get(url + "/staff", **asks).text
    forwarded = {"Host": "shop.example", "X-Forwarded-Proto": "https"}
    assert shop.host.get("/staff", forwarded).status == 421, "no proxy vouches for a client's certificate"


def test_open_host_below_a_guarded_wildcard_stays_open(host, tmp_path):
    context = pair(tmp_path, "open.shop.example", "*.shop.example")
    authority(tmp_path, "staff")
    ports = Ports()
    ports.http_port = harness.free_port()
    text = GUARDED.replace("{port}", str(ports.http_port)).replace("{tls_port}", str(ports.tls_port))
    text = text.replace("{python}", sys.executable).replace('"shop.example"', '"open.shop.example"')
    shop = Shop(host, tmp_path, ports, text.replace('"staff.example"', '"*.shop.example"'))
    assert ca.get(shop.port, "open.shop.example", context).endswith(b"https open.shop.example")
    with pytest.raises(ssl.SSLError):
        ca.get(shop.port, "other.shop.example", context)


def test_session_tickets_are_good_after_a_reload_and_only_for_their_host(host, tmp_path):
    context = pair(tmp_path, "shop.example", "staff.example")
    staff, employ = authority(tmp_path, "staff")
    ports = Ports()
    ports.http_port = harness.free_port()
    text = GUARDED.replace("{port}", str(ports.http_port)).replace("{tls_port}", str(ports.tls_port))
    text = text.replace("{python}", sys.executable)
    shop = Shop(host, tmp_path, ports, text)
    shop.host.log.wait("staff: ready")
    context.load_cert_chain(*employ("ann"))

    _, _, session = resumed(shop.port, context, "shop.example")
    assert resumed(shop.port, context, "shop.example", session=session)[1]
    shop.reload(text.replace("[projects.shop.web]", "hsts = 1000\n[projects.shop.web]"))
    assert resumed(shop.port, context, "shop.example", session=session)[1]
    assert not resumed(shop.port, context, "staff.example", session=session)[1]
