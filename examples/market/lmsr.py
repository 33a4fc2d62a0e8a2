"""Hanson's logarithmic market scoring rule: what a trade costs and what the prices are.

Pure functions of `holdings` (shares sold so far, one number per outcome) and the liquidity `b`
(shares; the market maker can lose at most b * log(outcomes)). Nothing here knows of stores or HTTP.

R. Hanson, "Logarithmic market scoring rules for modular combinatorial information aggregation" (2007).
"""

from __future__ import annotations

from math import exp, log
from typing import Sequence


def prices(b: float, holdings: Sequence[float]) -> list[float]:
    """The price of one (infinitely small) share of each outcome. They sum to 1."""
    # exp() of the largest term is exp(0): nothing overflows, however lopsided the market is.
    top = max(holdings)
    weights = [exp((held - top) / b) for held in holdings]
    total = sum(weights)
    return [weight / total for weight in weights]


def price_of(b: float, holdings: Sequence[float], quantity: Sequence[float]) -> float:
    """What buying `quantity` costs; negative when the market maker pays.

    This is cost(holdings + quantity) - cost(holdings) with cost(q) = b * log(sum(exp(q / b))),
    written so that the two large costs never meet: their difference would lose its last digits.
    """
    top = max(quantity)
    weighted = sum(p * exp((bought - top) / b) for p, bought in zip(prices(b, holdings), quantity))
    if weighted > 0.0:
        return top + b * log(weighted)
    # Every outcome with a price left is so far below `top` that exp() gave 0. Take the two costs
    # apart after all; they are far from each other here, so nothing is lost.
    after = [held + bought for held, bought in zip(holdings, quantity)]
    return _cost(b, after) - _cost(b, holdings)


def _cost(b: float, holdings: Sequence[float]) -> float:
    top = max(holdings)
    return top + b * log(sum(exp((held - top) / b) for held in holdings))
