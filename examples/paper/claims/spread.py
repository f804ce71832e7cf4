"""One number a seed: the median and the range."""

import math
from statistics import median
from typing import NamedTuple

from .matching import keyed, matched, name_of
from .results import Missing, Unmatched, parsed

LARGER_IS_BETTER = ("accuracy", "stable_rank_q", "stable_rank_k")


class Spread(NamedTuple):
    median: float
    low: float
    high: float
    count: int

    def text(self, form="{:.3g}"):
        middle, low, high = (form.format(value) if math.isfinite(value) else "diverged" for value in self[:3])
        return middle if low == high else f"{middle} ({low} to {high})"


def number(cell, column):
    """None for an empty cell: not applicable. A run that diverged left NaN, which counts as the worst there is."""
    if cell in ("", None):
        return None
    value = parsed(cell)
    if not isinstance(value, (int, float)):
        raise Unmatched(f"{column} is '{cell}'")
    if math.isnan(value):
        return -math.inf if column in LARGER_IS_BETTER else math.inf
    return value


def outcome(row, column):
    """As number, of a cell that must have one."""
    value = number(row.get(column), column)
    if value is None:
        raise Unmatched(f"{name_of(row)}: {column} is empty (in {row.get('job', 'unknown')})")
    return value


def spread(rows, column, name=""):
    """Over the seeds: every seed once, and each with a number."""
    values = {seed: number(row.get(column), column) for seed, row in keyed(rows, "seed", name=name).items()}
    known = [value for value in values.values() if value is not None]
    if not known:
        raise Missing(column)
    if len(known) < len(values):
        empty = next(seed for (seed,), value in values.items() if value is None)
        raise Unmatched(f"{name or name_of(rows[0])}: {column} is empty for seed {empty}")
    return Spread(median(known), min(known), max(known), len(known))


def spreads(sides, column):
    """{name: Spread} of sides {name: rows} that have the same seeds."""
    at_seeds = matched(sides, "seed").values()
    return {name: spread([at[name] for at in at_seeds], column, name) for name in sides}
