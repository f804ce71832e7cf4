from claims import real_heads
from claims.verdict import FAILS, HOLDS, UNDECIDED

from . import made_up, rule_case

LIKE = {"experiment": "likeness", "data": "softmax"}
EXP = {"experiment": "rank", "subject": "exp"}


class RealHeads(rule_case.RuleCase):
    subject = real_heads
    expected = {
        "exp_inflates": HOLDS,
        "normalisation_inflates": FAILS,
        "square_rank_bound": HOLDS,
        "csq_like_softmax": HOLDS,
        "factored_precision": FAILS,
    }
    changes = (
        ("exp_inflates", FAILS, [(EXP, {"value": 32})]),
        ("exp_inflates", UNDECIDED, [(EXP, {"value": 96})]),
        ("exp_inflates", UNDECIDED, [({"subject": "scores"}, {"value": 0})]),
        ("normalisation_inflates", HOLDS, [(EXP, {"value": 64})]),
        ("normalisation_inflates", UNDECIDED, [({"subject": "exp_normalised"}, {"value": 840})]),
        ("square_rank_bound", FAILS, [({"data": "random", "subject": "square"}, {"value": 154})]),
        ("square_rank_bound", FAILS, [({"data": "softmax_16", "subject": "square_normalised"}, {"value": 154})]),
        ("square_rank_bound", UNDECIDED, [({"data": "random", "subject": "square"}, {"value": 152})]),
        ("csq_like_softmax", FAILS, [({**LIKE, "quantity": "output_cosine"}, {"value": 0.5})]),
        ("csq_like_softmax", FAILS, [({**LIKE, "quantity": "strongest_key_agreement"}, {"value": 0.4})]),
        ("csq_like_softmax", UNDECIDED, [({**LIKE, "quantity": "output_cosine"}, {"value": 0.9})]),
        ("factored_precision", HOLDS, [({"data": "csq", "quantity": "factored"}, {"value": 1.1e-8})]),
        ("factored_precision", UNDECIDED, [({"data": "csq", "quantity": "factored"}, {"value": 5e-9})]),
        ("factored_precision", UNDECIDED, [({"data": "csq", "quantity": "factored"}, {"value": "nan"})]),
    )

    def rows(self):
        return list(made_up.real_heads())

    def test_ratios_are_of_one_head(self):
        """Of 16, 15, 8 and 4 times, not of ranks beside one another by chance."""
        self.assertEqual(self.judged(self.rows())["exp_inflates"][0], "rank(exp S) is 11.50 times rank(S)")
        self.assertIn("at most 2.5 times", self.judged(self.rows())["factored_precision"][0])

    def test_a_head_that_lacks_one_of_two(self):
        for rule, chosen, said in (
            (
                "exp_inflates",
                {"data": "softmax", "layer": "first", "subject": "scores", "quantity": "rank_1e-10"},
                "scores: no row of data softmax, layer first, causal 0, which exp has",
            ),
            (
                "normalisation_inflates",
                {"data": "csq", "layer": "last", "subject": "exp_normalised", "quantity": "rank_1e-3"},
                "exp_normalised: no row of data csq, layer last, causal 0, which exp has",
            ),
            (
                "square_rank_bound",
                {"data": "softmax_16", "subject": "square", "quantity": "rank_1e-10"},
                "square: no row of data softmax_16, layer first, causal 0, which square_normalised has",
            ),
            (
                "csq_like_softmax",
                {"layer": "last", "quantity": "output_cosine"},
                "output_cosine: no row of data softmax, layer last, causal 1, which strongest_key_agreement has",
            ),
            (
                "factored_precision",
                {"data": "csq", "causal": 0, "quantity": "direct"},
                "direct: no row of data csq, layer first, causal 0, which factored has",
            ),
        ):
            with self.subTest(rule):
                judged = self.judged(made_up.without(self.rows(), chosen))
                self.assertEqual(judged[rule], (said, UNDECIDED))
