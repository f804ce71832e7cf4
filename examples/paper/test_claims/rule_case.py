"""What is asked of the rules of every subject.

A subclass names the subject's module, makes its rows, and says what each rule must say: on those rows (`expected`), after
changes (`changes`: rule, verdict, changes), and which rules look at rows that have no partners (`alone`).
"""

import random
import re
import unittest

from claims.results import NOT_RUN
from claims.verdict import FAILS, HOLDS, UNDECIDED

from .made_up import changed, results_of

# What a run measures, beside what it is told and what it is.
MEASURED = (
    "measured",
    "milliseconds",
    "accuracy",
    "max_abs_z",
    "overflow",
    "stable_rank_q",
    "stable_rank_k",
    "attention_error",
    "teacher_accuracy",
    "max_logit_deviation",
    "attention_deviation",
    "attention_us",
    "multiply_adds",
    "error",
    "value",
    "bits",
    "quarter_1",
    "quarter_4",
)


def some(rows, most=60):
    return random.Random(1).sample(rows, min(most, len(rows)))


class RuleCase(unittest.TestCase):
    subject = None
    expected = {}
    changes = ()
    alone = ()

    def rows(self):
        raise NotImplementedError

    def judged(self, rows):
        """{rule: (ours, verdict)}"""
        results = results_of(rows)
        return {claim.function.__name__: claim.judge(results) for claim in self.subject.CLAIMS}

    def verdicts(self, rows):
        return {rule: verdict for rule, (_, verdict) in self.judged(rows).items()}

    def test_made_up_runs(self):
        self.assertEqual(self.verdicts(self.rows()), self.expected)

    def test_changed_runs(self):
        for rule, expected, changes in self.changes:
            with self.subTest(rule, expected=expected, changes=changes):
                self.assertEqual(self.verdicts(changed(self.rows(), changes))[rule], expected)

    def test_every_rule_can_hold_and_fail(self):
        for rule, verdict in self.expected.items():
            seen = {verdict, *(expected for changed_rule, expected, _ in self.changes if changed_rule == rule)}
            self.assertLessEqual({HOLDS, FAILS}, seen, rule)

    def test_nothing_run(self):
        self.assertEqual(set(self.judged([]).values()), {(NOT_RUN, UNDECIDED)})

    def test_order_of_rows_says_nothing(self):
        rows, expected = self.rows(), self.judged(self.rows())
        for seed in range(5):
            random.Random(seed).shuffle(rows)
            self.assertEqual(self.judged(rows), expected)

    def test_a_row_that_lacks_its_partner_is_said(self):
        rows, before = self.rows(), self.judged(self.rows())
        for row in some(rows):
            for rule, (ours, verdict) in self.judged([other for other in rows if other is not row]).items():
                with self.subTest(rule, lacks=row):
                    if re.search(f"no row of|{NOT_RUN}", ours):
                        self.assertIn(verdict, (UNDECIDED, before[rule][1]))
                    elif rule in self.alone:
                        self.assertEqual(verdict, before[rule][1])
                    else:
                        self.assertEqual((ours, verdict), before[rule])

    def test_a_row_that_is_there_twice_is_said(self):
        rows, before = self.rows(), self.judged(self.rows())
        for row in some(rows):
            other = {**row, **{column: 0.5 for column in MEASURED if row.get(column, "") != ""}, "job": "another"}
            after = self.judged([*rows, other])
            said = {rule for rule, (ours, _) in after.items() if "2 rows of" in ours}
            with self.subTest(twice=row):
                for rule in set(after) - said:
                    self.assertEqual(after[rule], before[rule], rule)
                for rule in said:
                    self.assertEqual(after[rule][1], UNDECIDED)
                    self.assertIn("another", after[rule][0])
                copied = self.judged([*rows, row])
                self.assertEqual({rule for rule, (ours, _) in copied.items() if "2 rows of" in ours}, said)
