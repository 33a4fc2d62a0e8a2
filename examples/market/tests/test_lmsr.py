from itertools import product
from math import isclose, isfinite, log

import pytest

import lmsr

HOLDINGS = [[0.0, 0.0], [10.0, -3.0, 250.0], [1e9, -1e9, 0.0], [5e8, 5e8], [0.0] * 100]
SITUATIONS = list(product([0.01, 1.0, 100.0, 1e6], HOLDINGS))


@pytest.mark.parametrize("b, holdings", SITUATIONS)
def test_prices_sum_to_one_however_lopsided(b, holdings):
    prices = lmsr.prices(b, holdings)
    assert isclose(sum(prices), 1.0)
    assert all(0.0 <= price <= 1.0 for price in prices)


def test_new_market_prices_all_outcomes_alike():
    assert lmsr.prices(100.0, [0.0] * 4) == [0.25] * 4


@pytest.mark.parametrize("b, holdings", SITUATIONS)
def test_price_is_finite_and_between_worst_and_best(b, holdings):
    for size in (1e-6, 1.0, 1e9):
        bought = [size] + [0.0] * (len(holdings) - 1)
        price = lmsr.price_of(b, holdings, bought)
        assert isfinite(price) and -1e-6 <= price <= size * (1 + 1e-9)


def test_a_share_of_every_outcome_costs_one():
    assert isclose(lmsr.price_of(100.0, [12.0, 700.0, -9.0], [1.0, 1.0, 1.0]), 1.0)


def test_buying_in_two_steps_costs_the_same():
    holdings, first, second = [3.0, 40.0, -7.0], [5.0, 0.0, 1.0], [-2.0, 30.0, 0.0]
    between = [h + q for h, q in zip(holdings, first)]
    both = [p + q for p, q in zip(first, second)]
    apart = lmsr.price_of(25.0, holdings, first) + lmsr.price_of(25.0, between, second)
    assert isclose(apart, lmsr.price_of(25.0, holdings, both))


def test_buying_and_selling_back_costs_nothing():
    paid = lmsr.price_of(10.0, [0.0, 0.0], [1e4, 0.0])
    back = lmsr.price_of(10.0, [1e4, 0.0], [-1e4, 0.0])
    assert isclose(paid, -back)


def test_known_value():
    # 100 * (log(e^0.1 + 2) - log(3)), by hand.
    assert isclose(lmsr.price_of(100.0, [0.0] * 3, [10.0, 0.0, 0.0]), 3.4456, abs_tol=1e-4)


def test_the_market_maker_loses_at_most_b_log_n():
    b, n = 50.0, 3
    paid = lmsr.price_of(b, [0.0] * n, [1e6, 0.0, 0.0])
    assert isclose(1e6 - paid, b * log(n), rel_tol=1e-6)
