from claims import theorems
from claims.results import Results
from claims.theorems import PULLBACK_ERROR, theorem_rows
from claims.verdict import FAILS, HOLDS, UNDECIDED

from . import made_up, rule_case

SQUARED = {"theorem": "beyond 4.1", "mechanism": "squared"}


class Theorems(rule_case.RuleCase):
    subject = theorems
    expected = {
        "pullback_gradient": HOLDS,
        "score_dimension": HOLDS,
        "softmax_rank": HOLDS,
        "square_rank": FAILS,
        "shift_restores": HOLDS,
        "landscape_is_not_cost": HOLDS,
        "swap_bound": HOLDS,
        "no_go": HOLDS,
    }
    changes = (
        ("pullback_gradient", FAILS, [({"theorem": "3.1"}, {"measured": 2e-13})]),
        ("pullback_gradient", FAILS, [({"theorem": "3.1", "setting": "full vs backward"}, {"measured": "nan"})]),
        ("score_dimension", FAILS, [({"theorem": "dimension"}, {"measured": 11})]),
        ("softmax_rank", FAILS, [({"theorem": "4.1"}, {"measured": 13})]),
        ("square_rank", HOLDS, [({**SQUARED, "predicted": 15}, {"measured": 16}), ({"predicted": 8}, {"measured": 9})]),
        ("square_rank", UNDECIDED, [({**SQUARED, "predicted": 15}, {"measured": 16})]),
        ("shift_restores", FAILS, [({"mechanism": "shifted", "predicted": 16}, {"measured": 15})]),
        ("shift_restores", UNDECIDED, [({**SQUARED, "predicted": 15}, {"measured": 16})]),
        (
            "landscape_is_not_cost",
            FAILS,
            [({"mechanism": "softmax", "setting": f"n=384 d={d}"}, {"measured": 0.016 * d}) for d in (4, 8)],
        ),
        ("landscape_is_not_cost", UNDECIDED, [({"setting": "n=384 d=4"}, {"measured": 0.064})]),
        ("landscape_is_not_cost", UNDECIDED, [({"setting": "n=384 d=4"}, {"predicted": 17})]),
        ("swap_bound", FAILS, [({"theorem": "5.5"}, {"measured": 0.6})]),
        ("swap_bound", FAILS, [({"mechanism": "polynomial_32"}, {"attention_deviation": 1.1})]),
        ("no_go", FAILS, [({"theorem": "6.8"}, {"measured": 12})]),
    )
    alone = ("pullback_gradient", "score_dimension", "softmax_rank", "square_rank", "swap_bound", "no_go")

    def rows(self):
        return [*made_up.theorems(), *made_up.swaps()]

    def test_a_setting_without_the_shifted_square(self):
        rows = made_up.without(self.rows(), {"mechanism": "shifted", "setting": "n=24 d=5 r=3 eps=0 full"})
        ours, verdict = self.judged(rows)["shift_restores"]
        self.assertEqual(verdict, UNDECIDED)
        self.assertEqual(ours, "shifted: no row of setting n=24 d=5 r=3 eps=0 full, which squared has")

    def test_what_ones_take_is_left_out_where_it_was_not_measured(self):
        rows = [row for row in self.rows() if "eps=1" not in row.get("setting", "")]
        self.assertEqual(self.judged(rows)["shift_restores"], ("r² attained by both", HOLDS))
        rows = made_up.without(self.rows(), {"mechanism": "csq", "setting": "n=24 d=4 r=4 eps=1 full"})
        self.assertIn("shifted 15, csq not run", self.judged(rows)["shift_restores"][0])

    def test_a_length_of_one_head_size_alone(self):
        rows = made_up.without(self.rows(), {"mechanism": "softmax", "setting": "n=24 d=8"})
        ours, verdict = self.judged(rows)["landscape_is_not_cost"]
        self.assertEqual(verdict, UNDECIDED)
        self.assertEqual(ours, "theorems, cost: no row of d 8, n 24")

    def test_the_programs_tolerance_is_the_rules(self):
        rows = theorem_rows(Results.read(made_up.COMMITTED), "3.1")
        self.assertEqual({float(row["predicted"]) for row in rows}, {PULLBACK_ERROR})
