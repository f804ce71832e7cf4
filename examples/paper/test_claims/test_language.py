from claims import language
from claims.verdict import FAILS, HOLDS, UNDECIDED

from . import made_up, rule_case

LANGUAGE = {"program": "language"}


def of(model):
    return {**LANGUAGE, "model": model}


class Language(rule_case.RuleCase):
    subject = language
    expected = {
        "ungated_is_behind": HOLDS,
        "gate_closes": HOLDS,
        "mixed_reaches": HOLDS,
        "linear_does_not_reach": HOLDS,
        "softmax_stays_ahead": HOLDS,
        "degrades": HOLDS,
    }
    changes = (
        ("ungated_is_behind", FAILS, [(of("csq"), {"bits": 1.4})]),
        ("ungated_is_behind", UNDECIDED, [({**of("csq"), "seed": 2}, {"bits": 1.5})]),
        ("gate_closes", FAILS, [(of("gated_csq"), {"bits": 1.75})]),
        ("gate_closes", UNDECIDED, [(of("gated_csq"), {"bits": 1.64})]),
        ("gate_closes", UNDECIDED, [(of("csq"), {"bits": 1.51})]),
        ("mixed_reaches", FAILS, [(of("mixed"), {"bits": 1.56})]),
        ("mixed_reaches", UNDECIDED, [(of("mixed"), {"bits": 1.522})]),
        ("linear_does_not_reach", FAILS, [(of("gated_linear"), {"bits": 1.5})]),
        ("linear_does_not_reach", UNDECIDED, [({**of("gated_linear"), "seed": 3}, {"bits": 1.5})]),
        ("softmax_stays_ahead", FAILS, [(of("gated_csq"), {"bits": 1.4})]),
        ("softmax_stays_ahead", UNDECIDED, [({**of("gated_csq"), "seed": 1}, {"bits": 1.4})]),
        ("gate_closes", FAILS, [(of("gated_csq"), {"bits": "nan"})]),
        ("ungated_is_behind", UNDECIDED, [({**of("csq"), "seed": 2}, {"text_checksum": 5})]),
        ("softmax_stays_ahead", UNDECIDED, [({**of("softmax"), "seed": 1}, {"bits": 1.4})]),
        ("degrades", FAILS, [(of("csq"), {"quarter_4": 1.5})]),
        ("degrades", UNDECIDED, [(of("csq"), {"quarter_4": 1.561})]),
    )

    def rows(self):
        return list(made_up.languages())

    def test_growth_is_of_each_seed(self):
        """The medians of both quarters differ by more than what any seed has."""
        rows = self.rows()
        for seed, first, last in ((1, 0.0, 0.001), (2, 0.1, 0.05), (3, 0.0, 0.1)):
            for row in rows:
                if row["model"] == "csq" and row["seed"] == seed:
                    row["quarter_1"], row["quarter_4"] = 1.6 + 0.003 * seed + first, 1.45 + 0.003 * seed + last
        self.assertEqual(self.verdicts(rows)["degrades"], UNDECIDED)

    def test_another_text_is_another_run(self):
        rows = self.rows()
        for row in rows:
            if row["model"] == "mixed" and row["seed"] == 2:
                row["steps"] = 3000
        ours, verdict = self.judged(rows)["mixed_reaches"]
        self.assertEqual(verdict, UNDECIDED)
        self.assertIn("no row of seed 2", ours)
