"""Where the markets live, so that every worker sees the same ones.

`Store` is the interface; `tests/test_store.py` is the one conformance test that every
implementation passes. A store keeps markets and makes changes to one of them happen one after the
other. What a change means is the caller's business.
"""

from __future__ import annotations

import json
import os
import random
import sqlite3
import threading
import time
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, replace
from typing import Callable

LIST_LIMIT = 100
"""How many markets `newest` returns: one page, and never an answer without a bound."""


@dataclass(frozen=True)
class Market:
    """One market maker. `holdings` are the shares sold so far, one number per outcome."""

    id: str
    b: float
    holdings: tuple[float, ...]
    trades: int = 0

    @classmethod
    def opened(cls, market_id: str, b: float, outcomes: int) -> Market:
        return cls(market_id, b, (0.0,) * outcomes)

    def traded(self, quantity: list[float]) -> Market:
        holdings = tuple(held + bought for held, bought in zip(self.holdings, quantity))
        return replace(self, holdings=holdings, trades=self.trades + 1)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Market:
        fields = json.loads(text)
        return cls(**{**fields, "holdings": tuple(fields["holdings"])})


class Busy(Exception):
    """So many others changed the same market that this change gave up. Nothing was stored."""


class Store(ABC):
    @abstractmethod
    def create(self, market: Market) -> tuple[Market, bool]:
        """Stores `market` unless its id is taken. Returns what is stored, and whether it is new."""

    @abstractmethod
    def find(self, market_id: str) -> Market | None: ...

    @abstractmethod
    def newest(self) -> list[Market]:
        """The `LIST_LIMIT` markets created last, newest first."""

    @abstractmethod
    def change(self, market_id: str, step: Callable[[Market], Market]) -> Market | None:
        """Replaces a market by `step(market)`, with no change in between lost, and returns it.

        `step` must be pure: it may run more than once. What it raises is raised here, and then
        nothing is stored. Returns None when there is no such market.
        """


def open_store() -> Store:
    """Redis when REDIS_URL is set, else the SQLite file MARKET_DB (default: beside this file)."""
    if url := os.environ.get("REDIS_URL"):
        return RedisStore(url)
    here = os.path.dirname(os.path.abspath(__file__))
    return SqliteStore(os.environ.get("MARKET_DB", os.path.join(here, "market.db")))


class SqliteStore(Store):
    BUSY_SECONDS = 10.0
    """A writer waits this long for its turn. A change takes well under a millisecond."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._mine = threading.local()

    def create(self, market: Market) -> tuple[Market, bool]:
        row = self._db().execute(
            "INSERT INTO markets (id, body) VALUES (?, ?) ON CONFLICT (id) DO NOTHING",
            (market.id, market.to_json()),
        )
        return (market, True) if row.rowcount == 1 else (self._must_find(market.id), False)

    def find(self, market_id: str) -> Market | None:
        row = self._db().execute("SELECT body FROM markets WHERE id = ?", (market_id,)).fetchone()
        return Market.from_json(row[0]) if row else None

    def newest(self) -> list[Market]:
        rows = self._db().execute("SELECT body FROM markets ORDER BY n DESC LIMIT ?", (LIST_LIMIT,))
        return [Market.from_json(body) for (body,) in rows]

    def change(self, market_id: str, step: Callable[[Market], Market]) -> Market | None:
        db = self._db()
        # IMMEDIATE takes the write lock before the read: a plain BEGIN would read first, and two
        # workers that read the same holdings could not both write.
        try:
            db.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            raise Busy(str(error)) from error
        with db:  # commits, or rolls back when `step` raises
            before = self.find(market_id)
            if before is None:
                return None
            after = step(before)
            db.execute("UPDATE markets SET body = ? WHERE id = ?", (after.to_json(), market_id))
            return after

    def _must_find(self, market_id: str) -> Market:
        market = self.find(market_id)
        assert market is not None, "markets are never deleted"
        return market

    def _db(self) -> sqlite3.Connection:
        # One connection per thread, opened at its first request: a worker is forked from a process
        # that has imported the app, and an SQLite connection must not be carried across a fork.
        if not hasattr(self._mine, "db"):
            db = sqlite3.connect(self._path, timeout=self.BUSY_SECONDS, isolation_level=None)
            self._switch_to_wal(db)
            db.execute(
                "CREATE TABLE IF NOT EXISTS markets"
                " (n INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, body TEXT NOT NULL)"
            )
            self._mine.db = db
        return self._mine.db

    def _switch_to_wal(self, db: sqlite3.Connection) -> None:
        # The one statement for which SQLite does not wait: when several workers open a new file
        # at the same moment, one of them switches it and the others are told "locked" at once.
        deadline = time.monotonic() + self.BUSY_SECONDS
        while True:
            try:
                db.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)


class RedisStore(Store):
    ATTEMPTS = 200
    """With n writers at once one of n attempts wins; 200 is out of reach short of a stampede."""

    def __init__(self, url: str) -> None:
        import redis  # only who sets REDIS_URL needs the package

        self._redis = redis.Redis.from_url(url)
        self._moved = redis.WatchError

    def create(self, market: Market) -> tuple[Market, bool]:
        def insert(pipe) -> tuple[Market, bool]:
            if stored := pipe.get(_key(market.id)):
                return Market.from_json(stored), False
            score = time.time()
            pipe.multi()
            pipe.set(_key(market.id), market.to_json())
            pipe.zadd("markets", {market.id: score})
            pipe.execute()
            return market, True

        return self._optimistic(market.id, insert)

    def find(self, market_id: str) -> Market | None:
        stored = self._redis.get(_key(market_id))
        return Market.from_json(stored) if stored else None

    def newest(self) -> list[Market]:
        ids = self._redis.zrevrange("markets", 0, LIST_LIMIT - 1)
        stored = self._redis.mget([_key(i.decode()) for i in ids]) if ids else []
        return [Market.from_json(body) for body in stored if body]

    def change(self, market_id: str, step: Callable[[Market], Market]) -> Market | None:
        def update(pipe) -> Market | None:
            stored = pipe.get(_key(market_id))
            if stored is None:
                return None
            after = step(Market.from_json(stored))
            pipe.multi()
            pipe.set(_key(market_id), after.to_json())
            pipe.execute()
            return after

        return self._optimistic(market_id, update)

    def _optimistic(self, market_id: str, attempt):
        """Runs `attempt` again until nobody else wrote the market between its read and its write."""
        with self._redis.pipeline() as pipe:
            for failed in range(self.ATTEMPTS):
                try:
                    pipe.watch(_key(market_id))
                    return attempt(pipe)
                except self._moved:
                    # A short random pause breaks up the crowd instead of letting it collide again.
                    time.sleep(random.uniform(0, min(0.02, 0.0005 * (failed + 1))))
        raise Busy(f"market {market_id} changed {self.ATTEMPTS} times while we tried")


def _key(market_id: str) -> str:
    return f"market:{market_id}"
