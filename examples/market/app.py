"""Market makers over HTTP: make one, look at its prices, trade with it.

Try it: curl -X PUT  localhost:8000/markets/cup        --json '{"b": 100, "outcomes": 3}'
        curl -X POST localhost:8000/markets/cup/trades --json '{"quantity": [10, 0, 0], "price": 3.4456}'
"""

from __future__ import annotations

import math
import re

from flask import Flask, abort, jsonify, render_template, request
from werkzeug.exceptions import HTTPException

import lmsr
from store import Busy, Market, open_store

TOLERANCE = 0.005
"""A trade is refused when its price moved by more than this (half a cent) since it was agreed."""

MAX_OUTCOMES = 100
MAX_LIQUIDITY = 1e6
MAX_SHARES = 1e9
"""Beyond 2^53 shares a double no longer counts single ones; stay far below."""

MARKET_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class PriceMoved(Exception):
    def __init__(self, price: float) -> None:
        self.price = price


app = Flask(__name__)
app.json.sort_keys = False
store = open_store()


@app.get("/")
def page():
    return render_template("index.html", markets=[shown(market) for market in store.newest()])


@app.get("/markets")
def list_markets():
    return jsonify(markets=[shown(market) for market in store.newest()])


@app.put("/markets/<market_id>")
def create_market(market_id: str):
    if not MARKET_ID.fullmatch(market_id):
        abort(400, "a market's id is 1 to 64 letters, digits, '-' or '_'")
    body = json_object()
    wanted = Market.opened(market_id, liquidity(body), outcomes(body))
    market, created = store.create(wanted)
    if (market.b, len(market.holdings)) != (wanted.b, len(wanted.holdings)):
        abort(409, f"market {market_id} exists with b {market.b:g} and {len(market.holdings)} outcomes")
    return shown(market), 201 if created else 200


@app.get("/markets/<market_id>")
def show_market(market_id: str):
    return shown(store.find(market_id) or no_market(market_id))


@app.post("/markets/<market_id>/trades")
def trade(market_id: str):
    body = json_object()
    agreed = number(body, "price")
    market = store.find(market_id) or no_market(market_id)
    bought = quantity(body, len(market.holdings))
    paid = 0.0

    def accept(now: Market) -> Market:
        nonlocal paid
        paid = lmsr.price_of(now.b, now.holdings, bought)
        if abs(paid - agreed) > TOLERANCE:
            raise PriceMoved(paid)
        after = now.traded(bought)
        if max(map(abs, after.holdings)) > MAX_SHARES:
            abort(409, f"a market holds at most {MAX_SHARES:g} shares of an outcome")
        return after

    after = store.change(market_id, accept) or no_market(market_id)
    return {"price": paid, "market": shown(after)}, 201


def shown(market: Market) -> dict:
    return {
        "id": market.id,
        "b": market.b,
        "holdings": list(market.holdings),
        "prices": lmsr.prices(market.b, market.holdings),
        "trades": market.trades,
    }


# Checking what came in. Every refusal says what was expected.


def json_object() -> dict:
    body = request.get_json(force=True, silent=True)
    if not isinstance(body, dict):
        abort(400, "the body must be a JSON object")
    return body


def number(body: dict, name: str) -> float:
    return finite(body.get(name), f"{name!r}")


def liquidity(body: dict) -> float:
    b = number(body, "b")
    if not 0.01 <= b <= MAX_LIQUIDITY:
        abort(400, f"'b' must be from 0.01 to {MAX_LIQUIDITY:g}")
    return b


def outcomes(body: dict) -> int:
    count = body.get("outcomes")
    if type(count) is not int or not 2 <= count <= MAX_OUTCOMES:
        abort(400, f"'outcomes' must be a whole number from 2 to {MAX_OUTCOMES}")
    return count


def quantity(body: dict, length: int) -> list[float]:
    vector = body.get("quantity")
    if not isinstance(vector, list) or len(vector) != length:
        abort(400, f"'quantity' must be a list of {length} numbers, one per outcome")
    bought = [finite(value, "each of 'quantity'") for value in vector]
    if max(map(abs, bought)) > MAX_SHARES:
        abort(400, f"each of 'quantity' must be from {-MAX_SHARES:g} to {MAX_SHARES:g}")
    return bought


def finite(value: object, what: str) -> float:
    # bool is an int in Python, and JSON as Python reads it knows NaN, Infinity and huge integers.
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        abort(400, f"{what} must be a number")
    try:
        result = float(value)
    except OverflowError:
        result = math.inf
    if not math.isfinite(result):
        abort(400, f"{what} must be a finite number")
    return result


def no_market(market_id: str):
    abort(404, f"there is no market {market_id!r}")


@app.errorhandler(HTTPException)
def explain(error: HTTPException):
    response = jsonify(error=error.description)
    response.headers.extend(h for h in error.get_headers() if h[0].lower() != "content-type")
    return response, error.code


@app.errorhandler(PriceMoved)
def refuse(moved: PriceMoved):
    return {"error": "the price moved", "price": moved.price}, 409


@app.errorhandler(Busy)
def busy(_: Busy):
    return {"error": "too many trades at once; try again"}, 503, {"Retry-After": "1"}
