"""The HTTP side, through Flask's own client; through ostler in e2e/test_market.py."""

import importlib

import pytest


@pytest.fixture
def client(environment):
    import app

    return importlib.reload(app).app.test_client()


@pytest.fixture
def cup(client):
    assert client.put("/markets/cup", json={"b": 100, "outcomes": 3}).status_code == 201
    return client


def test_put_creates_once_and_then_agrees_or_conflicts(client):
    created = client.put("/markets/cup", json={"b": 100, "outcomes": 3})
    assert created.status_code == 201
    assert created.json["prices"] == pytest.approx([1 / 3] * 3)
    assert client.put("/markets/cup", json={"b": 100, "outcomes": 3}).status_code == 200
    conflict = client.put("/markets/cup", json={"b": 50, "outcomes": 3})
    assert conflict.status_code == 409
    assert "b 100 and 3 outcomes" in conflict.json["error"]


def test_trade_at_the_agreed_price_moves_the_market(cup):
    done = cup.post("/markets/cup/trades", json={"quantity": [10, 0, 0], "price": 3.4456})
    assert done.status_code == 201
    assert done.json["price"] == pytest.approx(3.4456, abs=1e-4)
    market = cup.get("/markets/cup").json
    assert market == done.json["market"]
    assert market["holdings"] == [10, 0, 0] and market["trades"] == 1
    assert market["prices"][0] > 1 / 3


def test_trade_at_an_old_price_is_refused_with_the_new_one(cup):
    cup.post("/markets/cup/trades", json={"quantity": [10, 0, 0], "price": 3.4456})
    refused = cup.post("/markets/cup/trades", json={"quantity": [10, 0, 0], "price": 3.4456})
    assert refused.status_code == 409
    assert refused.json["price"] == pytest.approx(3.6749, abs=1e-3)
    agreed = {"quantity": [10, 0, 0], "price": refused.json["price"]}
    assert cup.post("/markets/cup/trades", json=agreed).status_code == 201
    assert cup.get("/markets/cup").json["holdings"] == [20, 0, 0]


def test_list_and_page_show_the_markets(cup):
    assert [market["id"] for market in cup.get("/markets").json["markets"]] == ["cup"]
    page = cup.get("/")
    assert page.status_code == 200 and page.mimetype == "text/html"
    assert 'data-market="cup"' in page.text and "0.333" in page.text


@pytest.mark.parametrize(
    "body, expected",
    [
        (b"", "JSON object"),
        (b"[]", "JSON object"),
        (b"{", "JSON object"),
        (b'{"outcomes": 3}', "'b' must be a number"),
        (b'{"b": "1", "outcomes": 3}', "'b' must be a number"),
        (b'{"b": true, "outcomes": 3}', "'b' must be a number"),
        (b'{"b": NaN, "outcomes": 3}', "finite"),
        (b'{"b": Infinity, "outcomes": 3}', "finite"),
        (b'{"b": 1' + b"0" * 400 + b', "outcomes": 3}', "finite"),
        (b'{"b": 0, "outcomes": 3}', "'b' must be from"),
        (b'{"b": -1, "outcomes": 3}', "'b' must be from"),
        (b'{"b": 1, "outcomes": 1}', "'outcomes'"),
        (b'{"b": 1, "outcomes": 101}', "'outcomes'"),
        (b'{"b": 1, "outcomes": 2.5}', "'outcomes'"),
        (b'{"b": 1, "outcomes": true}', "'outcomes'"),
    ],
)
def test_bad_market_is_refused_with_the_reason(client, body, expected):
    refused = client.put("/markets/cup", data=body)
    assert refused.status_code == 400 and expected in refused.json["error"]
    assert client.get("/markets/cup").status_code == 404


@pytest.mark.parametrize("name", ["a b", "x" * 65, "caf%C3%A9", "a.b"])
def test_bad_id_is_refused(client, name):
    refused = client.put(f"/markets/{name}", json={"b": 1, "outcomes": 2})
    assert refused.status_code == 400 and "letters" in refused.json["error"]


@pytest.mark.parametrize(
    "body, expected",
    [
        ({"quantity": [1, 0, 0]}, "'price' must be a number"),
        ({"price": 1}, "'quantity' must be a list of 3"),
        ({"quantity": [1, 0], "price": 1}, "'quantity' must be a list of 3"),
        ({"quantity": ["1", 0, 0], "price": 1}, "each of 'quantity'"),
        ({"quantity": [1e300, 0, 0], "price": 1}, "each of 'quantity'"),
    ],
)
def test_bad_trade_is_refused_with_the_reason(cup, body, expected):
    refused = cup.post("/markets/cup/trades", json=body)
    assert refused.status_code == 400 and expected in refused.json["error"]
    assert cup.get("/markets/cup").json["trades"] == 0


def test_unknown_things_are_404_and_405_in_json(client):
    assert "no market 'none'" in client.get("/markets/none").json["error"]
    assert client.post("/markets/none/trades", json={"quantity": [1], "price": 1}).status_code == 404
    refused = client.delete("/markets")
    assert refused.status_code == 405 and "GET" in refused.headers["Allow"] and refused.json["error"]


def test_too_many_shares_are_refused_and_nothing_is_stored(cup):
    most = {"quantity": [1e9, 0, 0], "price": 0}
    most["price"] = cup.post("/markets/cup/trades", json=most).json["price"]
    assert cup.post("/markets/cup/trades", json=most).status_code == 201
    more = {"quantity": [1, 0, 0], "price": 1}
    refused = cup.post("/markets/cup/trades", json=more)
    assert refused.status_code == 409 and "shares" in refused.json["error"]
    assert cup.get("/markets/cup").json["trades"] == 1
