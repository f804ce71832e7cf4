from claims import capacity
from claims.capacity import recall_speed_up
from claims.verdict import FAILS, HOLDS, UNDECIDED

from . import made_up, rule_case

RECALL = {"program": "capacity", "experiment": "recall"}
EPISODES = {"program": "capacity", "experiment": "episodes"}


class Capacity(rule_case.RuleCase):
    subject = capacity
    expected = {
        "capacity": HOLDS,
        "equal_state": HOLDS,
        "recall_where_faster": HOLDS,
        "gate_forgets": HOLDS,
        "gate_is_no_capacity": HOLDS,
        "small_heads": HOLDS,
    }
    changes = (
        ("capacity", FAILS, [({**RECALL, "mechanism": "linear", "head_size": 8}, {"accuracy": 0.93})]),
        ("capacity", UNDECIDED, [({**RECALL, "mechanism": "linear", "head_size": 8}, {"accuracy": 0.6})]),
        ("equal_state", FAILS, [({**RECALL, "mechanism": "linear_equal_state"}, {"accuracy": 0.5})]),
        ("equal_state", UNDECIDED, [({**RECALL, "mechanism": "linear_equal_state", "head_size": 4}, {"accuracy": 0.5})]),
        ("recall_where_faster", FAILS, [({**RECALL, "mechanism": "csq", "pairs_over_features": 4}, {"accuracy": 0.3})]),
        ("recall_where_faster", UNDECIDED, [({**RECALL, "mechanism": "csq"}, {"attention_us": 1000})]),
        ("recall_where_faster", UNDECIDED, [({**RECALL, "mechanism": "csq"}, {"attention_us": 0})]),
        ("gate_forgets", FAILS, [({**EPISODES, "mechanism": "gated_csq", "head_size": 8}, {"accuracy": 0.7})]),
        ("gate_forgets", UNDECIDED, [({**EPISODES, "mechanism": "gated_csq", "head_size": 8}, {"accuracy": 0.85})]),
        ("gate_is_no_capacity", UNDECIDED, [({**EPISODES, "mechanism": "gated_linear"}, {"accuracy": 0.2})]),
        ("gate_is_no_capacity", FAILS, [({**EPISODES, "mechanism": "gated_linear", "head_size": 4}, {"accuracy": 0.9})]),
        ("gate_is_no_capacity", UNDECIDED, [({**EPISODES, "mechanism": "gated_linear"}, {"accuracy": 0.8})]),
        ("small_heads", FAILS, [({"experiment": "head_size", "head_size": 8}, {"accuracy": 1})]),
        ("small_heads", UNDECIDED, [({"experiment": "head_size", "head_size": 8}, {"accuracy": 0.9})]),
    )

    def rows(self):
        return list(made_up.capacities())

    def test_times_are_compared_seed_by_seed(self):
        ratio = recall_speed_up(made_up.results_of(self.rows()), 8, 4)
        self.assertEqual(ratio, (2, 2, 2, 3))

    def test_a_seed_without_softmax(self):
        chosen = {**RECALL, "mechanism": "softmax", "head_size": 8, "pairs_over_features": 4, "seed": 2}
        ours, verdict = self.judged(made_up.without(self.rows(), chosen))["recall_where_faster"]
        self.assertEqual(verdict, UNDECIDED)
        self.assertEqual(ours, "softmax: no row of seed 2, which csq has")

    def test_two_numbers_of_pairs_near_one_ratio(self):
        chosen = {**RECALL, "mechanism": "csq", "head_size": 8, "pairs_over_features": 1, "seed": 2}
        near = [{**row, "pairs_over_features": 1.1} for row in self.rows() if made_up.has(row, chosen)]
        ours, verdict = self.judged([*self.rows(), *near])["capacity"]
        self.assertEqual(verdict, UNDECIDED)
        self.assertEqual(ours, "csq: 2 rows of seed 2 (in capacity)")
