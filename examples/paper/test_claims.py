#!/usr/bin/env python3
"""The rules of claims.py on made-up runs: each must be able to hold, to fail and to lack its data; report.py must write
a report of any of them, and every test that a claim names must be in jobs.txt."""

import csv
import fnmatch
import pathlib
import re
import tempfile
import unittest

import claims
import report
from claims import FAILS, HOLDS, UNDECIDED

HERE = pathlib.Path(__file__).parent


# ----------------------------------------------------------------------------------------------------------------------
# Made-up runs, in the programs' own columns
# ----------------------------------------------------------------------------------------------------------------------


def theorem(name, mechanism, setting, predicted, measured, relation="<=", verdict="holds"):
    return {
        "program": "theorems",
        "theorem": name,
        "mechanism": mechanism,
        "setting": setting,
        "relation": relation,
        "predicted": predicted,
        "measured": measured,
        "verdict": verdict,
    }


def theorems():
    yield theorem("3.1", "softmax", "full vs backward", 1e-13, 1e-15)
    yield theorem("dimension", "any", "rank X=3 Y=4 scores", 12, 12, "=")
    yield theorem("surrogate", "csq", "gradient", 1e-12, 1e-16)
    yield theorem("4.1", "softmax", "n=24 d=4 r=4 eps=1 full", 12, 12, "=")
    for mechanism, predicted in (("squared", 15), ("shifted", 16), ("taylor", 16), ("csq", 16)):
        yield theorem("beyond 4.1", mechanism, "n=24 d=4 r=4 eps=0 full", predicted, predicted, "=")
    yield theorem("5.5", "polynomial", "R=2 degree 8", 0.5, 0.0003)
    yield theorem("5.5", "polynomial", "R=8 degree 2", 1e8, 2.5, verdict="bound not applicable")
    yield theorem("6.8", "degree 2", "w=2 L=1 p=26 outputs", 11, 9)
    for n, milliseconds in ((24, 0.001), (384, 0.06)):
        for mechanism in ("softmax", "csq_direct", "csq_factored"):
            yield theorem("cost", mechanism, f"n={n} d=4", 16, milliseconds, "", "")


def cost_row(experiment, part, step, causal, dim, tokens, milliseconds, method, measured=1):
    return {
        "program": "cost",
        "experiment": experiment,
        "part": part,
        "pass": step,
        "causal": causal,
        "key_dim": dim,
        "tokens": tokens,
        "method": method,
        "measured": measured,
        "milliseconds": milliseconds,
    }


def costs():
    for step in ("forward", "forward+backward"):
        for dim in (16, 32, 64, 128):
            for tokens in (256, 1024, 2048, 4096, 16384):
                yield cost_row("head", "softmax", step, 0, dim, tokens, 1e-7 * tokens**2 * dim, "direct")
                yield cost_row("head", "csq", step, 0, dim, tokens, 0.5e-7 * tokens * dim**3, "factored")
    for tokens in (2048, 131072):
        for part, each in (("projections", 1), ("feed_forward", 2), ("csq", 1.5), ("softmax", tokens / 10000)):
            yield cost_row("layer", part, "forward", 1, 128, tokens, each * tokens, "direct", int(tokens < 100000))


def kv(mechanism, centering, right, size, seed=1, **changed):
    return {
        "program": "kv_retrieval",
        "mechanism": mechanism,
        "centering": centering,
        **claims.RECIPE,
        "radius": 4,
        "method": "auto",
        "seed": seed,
        "loss": 3 * (1 - right),
        "accuracy": right,
        "max_abs_z": size,
        "overflow": 0.004 if size != "" else "",
        "overflow_8": 0.001 if size != "" else "",
        "stable_rank_q": 8.5 if size != "" else "",
        "stable_rank_k": 6.2 if size != "" else "",
        "gradient_norm": 0.1,
        "steps_to_loss_0.1": 300 if right > 0.9 else "",
        "seconds": 400,
        **changed,
    }


def retrievals():
    for seed in (1, 2, 3):
        yield kv("softmax", "automatic", 1, 42.3, seed)
        yield kv("softmax", "prefix", 1, 40, seed)
        yield kv("squared", "automatic", 0.145, 55.3, seed)
        yield kv("squared", "prefix", 1, 20, seed)
        yield kv("shifted", "automatic", 0.147, 66.3, seed)
        yield kv("csq", "automatic", 1, 18, seed)
        yield kv("hybrid", "automatic", 1, 25.8, seed)
        yield kv("linear", "automatic", 0.13, "", seed)
        yield kv("linear", "prefix", 0.2, "", seed)
    yield kv("softmax", "automatic", 0.25, 5, embedding_scale=0.02)
    yield kv("softmax", "prefix", 1, 20, embedding_scale=0.02)
    yield kv("csq", "automatic", 1, 10, embedding_scale=0.02)
    for weight in claims.BOUND_SWEEP[1:]:
        yield kv("csq", "automatic", 1, claims.PAPER_BOUND[weight], bound_penalty=weight, overflow=0.002)
    for weight in claims.RANK_SWEEP[1:]:
        size, query, key = claims.PAPER_RANK[weight]
        yield kv("csq", "automatic", 1, size, rank_penalty=weight, stable_rank_q=query, stable_rank_k=key)


def distillations():
    for losses, (loss, right, error) in claims.PAPER_DISTILLATION.items():
        yield {
            "program": "kv_retrieval",
            "mechanism": "csq",
            "losses": losses,
            "seed": 1,
            "teacher_accuracy": 1,
            "teacher_loss": 0.001,
            "loss": loss,
            "accuracy": right,
            "attention_error": error,
        }


def swaps():
    for mechanism, degree, right, deviation in (
        ("softmax", 0, 1, 0),
        ("polynomial_2", 2, 0.1, 30),
        ("polynomial_8", 8, 0.2, 11.7),
        ("polynomial_16", 16, 1, 0.17),
        ("polynomial_24", 24, 1, 4e-4),
        ("polynomial_32", 32, 1, 7e-6),
        ("polynomial_48", 48, 1, 1e-9),
        ("csq", 0, 0.1, 20),
    ):
        for stage in ("before", "after"):
            yield {
                "program": "kernel_swap",
                "mechanism": mechanism,
                "seed": 1,
                "degree": degree,
                "stage": stage,
                "accuracy": 1 if stage == "after" else right,
                "max_logit_deviation": deviation,
                "radius": 9,
                "bound_applicable": int(degree == 32),
                "bound": 1,
                "attention_deviation": 0.01,
                "teacher_steps": 600,
                "teacher_solved": 1,
            }


def capacities():
    for dim in claims.CAPACITY_DIMS:
        for mechanism, right in (
            ("softmax", 1),
            ("csq", 0.95),
            ("squared", 0.9),
            ("linear", 0.2),
            ("linear_equal_state", 0.94),
        ):
            for ratio in (0.25, 0.5, 1, 2, 4):
                yield {
                    "program": "capacity",
                    "experiment": "recall",
                    "mechanism": mechanism,
                    "seed": 1,
                    "head_size": dim,
                    "pairs_over_features": ratio,
                    "accuracy": right,
                    "state_bytes": 1000,
                    "multiply_adds": 1e6,
                    "attention_us": 20 if mechanism == "softmax" else 10,
                }
    for dim, right in ((8, 0.3), (16, 0.6), (32, 0.9), (64, 1)):
        yield {
            "program": "capacity",
            "experiment": "head_size",
            "mechanism": "csq",
            "seed": 1,
            "head_size": dim,
            "pairs_over_features": 1,
            "accuracy": right,
            "state_bytes": 1000,
            "multiply_adds": 1e4 * dim**2,
            "method": "factored",
            "attention_us": dim,
        }


def depths():
    for power, needed in ((4, 2), (8, 3)):
        for mechanism in ("chain", "csq", "shifted", "squared", "softmax"):
            for depth in (1, 2, 3, 4):
                solved = {"chain": 1e-13}.get(mechanism, 0.01)
                yield {
                    "program": "depth",
                    "mechanism": mechanism,
                    "seed": 1,
                    "power": power,
                    "depth": depth,
                    "error": solved if depth >= needed else 0.4,
                }


def real_heads():
    def row(experiment, data, causal, subject, quantity, value):
        dim, features = (64, 2145) if data == "softmax" else (16, 153)
        return {
            "program": "real_heads",
            "experiment": experiment,
            "data": data,
            "layer": "first",
            "causal": causal,
            "tokens": 512,
            "key_dim": dim,
            "features": features,
            "subject": subject,
            "quantity": quantity,
            "value": value,
        }

    subjects = ("scores", "exp", "exp_normalised", "square", "square_normalised")
    for data, ranks in (
        ("softmax", (64, 512, 512, 512, 512)),
        ("softmax_16", (16, 512, 512, 150, 150)),
        ("random", (16, 512, 512, 153, 153)),
    ):
        for subject, rank in zip(subjects, ranks):
            for quantity in ("rank_1e-10", "rank_1e-3"):
                yield row("rank", data, 0, subject, quantity, rank)
    for quantity, value in (
        ("strongest_key_agreement", 0.95),
        ("output_cosine", 0.97),
        ("entropy", 2),
        ("normalizer_min", 1),
        ("normalizer_max", 9),
    ):
        yield row("likeness", "softmax", 1, "csq", quantity, value)
    yield row("error", "softmax", 0, "csq", "direct", 1e-7)
    yield row("error", "softmax", 0, "csq", "factored", 2e-7)


def all_runs():
    makers = (theorems, costs, retrievals, distillations, swaps, capacities, depths, real_heads)
    return [row for maker in makers for row in maker()]


def results_of(rows, folder):
    """As the programs would have left them: one file for each set of columns."""
    by_columns = {}
    for row in rows:
        by_columns.setdefault(tuple(row), []).append(row)
    for index, (columns, same) in enumerate(by_columns.items()):
        with open(pathlib.Path(folder) / f"job_{index}.csv", "w", newline="", encoding="utf-8") as file:
            file.write("# commit 0123456789ab, a processor, 2 cores\n")
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(same)
    return claims.Results(folder)


# ----------------------------------------------------------------------------------------------------------------------
# What each rule must say: on the runs above, and after changes (columns that choose the rows → new values)
# ----------------------------------------------------------------------------------------------------------------------

EXPECTED = {
    "pullback_gradient": HOLDS,
    "score_dimension": HOLDS,
    "softmax_rank": HOLDS,
    "square_rank": FAILS,
    "shift_restores": HOLDS,
    "landscape_is_not_cost": HOLDS,
    "swap_bound": HOLDS,
    "no_go": HOLDS,
    "forward_cost": HOLDS,
    "training_cost": HOLDS,
    "wins_only_late": FAILS,
    "softmax_faster_at_usual_size": HOLDS,
    "hopeless_at_model_width": FAILS,
    "table3": HOLDS,
    "linear_loses": HOLDS,
    "degree_two_keeps": HOLDS,
    "degree_two_alone": FAILS,
    "centring_stabilises": HOLDS,
    "centring_alone": FAILS,
    "shift_is_needed": FAILS,
    "centring_mixes": HOLDS,
    "bound_penalty": HOLDS,
    "rank_penalty": HOLDS,
    "rank_penalty_price": HOLDS,
    "distillation": HOLDS,
    "same_depth_swap": HOLDS,
    "csq_drop_in": FAILS,
    "csq_fine_tuned": HOLDS,
    "capacity": HOLDS,
    "equal_state": HOLDS,
    "recall_where_faster": HOLDS,
    "small_heads": HOLDS,
    "depth_expresses": HOLDS,
    "depth_suffices": HOLDS,
    "depth_needed": HOLDS,
    "exp_inflates": HOLDS,
    "normalisation_inflates": FAILS,
    "square_rank_bound": HOLDS,
    "csq_like_softmax": HOLDS,
    "factored_precision": FAILS,
}

TOY = {"program": "kv_retrieval", "bound_penalty": 0, "rank_penalty": 0, "embedding_scale": 1}
SMALL = {"program": "kv_retrieval", "embedding_scale": 0.02}
SQUARED = {**TOY, "mechanism": "squared", "centering": "automatic"}
SHIFTED = {**TOY, "mechanism": "shifted", "centering": "automatic"}
RECALL = {"program": "capacity", "experiment": "recall"}
DEPTH = {"program": "depth"}
REAL = {"program": "real_heads", "data": "softmax"}

CHANGES = [
    ("pullback_gradient", FAILS, [({"theorem": "3.1"}, {"measured": 2e-13})]),
    ("score_dimension", FAILS, [({"theorem": "dimension"}, {"measured": 11})]),
    ("softmax_rank", FAILS, [({"theorem": "4.1"}, {"measured": 13})]),
    ("square_rank", HOLDS, [({"theorem": "beyond 4.1", "mechanism": "squared"}, {"measured": 16})]),
    ("shift_restores", FAILS, [({"theorem": "beyond 4.1", "mechanism": "shifted"}, {"measured": 15})]),
    ("shift_restores", UNDECIDED, [({"theorem": "beyond 4.1", "mechanism": "squared"}, {"measured": 16})]),
    ("landscape_is_not_cost", FAILS, [({"theorem": "cost", "setting": "n=384 d=4"}, {"measured": 0.016})]),
    ("landscape_is_not_cost", UNDECIDED, [({"theorem": "cost", "setting": "n=384 d=4"}, {"predicted": 17})]),
    ("swap_bound", FAILS, [({"theorem": "5.5"}, {"measured": 0.6})]),
    ("swap_bound", FAILS, [({"mechanism": "polynomial_32"}, {"attention_deviation": 1.1})]),
    ("no_go", FAILS, [({"theorem": "6.8"}, {"measured": 12})]),
    ("forward_cost", FAILS, [({"part": "csq", "pass": "forward", "tokens": 16384}, {"milliseconds": 1e5})]),
    ("forward_cost", UNDECIDED, [({"part": "csq", "key_dim": 64, "pass": "forward", "tokens": 16384}, {"milliseconds": 280})]),
    ("training_cost", FAILS, [({"part": "csq", "pass": "forward+backward", "key_dim": 128}, {"milliseconds": 1e5})]),
    ("wins_only_late", HOLDS, [({"experiment": "head", "part": "csq"}, {"milliseconds": 1e9})]),
    ("softmax_faster_at_usual_size", FAILS, [({"part": "csq", "key_dim": 128, "tokens": 2048}, {"milliseconds": 1})]),
    ("hopeless_at_model_width", HOLDS, [({"experiment": "layer", "part": "softmax"}, {"milliseconds": 1})]),
    ("hopeless_at_model_width", UNDECIDED, [({"experiment": "layer", "part": "softmax"}, {"milliseconds": 131072 * 3})]),
    ("table3", FAILS, [(SQUARED, {"accuracy": 0.6})]),
    ("table3", UNDECIDED, [(SQUARED, {"accuracy": 0.3})]),
    ("linear_loses", FAILS, [({**TOY, "mechanism": "linear"}, {"accuracy": 0.95})]),
    ("linear_loses", UNDECIDED, [({**TOY, "mechanism": "softmax"}, {"accuracy": 0.7})]),
    ("degree_two_keeps", FAILS, [({**TOY, "mechanism": "csq"}, {"accuracy": 0.4})]),
    ("degree_two_keeps", HOLDS, [({**TOY, "mechanism": "csq", "seed": 1}, {"accuracy": 0.4})]),  # one of three seeds
    ("degree_two_alone", HOLDS, [(SQUARED, {"accuracy": 1}), (SHIFTED, {"accuracy": 1})]),
    ("degree_two_alone", UNDECIDED, [(SQUARED, {"accuracy": 1})]),
    (
        "centring_stabilises",
        FAILS,
        [(SQUARED, {"accuracy": 1, "max_abs_z": 10}), (SHIFTED, {"accuracy": 1, "max_abs_z": 10})],
    ),
    ("centring_stabilises", UNDECIDED, [(SQUARED, {"max_abs_z": 10})]),
    ("centring_alone", HOLDS, [({**TOY, "mechanism": "linear", "centering": "prefix"}, {"accuracy": 0.99})]),
    ("shift_is_needed", HOLDS, [({**TOY, "mechanism": "squared", "centering": "prefix"}, {"accuracy": 0.3})]),
    ("centring_mixes", FAILS, [({**SMALL, "mechanism": "softmax"}, {"accuracy": 0.99})]),
    ("bound_penalty", FAILS, [({"bound_penalty": 3e-2}, {"max_abs_z": 20})]),
    ("bound_penalty", UNDECIDED, [({"bound_penalty": 1e-3}, {"accuracy": 0.8})]),
    ("rank_penalty", FAILS, [({"rank_penalty": 3e-4}, {"stable_rank_q": 8, "stable_rank_k": 6})]),
    ("rank_penalty_price", FAILS, [({"rank_penalty": 3e-4}, {"max_abs_z": 10})]),
    ("distillation", FAILS, [({"losses": "pullback"}, {"accuracy": 0.5})]),
    ("distillation", UNDECIDED, [({"losses": "pullback"}, {"attention_error": 0.8})]),
    ("distillation", UNDECIDED, [({"losses": "none"}, {"teacher_accuracy": 0.9})]),
    ("distillation", FAILS, [({"losses": "pullback"}, {"accuracy": "nan", "loss": "nan"})]),
    ("same_depth_swap", FAILS, [({"mechanism": "polynomial_32"}, {"accuracy": 0.9})]),
    ("same_depth_swap", UNDECIDED, [({"program": "kernel_swap"}, {"accuracy": 0.9})]),
    ("csq_drop_in", HOLDS, [({"program": "kernel_swap", "mechanism": "csq"}, {"accuracy": 0.97})]),
    ("csq_fine_tuned", FAILS, [({"program": "kernel_swap", "mechanism": "csq"}, {"accuracy": 0.4})]),
    ("capacity", FAILS, [({**RECALL, "mechanism": "linear", "head_size": 8}, {"accuracy": 0.93})]),
    ("equal_state", FAILS, [({**RECALL, "mechanism": "linear_equal_state"}, {"accuracy": 0.5})]),
    ("recall_where_faster", FAILS, [({**RECALL, "mechanism": "csq", "pairs_over_features": 4}, {"accuracy": 0.3})]),
    ("recall_where_faster", UNDECIDED, [({**RECALL, "mechanism": "csq"}, {"attention_us": 30})]),
    ("small_heads", FAILS, [({"experiment": "head_size", "head_size": 8}, {"accuracy": 1})]),
    ("depth_expresses", FAILS, [({**DEPTH, "mechanism": "chain"}, {"error": 1e-3})]),
    ("depth_suffices", FAILS, [(DEPTH, {"error": 0.5})]),
    ("depth_needed", FAILS, [(DEPTH, {"error": 0.01})]),
    ("exp_inflates", FAILS, [({**REAL, "subject": "exp"}, {"value": 64})]),
    ("normalisation_inflates", HOLDS, [({**REAL, "subject": "exp"}, {"value": 64})]),
    ("square_rank_bound", FAILS, [({"data": "random", "subject": "square"}, {"value": 154})]),
    ("square_rank_bound", FAILS, [({"data": "softmax_16", "subject": "square_normalised"}, {"value": 154})]),
    ("csq_like_softmax", FAILS, [({**REAL, "quantity": "output_cosine"}, {"value": 0.5})]),
    ("factored_precision", HOLDS, [({**REAL, "quantity": "factored"}, {"value": 1e-5})]),
]


def changed(rows, changes):
    rows = [dict(row) for row in rows]
    for chosen, values in changes:
        touched = [row for row in rows if all(row.get(column) == value for column, value in chosen.items())]
        assert touched, f"no row has {chosen}"
        for row in touched:
            row.update(values)
    return rows


class Rules(unittest.TestCase):
    def verdicts(self, rows):
        with tempfile.TemporaryDirectory() as folder:
            results = results_of(rows, folder)
            return {claim.function.__name__: claim.judge(results)[1] for claim in claims.CLAIMS}

    def test_made_up_runs(self):
        self.assertEqual(self.verdicts(all_runs()), EXPECTED)

    def test_changed_runs(self):
        for name, expected, changes in CHANGES:
            with self.subTest(name, expected=expected, changes=changes):
                self.assertEqual(self.verdicts(changed(all_runs(), changes))[name], expected)

    def test_every_rule_can_hold_and_fail(self):
        for name, verdict in EXPECTED.items():
            seen = {verdict, *(expected for changed_name, expected, _ in CHANGES if changed_name == name)}
            self.assertLessEqual({HOLDS, FAILS}, seen, name)

    def test_nothing_run(self):
        self.assertEqual(set(self.verdicts([]).values()), {UNDECIDED})

    def test_each_program_missing(self):
        rows = all_runs()
        for program in {row["program"] for row in rows}:
            left = self.verdicts([row for row in rows if row["program"] != program])
            self.assertIn(UNDECIDED, left.values(), program)

    def test_a_run_that_diverged_counts_as_the_worst(self):
        diverged = {"accuracy": "nan", "max_abs_z": "nan", "loss": "nan"}
        one = changed(all_runs(), [({**TOY, "mechanism": "csq", "seed": 1}, diverged)])
        self.assertEqual(self.verdicts(one)["degree_two_keeps"], HOLDS)
        every = changed(all_runs(), [({**TOY, "mechanism": "csq"}, diverged)])
        self.assertEqual(self.verdicts(every)["degree_two_keeps"], FAILS)

    def test_growth_needs_the_summary_at_both_lengths(self):
        late = {"experiment": "head", "part": "csq", "pass": "forward", "key_dim": 128, "tokens": 4096}
        slow = {"experiment": "head", "part": "csq", "pass": "forward+backward", "key_dim": 128, "tokens": 4096}
        rows = changed(all_runs(), [(slow, {"milliseconds": 1e-3})])
        self.assertEqual(self.verdicts(rows)["training_cost"], FAILS)
        rows = changed(rows, [(late, {"method": "direct"})])
        self.assertEqual(self.verdicts(rows)["training_cost"], HOLDS)

    def test_spread(self):
        rows = [{"seed": str(seed), "x": str(value)} for seed, value in ((1, 3), (2, 1), (3, 2), (3, 2))]
        self.assertEqual(claims.Results("nowhere").spread(rows, "x"), claims.Spread(2, 1, 3, 3))

    def test_crossover(self):
        softmax = {n: (n * n, "direct") for n in (256, 512, 1024)}
        factored = {n: (700 * n, "factored") for n in (256, 512, 1024)}
        tokens, bound = claims.crossover(softmax, factored)
        self.assertAlmostEqual(tokens, 700, delta=1)
        self.assertFalse(bound)
        self.assertEqual(claims.crossover(softmax, {n: (n, "factored") for n in softmax}), (256, True))
        self.assertIsNone(claims.crossover(softmax, {n: (2000 * n, "factored") for n in softmax}))
        served = {**factored, 256: (1, "direct")}  # faster, but not by the summary
        self.assertAlmostEqual(claims.crossover(softmax, served)[0], 700, delta=1)


class Report(unittest.TestCase):
    def text(self, rows):
        with tempfile.TemporaryDirectory() as folder:
            return report.report(results_of(rows, folder), pathlib.Path(folder))

    def test_all_sections(self):
        text = self.text(all_runs())
        for title in ("Table 2", "Table 3", "Table 4", "Figure 1", "Figure 2", "Control", "Not tested", "Runs"):
            self.assertIn(f"## {title}", text)
        self.assertIn("commit 0123456789ab", text)

    def test_tables_have_as_many_cells_as_columns(self):
        columns = None
        for line in self.text(all_runs()).splitlines():
            cells = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else None
            self.assertTrue(cells is None or columns is None or cells == columns, line)
            columns = cells

    def test_nothing_run(self):
        text = self.text([])
        self.assertIn(claims.NOT_RUN, text)
        self.assertNotIn("nan", text)

    def test_each_program_missing(self):
        rows = all_runs()
        for program in {row["program"] for row in rows}:
            self.assertIn(claims.NOT_RUN, self.text([row for row in rows if row["program"] != program]))


class Jobs(unittest.TestCase):
    def test_claims_name_jobs(self):
        lines = (HERE / "jobs.txt").read_text(encoding="utf-8").splitlines()
        names = [line.split()[0].rstrip("!") for line in lines if line and not line.startswith("#")]
        self.assertEqual(len(names), len(set(names)))
        for claim in claims.CLAIMS:
            for pattern in claim.jobs.split():
                self.assertTrue(fnmatch.filter(names, pattern), f"{claim.function.__name__}: no job {pattern}")


if __name__ == "__main__":
    unittest.main()
