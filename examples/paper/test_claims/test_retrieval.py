from claims import controls, retrieval
from claims.controls import SMALL_EMBEDDING
from claims.verdict import FAILS, HOLDS, UNDECIDED

from . import made_up, rule_case

TOY = {"program": "kv_retrieval", "bound_penalty": 0, "rank_penalty": 0, "embedding_scale": 1}
SMALL = {"program": "kv_retrieval", "embedding_scale": SMALL_EMBEDDING}
SQUARED = {**TOY, "mechanism": "squared", "centering": "automatic"}
SHIFTED = {**TOY, "mechanism": "shifted", "centering": "automatic"}
CSQ = {**TOY, "mechanism": "csq"}
DIVERGED = {"accuracy": "nan", "max_abs_z": "nan", "loss": "nan"}


def retrievals():
    """Without those of the sweeps."""
    return [row for row in made_up.retrievals() if row["bound_penalty"] == row["rank_penalty"] == 0]


class Retrieval(rule_case.RuleCase):
    subject = retrieval
    expected = {
        "table3": HOLDS,
        "linear_loses": HOLDS,
        "degree_two_keeps": HOLDS,
        "degree_two_alone": FAILS,
        "centring_stabilises": HOLDS,
    }
    changes = (
        ("table3", FAILS, [(SQUARED, {"accuracy": 0.6})]),
        ("table3", UNDECIDED, [(SQUARED, {"accuracy": 0.3})]),
        ("linear_loses", FAILS, [({**TOY, "mechanism": "linear"}, {"accuracy": 0.95})]),
        ("linear_loses", UNDECIDED, [({**TOY, "mechanism": "softmax"}, {"accuracy": 0.7})]),
        ("degree_two_keeps", FAILS, [(CSQ, {"accuracy": 0.4})]),
        ("degree_two_keeps", HOLDS, [({**CSQ, "seed": 1}, {"accuracy": 0.4})]),  # one of three seeds
        ("degree_two_keeps", UNDECIDED, [({**CSQ, "seed": 1}, {"accuracy": ""})]),
        ("degree_two_alone", HOLDS, [(SQUARED, {"accuracy": 1}), (SHIFTED, {"accuracy": 1})]),
        ("degree_two_alone", UNDECIDED, [(SQUARED, {"accuracy": 1})]),
        (
            "centring_stabilises",
            FAILS,
            [(SQUARED, {"accuracy": 1, "max_abs_z": 10}), (SHIFTED, {"accuracy": 1, "max_abs_z": 10})],
        ),
        ("centring_stabilises", UNDECIDED, [(SQUARED, {"max_abs_z": 10})]),
    )
    alone = ("degree_two_keeps",)

    def rows(self):
        return retrievals()

    def test_a_seed_with_centring_alone(self):
        rows = made_up.without(self.rows(), {**SQUARED, "seed": 2})
        ours, verdict = self.judged(rows)["centring_stabilises"]
        self.assertEqual(verdict, UNDECIDED)
        self.assertEqual(ours, "squared, none centring: no row of seed 2, which squared, prefix centring has")

    def test_one_run_under_two_names(self):
        """For CSQ, automatic centring is prefix centring."""
        rows = self.rows()
        again = [row for row in rows if made_up.has(row, {**CSQ, "seed": 3})]
        rows += [{**row, "centering": "prefix", "job": "another"} for row in again]
        ours, verdict = self.judged(rows)["degree_two_keeps"]
        self.assertEqual(verdict, UNDECIDED)
        self.assertEqual(ours, "kv_retrieval csq: 2 rows of seed 3 (in another, kv_retrieval)")

    def test_a_run_that_diverged_counts_as_the_worst(self):
        one = made_up.changed(self.rows(), [({**CSQ, "seed": 1}, DIVERGED)])
        self.assertEqual(self.verdicts(one)["degree_two_keeps"], HOLDS)
        every = made_up.changed(self.rows(), [(CSQ, DIVERGED)])
        self.assertEqual(self.verdicts(every)["degree_two_keeps"], FAILS)


class Controls(rule_case.RuleCase):
    subject = controls
    expected = {"centring_alone": FAILS, "shift_is_needed": FAILS, "centring_mixes": HOLDS}
    changes = (
        ("centring_alone", HOLDS, [({**TOY, "mechanism": "linear", "centering": "prefix"}, {"accuracy": 0.99})]),
        ("shift_is_needed", HOLDS, [({**TOY, "mechanism": "squared", "centering": "prefix"}, {"accuracy": 0.3})]),
        ("shift_is_needed", UNDECIDED, [({**TOY, "mechanism": "squared", "centering": "prefix"}, {"accuracy": 0.7})]),
        ("centring_mixes", FAILS, [({**SMALL, "mechanism": "softmax"}, {"accuracy": 0.99})]),
        ("centring_mixes", FAILS, [({**SMALL, "centering": "prefix"}, {"accuracy": 0.4})]),
        ("centring_mixes", UNDECIDED, [({**SMALL, "centering": "prefix"}, {"accuracy": 0.7})]),
    )
    alone = ("centring_alone",)

    def rows(self):
        return retrievals()

    def test_a_seed_of_csq_alone(self):
        rows = made_up.without(self.rows(), {**TOY, "mechanism": "squared", "centering": "prefix", "seed": 1})
        ours, verdict = self.judged(rows)["shift_is_needed"]
        self.assertEqual(verdict, UNDECIDED)
        self.assertEqual(ours, "squared, prefix centring: no row of seed 1, which CSQ has")
