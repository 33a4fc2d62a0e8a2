"""The conformance test of `Store`: what every implementation promises."""

import multiprocessing

import pytest

from store import LIST_LIMIT, Market, open_store


@pytest.fixture
def store(environment):
    return open_store()


def test_created_market_is_found(store):
    market = Market.opened("cup", 100.0, 3)
    assert store.create(market) == (market, True)
    assert store.find("cup") == market
    assert open_store().find("cup") == market


def test_second_create_returns_what_is_stored(store):
    first, second = Market.opened("cup", 100.0, 3), Market.opened("cup", 5.0, 2)
    store.create(first)
    assert store.create(second) == (first, False)
    assert store.find("cup") == first


def test_unknown_market_is_none(store):
    assert store.find("nothing") is None
    assert store.change("nothing", lambda market: market) is None


def test_newest_lists_newest_first_up_to_the_limit(store):
    for n in range(LIST_LIMIT + 5):
        store.create(Market.opened(f"m{n}", 1.0, 2))
    listed = [market.id for market in store.newest()]
    assert len(listed) == LIST_LIMIT
    assert listed[:3] == [f"m{n}" for n in range(LIST_LIMIT + 4, LIST_LIMIT + 1, -1)]


def test_newest_of_nothing_is_empty(store):
    assert store.newest() == []


def test_change_stores_and_returns_the_result(store):
    store.create(Market.opened("cup", 100.0, 2))
    after = store.change("cup", lambda market: market.traded([1.0, -2.5]))
    assert after == Market("cup", 100.0, (1.0, -2.5), 1)
    assert store.find("cup") == after


def test_change_that_raises_stores_nothing(store):
    store.create(Market.opened("cup", 100.0, 2))

    def refuse(market):
        raise LookupError("no")

    with pytest.raises(LookupError):
        store.change("cup", refuse)
    assert store.find("cup") == Market.opened("cup", 100.0, 2)
    assert store.change("cup", lambda market: market.traded([1.0, 1.0])).trades == 1


def test_processes_lose_no_update(store):
    store.create(Market.opened("cup", 100.0, 2))
    forked = multiprocessing.get_context("fork")
    writers = [forked.Process(target=add_many, args=(50,)) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    assert store.find("cup") == Market("cup", 100.0, (200.0, -200.0), 200)


def test_processes_that_open_a_new_store_together_agree(environment, tmp_path, monkeypatch):
    forked = multiprocessing.get_context("fork")
    for attempt in range(10):
        monkeypatch.setenv("MARKET_DB", str(tmp_path / f"new{attempt}.db"))
        together = forked.Barrier(6)
        writers = [forked.Process(target=create_one, args=(together, f"m{attempt}")) for _ in range(6)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join(60)
            assert writer.exitcode == 0
        assert open_store().find(f"m{attempt}").holdings == (0.0, 0.0)


def add_many(times):
    mine = open_store()
    for _ in range(times):
        mine.change("cup", lambda market: market.traded([1.0, -1.0]))


def create_one(together, market_id):
    together.wait(30)
    open_store().create(Market.opened(market_id, 1.0, 2))
