"""JSON web tokens: a user of another service, proved by a signature, and what the token says of him."""

import base64
import json
import subprocess
import time

import pytest

from authority import Authority
from test_access import JSON, Shop, code


def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Issuer:
    """Signs with a key of its own (RS256)."""

    def __init__(self, folder, name):
        self.key = folder / f"{name}.pem"
        self.name = name
        subprocess.run(["openssl", "genrsa", "-out", self.key, "2048"], check=True, capture_output=True)
        told = subprocess.run(["openssl", "rsa", "-in", self.key, "-noout", "-modulus"], check=True, capture_output=True)
        modulus = bytes.fromhex(told.stdout.decode().strip().partition("=")[2])
        self.public = {"kty": "RSA", "kid": name, "use": "sig", "n": base64url(modulus), "e": "AQAB"}

    def token(self, alg="RS256", **claims):
        claims = {"iss": "https://id.test", "aud": "shop", "exp": int(time.time()) + 300, "sub": "ada", **claims}
        head = {"alg": alg, "typ": "JWT", "kid": self.name}
        text = ".".join(base64url(json.dumps(part).encode()) for part in (head, claims))
        signed = subprocess.run(
            ["openssl", "dgst", "-sha256", "-sign", self.key], input=text.encode(), check=True, capture_output=True,
        )
        return f"{text}.{base64url(signed.stdout)}"


SECTION = """
[projects.shop.access]
jwt_keys = "jwks.json"
jwt_issuer = "https://id.test"
jwt_audience = ["shop", "shop-test"]
jwt_claims = ["email", "is_admin", "roles"]
"""


@pytest.fixture
def issuer(tmp_path):
    return Issuer(tmp_path, "first")


@pytest.fixture
def shop(host, tmp_path, issuer):
    (tmp_path / "shop").mkdir()
    write(tmp_path, issuer)
    return Shop(host, tmp_path, SECTION)


def write(folder, *issuers):
    (folder / "shop" / "jwks.json").write_text(json.dumps({"keys": [issuer.public for issuer in issuers]}))


def test_a_token_names_its_user_and_no_client_can_forge_a_claim(shop, issuer):
    token = issuer.token(email="a@b.test", is_admin=True, roles=["x", "y"], other="not asked for")
    told = shop.told(
        Authorization=f"Bearer {token}", X_Ostler_Claim_Email="root@b.test", X_Ostler_Claim_Other="forged", X_Ostler_User="root",
    )
    assert told["REMOTE_USER"] == "ada"
    claims = {name: value for name, value in told.items() if name.startswith("HTTP_X_OSTLER")}
    assert claims == {
        "HTTP_X_OSTLER_CLAIM_EMAIL": "a@b.test", "HTTP_X_OSTLER_CLAIM_IS_ADMIN": "true", "HTTP_X_OSTLER_CLAIM_ROLES": '["x","y"]',
    }
    shop.host.log.wait(r" ada \[.*200")


def test_a_token_that_is_not_good_opens_nothing(shop, issuer, tmp_path):
    stranger = shop.ask(Accept=JSON)
    assert (stranger.status, code(stranger), stranger.header("WWW-Authenticate")) == (401, "token", "Bearer")
    good = issuer.token()
    head, claims, signature = good.split(".")
    none = base64url(b'{"alg":"none"}')
    for token in [
        issuer.token(iss="https://evil.test"), issuer.token(aud="blog"), issuer.token(exp=1), issuer.token(nbf=int(time.time()) + 900),
        issuer.token(alg="HS256"), Issuer(tmp_path, "second").token(), f"{none}.{claims}.", f"{head}.{claims}.", "x", "a" * 8000,
    ]:
        answer = shop.ask(Authorization=f"Bearer {token}", Accept=JSON)
        assert (answer.status, code(answer)) == (401, "token"), token
        assert answer.header("WWW-Authenticate").startswith("Bearer")
    assert shop.ask(Authorization=f"Bearer {good}").status == 200


def test_other_keys_count_within_two_seconds(shop, issuer, tmp_path):
    second = Issuer(tmp_path, "second")
    old, new = f"Bearer {issuer.token()}", f"Bearer {second.token()}"
    assert (shop.ask(Authorization=old).status, shop.ask(Authorization=new).status) == (200, 401)
    took = []
    for keys, statuses in [(second, (401, 200)), (issuer, (200, 401)), (second, (401, 200))]:
        write(tmp_path, keys)
        began = time.monotonic()
        shop.host.log.wait("keys of tokens read anew: 1", count=len(took) + 1)
        took.append(time.monotonic() - began)
        assert (shop.ask(Authorization=old).status, shop.ask(Authorization=new).status) == statuses
    # A delay of ostler's is in each of them.
    assert min(took) < 2, took
    (tmp_path / "shop" / "jwks.json").write_text("{")
    shop.host.log.wait("the keys of tokens stay as they were")
    assert shop.ask(Authorization=new).status == 200


def test_of_several_ways_one_is_enough(host, tmp_path, issuer):
    (tmp_path / "shop").mkdir()
    write(tmp_path, issuer)
    (tmp_path / "shop" / "auth-keys.csv").write_text("grace,key-g\n")
    shop = Shop(host, tmp_path, SECTION + "keys = true\n")
    assert shop.told(Authorization="Bearer key-g")["REMOTE_USER"] == "grace"
    assert shop.told(Authorization=f"Bearer {issuer.token()}")["REMOTE_USER"] == "ada"
    assert shop.told(Authorization=f"Bearer {issuer.token(sub='eve')}", X_API_Key="key-g")["REMOTE_USER"] == "grace"
    assert shop.ask(X_API_Key="key-x").status == 401


# Keys at a server


class Keys:
    """What a server says its keys are; a `reply` of Authority."""

    def __init__(self, *issuers):
        self.issuers, self.status, self.fields, self.body = issuers, 200, [], None

    def __call__(self, request):
        body = self.body if self.body is not None else json.dumps({"keys": [issuer.public for issuer in self.issuers]}).encode()
        return self.status, self.fields, body


@pytest.fixture
def server(issuer):
    server = Authority(Keys(issuer))
    yield server
    server.close()


def section(url):
    return SECTION.replace("jwks.json", url)


def test_keys_are_fetched_and_a_key_that_is_not_known_is_asked_for(host, tmp_path, issuer, server):
    shop = Shop(host, tmp_path, section(f"{server.url}/jwks"))
    shop.host.log.wait(f"shop: keys of tokens read from {server.url}/jwks: 1")
    assert shop.told(Authorization=f"Bearer {issuer.token()}")["REMOTE_USER"] == "ada"
    second = Issuer(tmp_path, "second")
    new = f"Bearer {second.token()}"
    # Nobody asks more often than every 10 s, however many tokens name such keys.
    began, asked = time.monotonic(), len(server.asked)
    for number in range(30):
        assert shop.ask(Authorization=f"Bearer {Issuer.token(second)}", X_N=str(number)).status == 401
    assert len(server.asked) <= asked + 1 + int((time.monotonic() - began) / 10)
    server.reply.issuers = (issuer, second)
    shop.host.log.wait("keys of tokens read from .*: 2", 15)
    assert shop.told(Authorization=new)["REMOTE_USER"] == "ada"
    # Later the first request with a new key waits for it.
    third = Issuer(tmp_path, "third")
    server.reply.issuers = (third,)
    time.sleep(max(0.0, 10.5 - (time.monotonic() - server.at[-1])))  # the least time between two questions is what this is about
    assert shop.told(Authorization=f"Bearer {third.token()}")["REMOTE_USER"] == "ada"
    assert shop.ask(Authorization=new).status == 401, "its key is gone"


def test_until_there_are_keys_tokens_wait_and_the_last_ones_stay(host, tmp_path, issuer, server):
    server.reply.status = 500
    shop = Shop(host, tmp_path, section(f"{server.url}/jwks"))
    shop.host.log.wait("shop: no keys of tokens from .*: the answer is 500 .*until there are some nobody gets in")
    token = f"Bearer {issuer.token()}"
    answer = shop.ask(Authorization=token, Accept=JSON)
    assert (answer.status, code(answer), answer.header("Retry-After")) == (503, "token_keys", "5")
    assert shop.ask(Accept=JSON).status == 401, "who shows no token is told to"
    server.reply.status = 200
    shop.host.log.wait("keys of tokens read from .*: 1", 20)
    assert shop.ask(Authorization=token).status == 200
    server.close()
    unknown = Issuer(tmp_path, "unknown")
    assert shop.ask(Authorization=f"Bearer {unknown.token()}").status == 401
    shop.host.log.wait("no keys of tokens from .*the last ones stay", 20)
    assert shop.ask(Authorization=token).status == 200
    assert len(shop.host.log.matches("no keys of tokens from")) == 2, "said once each time"


def test_what_is_no_set_or_leads_elsewhere_is_told(host, tmp_path, issuer, server):
    keys = server.reply
    shop = Shop(host, tmp_path, section(f"{server.url}/jwks"))
    shop.host.log.wait("keys of tokens read from .*: 1")
    for number, (status, fields, body, told) in enumerate([
        (200, [], b"x" * 2_000_000, "length limit"), (200, [], b"{", "it is no JSON"), (200, [], b"", "it is no JSON"),
        (302, [("Location", "http://127.0.0.2/x")], b"", "it redirects to another server, 127.0.0.2"),
        (302, [("Location", "/again")], b"", "more than 3 redirects"), (404, [], b"", "the answer is 404"),
        (200, [], b'{"issuer": "https://evil.test", "jwks_uri": "https://evil.test/x"}', "it is of the issuer `https://evil.test`"),
        (200, [], b'{"issuer": "https://id.test", "jwks_uri": "http://evil.test/x"}', "is without TLS"),
        (200, [], b'{"issuer": "https://id.test", "jwks_uri": "file:///etc/passwd"}', "is no http or https URL"),
    ]):
        keys.status, keys.fields, keys.body = status, fields, body
        shop.write(section(f"{server.url}/jwks?{number}"))
        shop.host.kill(1)
        shop.host.log.wait(f"no keys of tokens from {server.url}/jwks.{number}: .*{told}")
    keys.status, keys.fields, keys.body = 200, [], None
    redirect = lambda request: (307, [("Location", "/moved")], b"") if request.path != "/moved" else keys(request)
    server.reply = redirect
    shop.write(section(f"{server.url}/old"))
    shop.host.kill(1)
    shop.host.log.wait(f"keys of tokens read from {server.url}/old: 1")


def test_an_issuer_is_found_by_its_openid_configuration_and_over_tls(host, tmp_path, issuer):
    pair = certificate(tmp_path)
    server = Authority(Keys(issuer), pair)
    about = json.dumps({"issuer": "https://id.test", "jwks_uri": f"{server.url}/keys"}).encode()
    keys = server.reply
    server.reply = lambda request: (200, [], about) if "openid" in request.path else keys(request)
    url = f"{server.url}/.well-known/openid-configuration"
    shop = Shop(host, tmp_path, section(url))
    shop.host.log.wait("no keys of tokens from .*(UnknownIssuer|certificate)")
    shop.host.stop()
    trusting = Shop.__new__(Shop)
    trusting.__dict__.update(shop.__dict__)
    trusting.host = host.serve(port=shop.port, ready="shop: ready", env={"SSL_CERT_FILE": str(pair[0])})
    trusting.host.log.wait("keys of tokens read from .*: 1")
    assert trusting.told(Authorization=f"Bearer {issuer.token()}")["REMOTE_USER"] == "ada"
    server.close()


def certificate(folder):
    """A certificate for 127.0.0.1 that is its own authority."""
    chain, key = folder / "chain.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", key, "-out", chain,
         "-subj", "/CN=id", "-days", "2", "-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"],
        check=True, capture_output=True,
    )
    return chain, key
