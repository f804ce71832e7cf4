from claims import distillation
from claims.verdict import FAILS, HOLDS, UNDECIDED

from . import made_up, rule_case


class Distillation(rule_case.RuleCase):
    subject = distillation
    expected = {"distillation": HOLDS}
    changes = (
        ("distillation", FAILS, [({"losses": "pullback"}, {"accuracy": 0.5})]),
        ("distillation", FAILS, [({"losses": "pullback"}, {"accuracy": "nan", "loss": "nan"})]),
        ("distillation", UNDECIDED, [({"losses": "pullback"}, {"attention_error": 0.8})]),
        ("distillation", UNDECIDED, [({"losses": "none"}, {"accuracy": 0.9})]),
        ("distillation", UNDECIDED, [({"losses": "none"}, {"teacher_accuracy": 0.9})]),
    )

    def rows(self):
        return list(made_up.distillations())

    def test_a_seed_without_one_of_the_losses(self):
        rows = made_up.without(self.rows(), {"losses": "kl", "seed": 2})
        ours, verdict = self.judged(rows)["distillation"]
        self.assertEqual(verdict, UNDECIDED)
        self.assertEqual(ours, "kl: no row of seed 2, which none has")
