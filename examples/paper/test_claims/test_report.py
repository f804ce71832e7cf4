import fnmatch
import pathlib
import random
import re
import unittest

import report
from claims import CLAIMS
from claims.results import NOT_RUN, Results

from . import made_up

HERE = pathlib.Path(report.__file__).parent


class Report(unittest.TestCase):
    def text(self, rows):
        results = made_up.results_of(rows)
        results.origin = {"job": "commit 0123456789ab, a processor, 2 cores"}
        return report.report(results, pathlib.Path("nowhere"))

    def test_all_sections(self):
        text = self.text(made_up.all_runs())
        for title in ("Table 2", "Table 3", "Table 4", "Figure 1", "Figure 2", "Control", "Not tested", "Runs"):
            self.assertIn(f"## {title}", text)
        self.assertIn("commit 0123456789ab", text)

    def test_tables_have_as_many_cells_as_columns(self):
        columns = None
        for line in self.text(made_up.all_runs()).splitlines():
            cells = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else None
            self.assertTrue(cells is None or columns is None or cells == columns, line)
            columns = cells

    def test_nothing_run(self):
        text = self.text([])
        self.assertIn(NOT_RUN, text)
        self.assertNotIn("nan", text)

    def test_each_program_missing(self):
        rows = made_up.all_runs()
        for program in {row["program"] for row in rows}:
            self.assertIn(NOT_RUN, self.text(made_up.without(rows, {"program": program})))

    def test_one_row_missing_or_twice(self):
        """It is written all the same, and says so."""
        rows = made_up.all_runs()
        for program in sorted({row["program"] for row in rows}):
            row = random.Random(1).choice([row for row in rows if row["program"] == program])
            self.text([other for other in rows if other is not row])
            self.assertIn("2 rows of", self.text([*rows, row]), row)

    def test_number_of_a_claim(self):
        self.assertEqual(report.number_of(CLAIMS[3].function), 4)


class Committed(unittest.TestCase):
    results = Results.read(made_up.COMMITTED)

    def test_results_say_what_the_runs_say(self):
        expected = (HERE / "RESULTS.md").read_text(encoding="utf-8")
        self.assertEqual(report.report(self.results, made_up.COMMITTED), expected, "sh examples/paper/run.sh writes it anew")

    def test_order_of_rows_says_nothing(self):
        expected = [claim.judge(self.results) for claim in CLAIMS]
        rows = list(self.results.rows)
        for seed in range(3):
            random.Random(seed).shuffle(rows)
            self.assertEqual([claim.judge(Results(rows)) for claim in CLAIMS], expected)


class Jobs(unittest.TestCase):
    def test_claims_name_jobs(self):
        lines = (HERE / "jobs.txt").read_text(encoding="utf-8").splitlines()
        names = [line.split()[0].rstrip("!") for line in lines if line and not line.startswith("#")]
        self.assertEqual(len(names), len(set(names)))
        for claim in CLAIMS:
            for pattern in claim.jobs.split():
                self.assertTrue(fnmatch.filter(names, pattern), f"{claim.function.__name__}: no job {pattern}")
