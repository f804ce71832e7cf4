from claims import swap
from claims.verdict import FAILS, HOLDS, UNDECIDED

from . import made_up, rule_case

CSQ = {"program": "kernel_swap", "mechanism": "csq"}


class Swap(rule_case.RuleCase):
    subject = swap
    expected = {"same_depth_swap": HOLDS, "csq_drop_in": FAILS, "csq_fine_tuned": HOLDS}
    changes = (
        ("same_depth_swap", FAILS, [({"mechanism": "polynomial_32"}, {"accuracy": 0.9})]),
        ("same_depth_swap", UNDECIDED, [({"mechanism": "polynomial_32"}, {"max_logit_deviation": 1})]),
        ("same_depth_swap", UNDECIDED, [({"program": "kernel_swap"}, {"accuracy": 0.9})]),
        ("csq_drop_in", HOLDS, [(CSQ, {"accuracy": 0.97})]),
        ("csq_drop_in", UNDECIDED, [(CSQ, {"accuracy": 0.7})]),
        ("csq_drop_in", UNDECIDED, [({"mechanism": "softmax"}, {"accuracy": 0.9})]),
        ("csq_fine_tuned", FAILS, [(CSQ, {"accuracy": 0.4})]),
    )

    def rows(self):
        return list(made_up.swaps())

    def test_a_seed_without_its_teacher(self):
        rows = made_up.without(self.rows(), {"mechanism": "softmax", "stage": "before", "seed": 3})
        for rule in self.expected:
            ours, verdict = self.judged(rows)[rule]
            self.assertEqual(verdict, UNDECIDED)
            self.assertRegex(ours, "^(softmax|teacher): no row of seed 3, which ")
