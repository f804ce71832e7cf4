"""Rows by their keys. Never by their order: a row that lacks its partner, or has two, is said.

    keyed(rows, "seed")                                    {(1,): row, (2,): row}
    matched({"csq": rows, "softmax": others}, "seed")      {(1,): {"csq": row, "softmax": other}, ...}
    grid(rows, "key_dim", "tokens")                        as keyed, and every key_dim has every tokens
"""

import itertools
import math

from .results import Unmatched, described, parsed


def keyed(rows, *columns, name=""):
    """{key: row} in the order of the keys; `name` is what an error calls the rows."""
    found = {}
    for row in rows:
        found.setdefault(key_of(row, columns), []).append(row)
    for key, same in found.items():
        if len(same) > 1:
            jobs = ", ".join(sorted({row.get("job", "unknown") for row in same}))
            raise Unmatched(f"{name or name_of(same[0])}: {len(same)} rows of {words(columns, key)} (in {jobs})")
    return {key: found[key][0] for key in sorted(found, key=order)}


def matched(sides, *columns):
    """{key: {name: row}} of sides {name: rows}, in the order of the keys: every key once in every side."""
    tables = {name: keyed(rows, *columns, name=name) for name, rows in sides.items()}
    for key in sorted(set().union(*tables.values()), key=order):
        without = [name for name, table in tables.items() if key not in table]
        if without:
            present = next(name for name, table in tables.items() if key in table)
            raise Unmatched(f"{', '.join(without)}: no row of {words(columns, key)}, which {present} has")
    return {key: {name: table[key] for name, table in tables.items()} for key in next(iter(tables.values()))}


def grid(rows, *columns, name=""):
    """As keyed, and every combination of the columns' values is there."""
    table = keyed(rows, *columns, name=name)
    for key in itertools.product(*(sorted(set(values), key=lambda one: order([one])) for values in zip(*table))):
        if key not in table:
            raise Unmatched(f"{name or name_of(rows[0])}: no row of {words(columns, key)}")
    return table


def reading(row, column):
    """The number of a cell that must have one."""
    value = parsed(row.get(column))
    if not isinstance(value, (int, float)) or math.isnan(value):
        raise Unmatched(f"{name_of(row)}: {column} is '{row.get(column)}' (in {row.get('job', 'unknown')})")
    return value


def positive(row, column):
    """A number that others are divided by, or that has a logarithm."""
    value = reading(row, column)
    if value <= 0:
        raise Unmatched(f"{name_of(row)}: {column} is {value}, which nothing can be compared with")
    return value


def key_of(row, columns):
    return tuple(parsed(row.get(column)) for column in columns)


def order(key):
    """Numbers by size, then texts, then what has no such column."""
    return [(part is None, isinstance(part, str), "" if part is None else part) for part in key]


def name_of(row):
    return " ".join(row[column] for column in ("program", "mechanism", "model", "part", "subject") if row.get(column))


def words(columns, key):
    return described(dict(zip(columns, key)))
