import unittest

from claims import cost
from claims.cost import Timing, crossover
from claims.verdict import FAILS, HOLDS, UNDECIDED

from . import made_up, rule_case


class Cost(rule_case.RuleCase):
    subject = cost
    expected = {
        "forward_cost": HOLDS,
        "training_cost": HOLDS,
        "wins_only_late": FAILS,
        "softmax_faster_at_usual_size": HOLDS,
        "hopeless_at_model_width": FAILS,
    }
    changes = (
        ("forward_cost", FAILS, [({"part": "csq", "pass": "forward", "tokens": 16384}, {"milliseconds": 1e5})]),
        (
            "forward_cost",
            UNDECIDED,
            [({"part": "csq", "key_dim": 64, "pass": "forward", "tokens": 16384}, {"milliseconds": 280})],
        ),
        ("forward_cost", UNDECIDED, [({"part": "csq", "key_dim": 64, "tokens": 4096}, {"milliseconds": "nan"})]),
        ("forward_cost", UNDECIDED, [({"part": "csq", "key_dim": 64, "tokens": 4096}, {"milliseconds": 0})]),
        ("training_cost", FAILS, [({"part": "csq", "pass": "forward+backward", "key_dim": 128}, {"milliseconds": 1e5})]),
        ("wins_only_late", HOLDS, [({"experiment": "head", "part": "csq"}, {"milliseconds": 1e9})]),
        ("softmax_faster_at_usual_size", FAILS, [({"part": "csq", "key_dim": 128, "tokens": 2048}, {"milliseconds": 1})]),
        ("hopeless_at_model_width", HOLDS, [({"experiment": "layer", "part": "softmax"}, {"milliseconds": 1})]),
        (
            "hopeless_at_model_width",
            UNDECIDED,
            [({"experiment": "layer", "part": "softmax"}, {"milliseconds": 131072 * 3})],
        ),
    )

    def rows(self):
        return list(made_up.costs())

    def test_a_length_that_softmax_lacks(self):
        missing = {"part": "softmax", "pass": "forward", "causal": 0, "key_dim": 64}
        for tokens in (2048, 16384):  # between others, and the longest
            rows = made_up.without(self.rows(), {**missing, "tokens": tokens})
            for rule in ("forward_cost", "wins_only_late", "softmax_faster_at_usual_size"):
                ours, verdict = self.judged(rows)[rule]
                self.assertEqual(verdict, UNDECIDED)
                self.assertIn(f"softmax, forward: no row of key_dim 64, causal 0, tokens {tokens}", ours)

    def test_a_length_that_both_lack(self):
        rows = made_up.without(self.rows(), {"experiment": "head", "key_dim": 64, "causal": 1, "tokens": 16384})
        for rule in ("forward_cost", "training_cost", "wins_only_late"):
            ours, verdict = self.judged(rows)[rule]
            self.assertEqual(verdict, UNDECIDED)
            self.assertIn("no row of key_dim 64, causal 1, tokens 16384", ours)

    def test_no_length_a_quarter_of_the_longest(self):
        rows = made_up.without(self.rows(), {"experiment": "head", "tokens": 4096})
        ours, verdict = self.judged(rows)["forward_cost"]
        self.assertEqual(verdict, UNDECIDED)
        self.assertIn("no row of tokens 4096", ours)

    def test_a_part_of_the_layer_that_lacks_a_length(self):
        rows = made_up.without(self.rows(), {"part": "feed_forward", "tokens": 131072})
        ours, verdict = self.judged(rows)["hopeless_at_model_width"]
        self.assertEqual(verdict, UNDECIDED)
        self.assertEqual(ours, "feed_forward: no row of tokens 131072, which projections has")

    def test_growth_needs_the_summary_at_both_lengths(self):
        late = {"experiment": "head", "part": "csq", "pass": "forward", "key_dim": 128, "tokens": 4096}
        slow = {"experiment": "head", "part": "csq", "pass": "forward+backward", "key_dim": 128, "tokens": 4096}
        rows = made_up.changed(self.rows(), [(slow, {"milliseconds": 1e-3})])
        self.assertEqual(self.verdicts(rows)["training_cost"], FAILS)
        rows = made_up.changed(rows, [(late, {"method": "direct"})])
        self.assertEqual(self.verdicts(rows)["training_cost"], HOLDS)


class Crossover(unittest.TestCase):
    softmax = {n: Timing(n * n, "direct") for n in (256, 512, 1024)}

    def factored(self, each):
        return {n: Timing(each * n, "factored") for n in self.softmax}

    def test_between_two_lengths(self):
        tokens, bound = crossover(self.softmax, self.factored(700))
        self.assertAlmostEqual(tokens, 700, delta=1)
        self.assertFalse(bound)

    def test_before_the_first(self):
        self.assertEqual(crossover(self.softmax, self.factored(1)), (256, True))

    def test_never(self):
        self.assertIsNone(crossover(self.softmax, self.factored(2000)))

    def test_faster_but_not_by_the_summary(self):
        served = {**self.factored(700), 256: Timing(1, "direct")}
        self.assertAlmostEqual(crossover(self.softmax, served)[0], 700, delta=1)
