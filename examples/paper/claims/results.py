"""The runs: rows of the CSV files, chosen by their columns."""

import csv
import math
import pathlib

NOT_RUN = "not run"


class NoNumber(Exception):
    """What a rule or a table asks for cannot be had from the rows; the message is shown in its place."""


class Missing(NoNumber):
    """No run has left it."""

    def __init__(self, what=""):
        super().__init__(f"{NOT_RUN}: {what}" if what else NOT_RUN)


class Unmatched(NoNumber):
    """Runs have left rows, but one lacks its partner, has two, or lacks its number; the message says which."""


def parsed(cell):
    """The number that a cell holds, or its text: 16 and 16.0 are one key."""
    try:
        value = float(cell)
    except (TypeError, ValueError):
        return cell
    return int(value) if value.is_integer() else value


def described(columns):
    """{"mechanism": "csq", "seed": 1} as "mechanism csq, seed 1"; a tuple is alternatives."""

    def words(value):
        return " or ".join(map(words, value)) if isinstance(value, tuple) else str(value)

    return ", ".join(f"{column} {words(value)}" for column, value in columns.items())


class Results:
    """Rows, each with the job that left it; `origin` holds what the first line of a job's CSV says, the commit and the
    machine."""

    def __init__(self, rows, origin=None):
        self.rows = list(rows)
        self.origin = origin or {}

    @classmethod
    def read(cls, folder):
        """All rows of all CSV files of a folder."""
        rows, origin = [], {}
        for path in sorted(pathlib.Path(folder).glob("*.csv")):
            with open(path, newline="", encoding="utf-8") as file:
                lines = file.read().splitlines()
            comments = [line for line in lines if line.startswith("#")]
            origin[path.stem] = comments[0].lstrip("# ") if comments else ""
            for row in csv.DictReader(line for line in lines if not line.startswith("#")):
                rows.append({**row, "job": path.stem})
        return cls(rows, origin)

    def select(self, program, **wanted):
        """Rows whose columns equal what is wanted: numbers as numbers, the rest as text, a tuple as alternatives.
        Raises Missing when there is none."""

        def fits(cell, value):
            if isinstance(value, tuple):
                return any(fits(cell, one) for one in value)
            if isinstance(value, str):
                return cell == value
            number = parsed(cell)
            return isinstance(number, (int, float)) and math.isclose(number, value, rel_tol=1e-9, abs_tol=1e-12)

        of_program = [row for row in self.rows if row.get("program") == program]
        if not of_program:
            raise Missing()
        rows = [row for row in of_program if all(fits(row.get(column), value) for column, value in wanted.items())]
        if not rows:
            raise Missing(f"{program} with {described(wanted)}")
        return rows
