"""JSON web tokens: a user of another service, proved by a signature, and what the token says of him."""

import base64
import json
import subprocess
import time

import pytest

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
    write(tmp_path, second)
    began = time.monotonic()
    shop.host.log.wait("keys of tokens read anew: 1")
    assert time.monotonic() - began < 2
    assert (shop.ask(Authorization=old).status, shop.ask(Authorization=new).status) == (401, 200)
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
