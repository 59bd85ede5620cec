"""Orders the turns of sources so that in every prefix each share is exact to less than one sample."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate

LONGEST_PERIOD = 10_000


@dataclass(frozen=True)
class Turns:
    """Endless turns: in every prefix each share is exact to at most one turn.

    Attributes:
        order: One period of turns.
        starts: Places in the period where one may start.
    """

    order: list[int]
    starts: list[int]

    @classmethod
    def of(cls, weights: Sequence[float]) -> Turns:
        """Deals turns in proportion to `weights`.

        Raises:
            ValueError: See `whole_weights`.
        """
        whole = whole_weights(weights)
        order = deal(whole)
        return cls(order, fair_starts(whole, order))

    def start(self, worker: int, workers: int) -> int:
        """Returns the start of one of several workers, spread so that together they are balanced at every step."""
        return self.starts[worker * len(self.starts) // workers % len(self.starts)]

    def at(self, start: int, turn: int) -> int:
        """Returns the item whose turn it is after `turn` turns."""
        return self.order[(start + turn) % len(self.order)]

    def taken(self, start: int, turns: int, item: int) -> int:
        """Counts how many of the first `turns` turns were those of `item`."""
        periods, rest = divmod(turns, len(self.order))
        partial = sum(self.at(start, turn) == item for turn in range(rest))
        return periods * self.order.count(item) + partial


def whole_weights(weights: Sequence[float]) -> list[int]:
    """Turns weights into whole numbers without a common divisor: 0.4, 0.2, 0.2, 0.2 -> 2, 1, 1, 1.

    Raises:
        ValueError: A weight is not positive, or the numbers add up to more than 10,000.
    """
    if not weights or not all(weight > 0 and math.isfinite(weight) for weight in weights):
        raise ValueError(f"weights must be positive, got {list(weights)}")
    fractions = [Fraction(weight).limit_denominator(1000) for weight in weights]
    denominator = math.lcm(*(fraction.denominator for fraction in fractions))
    whole = [int(fraction * denominator) for fraction in fractions]
    divisor = math.gcd(*whole)
    whole = [weight // divisor for weight in whole if divisor] or whole
    if min(whole) == 0 or sum(whole) > LONGEST_PERIOD:
        raise ValueError(f"weights {list(weights)} need whole proportions that add up to at most 10000")
    return whole


def deal(weights: Sequence[int]) -> list[int]:
    """Deals one period of turns: after k turns source i has its share k * w_i / sum(w) to less than one turn.

    The algorithm is Tijdeman's ("The chairman assignment problem", 1980): among the sources that are at least
    1/(2n - 2) behind, the next turn goes to the one that would first fall 1 - 1/(2n - 2) behind.

    Args:
        weights: Positive whole numbers.
    """
    total, slack = sum(weights), max(2 * len(weights) - 2, 1)
    taken = [0] * len(weights)
    turns = []
    for turn in range(1, total + 1):
        behind = [turn * weight - count * total for weight, count in zip(weights, taken)]
        ready = [i for i, lag in enumerate(behind) if lag * slack >= total]
        chosen = min(ready, key=lambda i: (Fraction(total * (slack - 1) - behind[i] * slack, weights[i]), i))
        taken[chosen] += 1
        turns.append(chosen)
    return turns


def fair_starts(weights: Sequence[int], turns: Sequence[int]) -> list[int]:
    """Finds the places in the period where one may start and still be at most one turn off in every prefix.

    Workers start at different places, so that the samples they draw together at a step are balanced as well.
    """
    total = sum(weights)
    deviations = [
        list(accumulate([(total if turn == i else 0) - weight for turn in turns], initial=0))[:-1]
        for i, weight in enumerate(weights)
    ]
    lowest, highest = [min(row) for row in deviations], [max(row) for row in deviations]
    return [
        start
        for start in range(total)
        if all(
            highest[i] - row[start] <= total and row[start] - lowest[i] <= total
            for i, row in enumerate(deviations)
        )
    ]
