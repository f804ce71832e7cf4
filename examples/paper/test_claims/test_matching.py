import random
import tempfile
import unittest

from claims.matching import grid, keyed, matched, positive, reading
from claims.results import NOT_RUN, Missing, Results, Unmatched
from claims.spread import Spread, outcome, spread, spreads

from .made_up import write


def rows(*cells, columns=("seed", "x"), job="job"):
    return [{**{column: str(value) for column, value in zip(columns, values)}, "job": job} for values in cells]


class Keyed(unittest.TestCase):
    def test_in_the_order_of_the_keys(self):
        shuffled = rows((10, "b"), (2, "a"), (1.0, "c"))
        random.Random(1).shuffle(shuffled)
        self.assertEqual({key: row["x"] for key, row in keyed(shuffled, "seed").items()}, {(1,): "c", (2,): "a", (10,): "b"})
        self.assertEqual([*keyed(shuffled, "seed")], [(1,), (2,), (10,)])

    def test_numbers_before_texts_before_nothing(self):
        mixed = [{"k": "csq"}, {}, {"k": "3"}]
        self.assertEqual([*keyed(mixed, "k")], [(3,), ("csq",), (None,)])

    def test_two_rows_of_one_key(self):
        with self.assertRaisesRegex(Unmatched, r"^csq: 2 rows of seed 1 \(in another, job\)$"):
            keyed(rows((1, 3)) + rows((1.0, 3), job="another"), "seed", name="csq")


class Matched(unittest.TestCase):
    def test_by_key(self):
        pairs = matched({"a": rows((1, 10), (2, 20)), "b": rows((2, 200), (1, 100))}, "seed")
        self.assertEqual(
            [(key, at["a"]["x"], at["b"]["x"]) for key, at in pairs.items()], [((1,), "10", "100"), ((2,), "20", "200")]
        )

    def test_one_without_a_partner(self):
        for one, other, said in (
            (rows((1, 10), (2, 20)), rows((1, 100)), "b: no row of seed 2, which a has"),
            (rows((1, 10)), rows((1, 100), (2, 200)), "a: no row of seed 2, which b has"),
            (rows((1, 10)), [], "b: no row of seed 1, which a has"),
        ):
            with self.assertRaisesRegex(Unmatched, f"^{said}$"):
                matched({"a": one, "b": other}, "seed")

    def test_one_with_two_partners(self):
        with self.assertRaisesRegex(Unmatched, r"^b: 2 rows of seed 1 \(in job\)$"):
            matched({"a": rows((1, 10)), "b": rows((1, 100), (1, 100))}, "seed")

    def test_grid(self):
        full = rows((16, 256), (16, 512), (32, 256), (32, 512), columns=("d", "n"))
        self.assertEqual([*grid(full, "d", "n")], [(16, 256), (16, 512), (32, 256), (32, 512)])
        with self.assertRaisesRegex(Unmatched, "^csq: no row of d 32, n 512$"):
            grid(full[:-1], "d", "n", name="csq")


class Numbers(unittest.TestCase):
    def test_reading(self):
        self.assertEqual(reading({"x": "2.5"}, "x"), 2.5)
        for cell in ("", "nan", "fast", None):
            with self.assertRaisesRegex(Unmatched, f"^cost csq: x is '{cell}' "):
                reading({"program": "cost", "part": "csq", "x": cell}, "x")
        for cell in ("0", "-1"):
            with self.assertRaisesRegex(Unmatched, f"x is {cell}"):
                positive({"x": cell}, "x")

    def test_outcome(self):
        self.assertEqual(outcome({"accuracy": "nan"}, "accuracy"), float("-inf"))
        self.assertEqual(outcome({"loss": "nan"}, "loss"), float("inf"))
        with self.assertRaisesRegex(Unmatched, "loss is empty"):
            outcome({"loss": ""}, "loss")
        with self.assertRaisesRegex(Unmatched, "loss is 'low'"):
            outcome({"loss": "low"}, "loss")


class Spreads(unittest.TestCase):
    def test_of_seeds(self):
        self.assertEqual(spread(rows((1, 3), (2, 1), (3, 2)), "x"), Spread(2, 1, 3, 3))

    def test_a_seed_twice(self):
        with self.assertRaisesRegex(Unmatched, "2 rows of seed 3"):
            spread(rows((1, 3), (2, 1), (3, 2), (3, 2)), "x")

    def test_empty_cells(self):
        with self.assertRaises(Missing):
            spread(rows((1, ""), (2, "")), "x")
        with self.assertRaisesRegex(Unmatched, "^csq: x is empty for seed 2$"):
            spread(rows((1, 3), (2, "")), "x", "csq")

    def test_over_the_same_seeds(self):
        sides = {"a": rows((1, 3), (2, 4)), "b": rows((2, 5), (1, 7))}
        self.assertEqual(spreads(sides, "x"), {"a": Spread(3.5, 3, 4, 2), "b": Spread(6, 5, 7, 2)})
        with self.assertRaisesRegex(Unmatched, "^b: no row of seed 1, which a has$"):
            spreads({**sides, "b": rows((2, 5))}, "x")


class Select(unittest.TestCase):
    results = Results({"program": "capacity", "mechanism": name, "d": d} for name in ("csq", "linear") for d in ("4", "8.0"))

    def test_numbers_as_numbers_and_alternatives(self):
        self.assertEqual(len(self.results.select("capacity", d=8)), 2)
        self.assertEqual(len(self.results.select("capacity", mechanism=("csq", "softmax"), d=(4, 8))), 2)

    def test_what_is_missing_is_said(self):
        with self.assertRaisesRegex(Missing, f"^{NOT_RUN}$"):
            self.results.select("cost")
        with self.assertRaisesRegex(Missing, f"^{NOT_RUN}: capacity with mechanism csq, d 16 or 32$"):
            self.results.select("capacity", mechanism="csq", d=(16, 32))

    def test_read(self):
        with tempfile.TemporaryDirectory() as folder:
            write([{"program": "cost", "x": 1}, {"program": "depth", "y": 2}], folder)
            results = Results.read(folder)
        self.assertEqual([row["job"] for row in results.rows], ["job_0", "job_1"])
        self.assertEqual(set(results.origin.values()), {"commit 0123456789ab, a processor, 2 cores"})
