from claims import sweeps
from claims.verdict import FAILS, HOLDS, UNDECIDED

from . import made_up, rule_case

ZERO = {"bound_penalty": 0, "rank_penalty": 0}


class Sweeps(rule_case.RuleCase):
    subject = sweeps
    expected = {"bound_penalty": HOLDS, "rank_penalty": HOLDS, "rank_penalty_price": HOLDS}
    changes = (
        ("bound_penalty", FAILS, [({"bound_penalty": 3e-2}, {"max_abs_z": 20})]),
        ("bound_penalty", FAILS, [({"bound_penalty": 3e-2}, {"accuracy": 0.89})]),
        ("bound_penalty", UNDECIDED, [({"bound_penalty": 1e-3}, {"accuracy": 0.8})]),
        ("bound_penalty", UNDECIDED, [({"bound_penalty": 3e-2}, {"overflow": 0.005})]),
        ("rank_penalty", FAILS, [({"rank_penalty": 3e-4}, {"stable_rank_q": 8, "stable_rank_k": 6})]),
        ("rank_penalty", UNDECIDED, [({"rank_penalty": 3e-4}, {"stable_rank_q": 9})]),
        ("rank_penalty_price", FAILS, [({"rank_penalty": 3e-4}, {"max_abs_z": 10})]),
        ("rank_penalty_price", UNDECIDED, [({"rank_penalty": 3e-4}, {"max_abs_z": 30})]),
    )

    def rows(self):
        return [row for row in made_up.retrievals() if row["mechanism"] == "csq" and row["embedding_scale"] == 1]

    def test_seeds_of_zero_alone_do_not_count(self):
        rows = made_up.changed(self.rows(), [({**ZERO, "seed": 3}, {"accuracy": 0, "max_abs_z": 1})])
        self.assertEqual(self.judged(rows), self.judged(self.rows()))

    def test_a_seed_that_zero_lacks(self):
        rows = made_up.without(self.rows(), {**ZERO, "seed": 2})
        for rule, penalty, weight in (
            ("bound_penalty", "bound_penalty", "0.0001"),
            ("rank_penalty", "rank_penalty", "1e-05"),
            ("rank_penalty_price", "rank_penalty", "1e-05"),
        ):
            ours, verdict = self.judged(rows)[rule]
            self.assertEqual(verdict, UNDECIDED)
            self.assertEqual(ours, f"{penalty} 0: no row of seed 2, which {penalty} {weight} has")

    def test_a_seed_that_one_weight_lacks(self):
        rows = made_up.without(self.rows(), {"rank_penalty": 3e-4, "seed": 1})
        ours, verdict = self.judged(rows)["rank_penalty_price"]
        self.assertEqual(verdict, UNDECIDED)
        self.assertEqual(ours, "rank_penalty 0.0003: no row of seed 1, which rank_penalty 0 has")
