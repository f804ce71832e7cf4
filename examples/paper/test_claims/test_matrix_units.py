import pathlib

import report
from claims import matrix_units
from claims.results import NOT_RUN
from claims.untested import MATRIX_UNITS, not_tested
from claims.verdict import FAILS, HOLDS, PARTLY, UNDECIDED

from . import made_up, rule_case

RULE = "softmax_wins_on_matrix_units"
# Factored CSQ in bfloat16, forward, full.
FACTORED = {"part": "csq", "dtype": "bfloat16", "pass": "forward", "causal": 0}


class MatrixUnits(rule_case.RuleCase):
    subject = matrix_units
    expected = {RULE: FAILS}
    changes = (
        (RULE, HOLDS, [(FACTORED, {"milliseconds": 1e5})]),
        # Faster for one head size alone, once, or from 4·d² on.
        (RULE, PARTLY, [({**FACTORED, "key_dim": 64}, {"milliseconds": 1e5})]),
        (RULE, PARTLY, [(FACTORED, {"milliseconds": 1e5}), ({**FACTORED, "tokens": 512}, {"milliseconds": 1e-3})]),
        (RULE, PARTLY, [({**FACTORED, "key_dim": 32, "tokens": n}, {"milliseconds": 100}) for n in (256, 512, 1024, 2048)]),
        # csq's own softmax counts where it is the faster one.
        (RULE, HOLDS, [({"part": "softmax", "dtype": "bfloat16"}, {"milliseconds": 1e-5})]),
        (RULE, UNDECIDED, [({"dtype": "bfloat16", "library": "csq"}, {"matrix_unit": 0})]),
        (RULE, UNDECIDED, [({"experiment": "dtypes"}, {"threads": 16})]),
        (RULE, UNDECIDED, [({**FACTORED, "key_dim": 64, "tokens": 4096}, {"milliseconds": "nan"})]),
        # Other passes and masks do not count.
        (RULE, FAILS, [({**FACTORED, "causal": 1}, {"milliseconds": 1e5})]),
        (RULE, FAILS, [({**FACTORED, "pass": "forward+backward"}, {"milliseconds": 1e5})]),
    )

    def rows(self):
        return list(made_up.costs_by_dtype())

    def ours(self, rows):
        return self.judged(rows)[RULE][0]

    def test_what_it_was_compared_with(self):
        self.assertIn("the faster of csq's and PyTorch's", self.ours(self.rows()))
        alone = made_up.without(self.rows(), {"part": "softmax_torch"})
        self.assertIn("csq's own softmax alone", self.ours(alone))
        self.assertEqual(self.verdicts(alone)[RULE], FAILS)

    def test_crossovers(self):
        self.assertIn("d = 32: 1126 tokens, 1.10·d² (float: 614 tokens, 0.60·d²; 1.83 times it)", self.ours(self.rows()))

    def test_no_unit_in_use(self):
        rows = made_up.changed(self.rows(), [({"dtype": "bfloat16", "library": "csq"}, {"matrix_unit": 0})])
        self.assertEqual(self.ours(rows), "no matrix unit was in use")

    def test_lengths_that_were_left_out(self):
        """Beyond a crossover none is needed; without one all are."""
        rows = [row for row in self.rows() if row["key_dim"] == 64 or row["tokens"] <= 4096]
        self.assertEqual(self.verdicts(rows)[RULE], FAILS)
        slow = made_up.changed(rows, [(FACTORED, {"milliseconds": 1e5})])
        self.assertEqual(self.judged(slow)[RULE], (f"{NOT_RUN}: d = 32 beyond 4096 tokens", UNDECIDED))

    def test_a_length_that_pytorch_lacks(self):
        missing = {"part": "softmax_torch", "pass": "forward", "causal": 0, "key_dim": 64, "tokens": 4096}
        self.assertIn("softmax_torch, bfloat16: no row of tokens 4096", self.ours(made_up.without(self.rows(), missing)))

    def test_before_the_shortest_length_in_float(self):
        """Then twice the length is not known, but for what crosses over there too."""
        early = {"part": "csq", "dtype": "float", "key_dim": 32, "pass": "forward", "causal": 0}
        rows = made_up.changed(self.rows(), [(early, {"milliseconds": 1e-5})])
        self.assertEqual(self.verdicts(rows)[RULE], PARTLY)
        rows = made_up.changed(rows, [({**FACTORED, "key_dim": 32}, {"milliseconds": 1e-5})])
        self.assertEqual(self.verdicts(rows)[RULE], FAILS)

    def test_not_tested_without_a_unit(self):
        without = made_up.changed(self.rows(), [({"dtype": "bfloat16", "library": "csq"}, {"matrix_unit": 0})])
        for rows, expected in ((self.rows(), False), (without, True), ([], True)):
            self.assertEqual(MATRIX_UNITS in not_tested(made_up.results_of(rows)), expected)

    def test_report(self):
        text = report.report(made_up.results_of(self.rows()), pathlib.Path("nowhere"))
        self.assertIn("| 32 | full | forward | 1126 | 1.10 | 614 | 0.60 | 1.83 |", text)
        self.assertIn("csq's softmax and that of torch 2.9", text)
        partly = made_up.changed(self.rows(), [({**FACTORED, "key_dim": 64}, {"milliseconds": 1e5})])
        self.assertIn(", 1 holds in part and", report.report(made_up.results_of(partly), pathlib.Path("nowhere")))
