from claims import depth
from claims.verdict import FAILS, HOLDS, UNDECIDED

from . import made_up, rule_case

DEPTH = {"program": "depth"}


class Depth(rule_case.RuleCase):
    subject = depth
    expected = {"depth_expresses": HOLDS, "depth_suffices": HOLDS, "depth_needed": HOLDS}
    changes = (
        ("depth_expresses", FAILS, [({**DEPTH, "mechanism": "chain"}, {"error": 1e-3})]),
        ("depth_suffices", FAILS, [(DEPTH, {"error": 0.5})]),
        ("depth_suffices", FAILS, [(DEPTH, {"error": "nan"})]),
        ("depth_suffices", UNDECIDED, [({**DEPTH, "depth": 2}, {"error": 0.5})]),
        ("depth_needed", FAILS, [(DEPTH, {"error": 0.01})]),
        ("depth_needed", UNDECIDED, [({**DEPTH, "depth": 1}, {"error": 0.01})]),
    )
    alone = ("depth_expresses",)

    def rows(self):
        return list(made_up.depths())

    def test_the_best_of_three_needs_three(self):
        rows = made_up.without(self.rows(), {"mechanism": "shifted"})
        for rule in ("depth_suffices", "depth_needed"):
            ours, verdict = self.judged(rows)[rule]
            self.assertEqual(verdict, UNDECIDED)
            self.assertIn("mechanism shifted", ours)

    def test_a_seed_of_one_of_the_three(self):
        rows = made_up.without(self.rows(), {"mechanism": "shifted", "seed": 2})
        for rule in ("depth_suffices", "depth_needed"):
            ours, verdict = self.judged(rows)[rule]
            self.assertEqual(verdict, UNDECIDED)
            self.assertEqual(ours, "shifted: no row of seed 2, which csq has")
