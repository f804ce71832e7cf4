"""Made-up runs, in the programs' own columns. Seeds, heads and lengths differ in their numbers, so that rows matched
wrongly would show."""

import csv
import pathlib

from claims import capacity, cost, depth, distillation, retrieval, sweeps
from claims.controls import SMALL_EMBEDDING
from claims.results import Results

COMMITTED = pathlib.Path(__file__).parent.parent / "results"
SEEDS = (1, 2, 3)


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
    yield theorem("3.1", "softmax", "causal vs backward", 1e-13, 2e-15)
    yield theorem("dimension", "any", "rank X=3 Y=4 scores", 12, 12, "=")
    yield theorem("surrogate", "csq", "gradient", 1e-12, 1e-16)
    yield theorem("4.1", "softmax", "n=24 d=4 r=4 eps=1 full", 12, 12, "=")
    for d, r in ((4, 4), (5, 3)):
        for mechanism, full in (("squared", r * r - 1), ("shifted", r * r), ("taylor", r * r), ("csq", r * r)):
            yield theorem("beyond 4.1", mechanism, f"n=24 d={d} r={r} eps=0 full", full, full, "=")
    for mechanism, rank in (("squared", 15), ("shifted", 15), ("taylor", 16), ("csq", 9)):
        yield theorem("beyond 4.1", mechanism, "n=24 d=4 r=4 eps=1 full", rank, rank, "=")
    yield theorem("beyond 4.1", "csq", "n=24 d=4 r=4 eps=1 full = shifted; centred X", 1e-12, 1e-16)
    yield theorem("5.5", "polynomial", "R=2 degree 8", 0.5, 0.0003)
    yield theorem("5.5", "polynomial", "R=8 degree 2", 1e8, 2.5, verdict="bound not applicable")
    yield theorem("6.8", "degree 2", "w=2 L=1 p=26 outputs", 11, 9)
    for d in (4, 8):
        for n, milliseconds in ((24, 0.001), (96, 0.008), (384, 0.06)):
            for mechanism in ("softmax", "csq_direct", "csq_factored"):
                yield theorem("cost", mechanism, f"n={n} d={d}", d * d, milliseconds * d, "", "")


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
    for step in cost.STEPS:
        for causal in (0, 1):
            for dim in (16, 32, 64, 128):
                for tokens in (256, 1024, 2048, 4096, 16384):
                    softmax, factored = 1e-7 * tokens**2 * dim / (1 + causal), 0.5e-7 * tokens * dim**3
                    yield cost_row("head", "softmax", step, causal, dim, tokens, softmax, "direct")
                    yield cost_row("head", "csq", step, causal, dim, tokens, factored, "factored")
    for tokens in (2048, 131072):
        for part, each in (("projections", 1), ("feed_forward", 2), ("csq", 1.5), ("softmax", tokens / 10000)):
            yield cost_row("layer", part, "forward", 1, 128, tokens, each * tokens, "direct", int(tokens < 100000))


def costs_by_dtype():
    """Crossovers at 0.6·d² in float and at 1.1·d² in bfloat16, against PyTorch's softmax: it is the faster one."""
    each = {
        ("softmax", "float"): 10,
        ("csq", "float"): 6,
        ("softmax", "bfloat16"): 2.5,
        ("softmax_torch", "bfloat16"): 2,
        ("csq", "bfloat16"): 2.2,
        ("csq_direct", "bfloat16"): 2.4,
    }
    for step in cost.STEPS:
        for causal in (0, 1):
            for dim in (32, 64):
                for tokens in (256, 512, 1024, 2048, 4096, 8192):
                    for (part, dtype), time in each.items():
                        milliseconds = 1e-8 * time * tokens * dim * (dim**2 if part == "csq" else tokens)
                        method = "factored" if part == "csq" else "direct"
                        is_peer = part == "softmax_torch"
                        yield {
                            **cost_row("dtypes", part, step, causal, dim, tokens, milliseconds, method),
                            "dtype": dtype,
                            "matrix_unit": "" if is_peer else int(dtype == "bfloat16"),
                            "threads": 1,
                            "library": "torch 2.9" if is_peer else "csq",
                        }


def kv(mechanism, centering, right, size, seed=1, **changed):
    return {
        "program": "kv_retrieval",
        "mechanism": mechanism,
        "centering": centering,
        **retrieval.RECIPE,
        "radius": 4,
        "method": "auto",
        "seed": seed,
        "loss": 3 * (1 - right),
        "accuracy": right - 0.001 * seed,
        "max_abs_z": size + 0.1 * seed if size != "" else "",
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
    for seed in SEEDS:
        yield kv("softmax", "automatic", 1, 42.3, seed)
        yield kv("softmax", "prefix", 1, 40, seed)
        yield kv("squared", "automatic", 0.145, 55.3, seed)
        yield kv("squared", "prefix", 1, 20, seed)
        yield kv("shifted", "automatic", 0.147, 66.3, seed)
        yield kv("csq", "automatic", 1, 18, seed)
        yield kv("hybrid", "automatic", 1, 25.8, seed)
        yield kv("linear", "automatic", 0.13, "", seed)
        yield kv("linear", "prefix", 0.2, "", seed)
    for seed in SEEDS[:2]:
        yield kv("softmax", "automatic", 0.25, 5, seed, embedding_scale=SMALL_EMBEDDING)
        yield kv("softmax", "prefix", 1, 20, seed, embedding_scale=SMALL_EMBEDDING)
        yield kv("csq", "automatic", 1, 10, seed, embedding_scale=SMALL_EMBEDDING)
        for weight, size in sweeps.PAPER_BOUND.items():
            if weight:
                yield kv("csq", "automatic", 1, size, seed, bound_penalty=weight, overflow=0.002)
        for weight, (size, query, key) in sweeps.PAPER_RANK.items():
            if weight:
                ranks = {"stable_rank_q": query, "stable_rank_k": key}
                yield kv("csq", "automatic", 1, size, seed, rank_penalty=weight, **ranks)


def distillations():
    for seed in SEEDS:
        for losses, (loss, right, error) in distillation.PAPER_DISTILLATION.items():
            yield {
                "program": "kv_retrieval",
                "mechanism": "csq",
                "losses": losses,
                "seed": seed,
                "teacher_accuracy": 1,
                "teacher_loss": 0.001,
                "loss": loss,
                "accuracy": right - 0.001 * seed,
                "attention_error": error + 0.001 * seed,
            }


def swaps():
    for seed in SEEDS:
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
                    "seed": seed,
                    "degree": degree,
                    "stage": stage,
                    "accuracy": 1 if stage == "after" else right - 0.001 * seed,
                    "max_logit_deviation": deviation * seed,
                    "radius": 9,
                    "bound_applicable": int(degree == 32),
                    "bound": 1,
                    "attention_deviation": 0.01 * seed,
                    "teacher_steps": 600,
                    "teacher_solved": 1,
                }


def capacities():
    accuracies = {"softmax": 1, "csq": 0.95, "squared": 0.9, "linear": 0.2, "linear_equal_state": 0.94}
    for seed in SEEDS:
        for dim in capacity.DIMS:
            for mechanism, right in accuracies.items():
                for ratio in capacity.RATIOS:
                    yield {
                        "program": "capacity",
                        "experiment": "recall",
                        "mechanism": mechanism,
                        "seed": seed,
                        "head_size": dim,
                        "pairs_over_features": 1.06 * ratio if ratio < 1 else ratio,
                        "accuracy": right - 0.001 * seed,
                        "state_bytes": 1000,
                        "multiply_adds": 1e6,
                        "attention_us": 10 * seed**2 * (2 if mechanism == "softmax" else 1),
                    }
        for dim in capacity.DIMS:
            for name, right in zip(capacity.EPISODES, (0.3, 0.3, 0.2, 0.99, 0.93, 0.4, 0.95, 0.42)):
                yield {
                    "program": "capacity",
                    "experiment": "episodes",
                    "mechanism": name,
                    "seed": seed,
                    "head_size": dim,
                    "pairs_over_features": 0.5,
                    "accuracy": right - 0.001 * seed,
                }
        for dim, right in zip(capacity.HEAD_SIZES, (0.3, 0.6, 0.9, 1)):
            yield {
                "program": "capacity",
                "experiment": "head_size",
                "mechanism": "csq",
                "seed": seed,
                "head_size": dim,
                "pairs_over_features": 1,
                "accuracy": right - 0.001 * seed,
                "state_bytes": 1000,
                "multiply_adds": 1e4 * dim**2,
                "method": "factored",
                "attention_us": dim,
            }


def depths():
    for seed in SEEDS:
        for power, needed in depth.LOG2.items():
            for mechanism in ("chain", "csq", "shifted", "squared", "softmax"):
                for layers in depth.DEPTHS:
                    solved = 1e-13 if mechanism == "chain" else 0.01
                    yield {
                        "program": "depth",
                        "mechanism": mechanism,
                        "seed": seed,
                        "power": power,
                        "depth": layers,
                        "error": (solved if layers >= needed else 0.4) * (1 + 0.01 * seed),
                    }


def languages():
    whole = {
        "softmax": (1.502, 1.6, 1.45),
        "csq": (1.774, 1.7, 1.9),
        "gated_softmax": (1.436, 1.55, 1.4),
        "gated_csq": (1.55, 1.63, 1.5),
        "gated_linear": (1.677, 1.75, 1.65),
        "mixed": (1.447, 1.56, 1.41),
    }
    for seed in SEEDS:
        for model, numbers in whole.items():
            bits, first, last = (number + 0.003 * seed for number in numbers)
            yield {
                "program": "language",
                "model": model,
                "layers": 4,
                "heads": 8,
                "head_dim": 16,
                "context": 512,
                "steps": 1500,
                "batch": 4,
                "rate": 4e-3,
                "seed": seed,
                "text_bytes": 4137850,
                "text_checksum": 4274962497,
                "windows": 200,
                "parameters": 860000,
                "bits": bits,
                "quarter_1": first,
                "quarter_2": (first + bits) / 2,
                "quarter_3": (last + bits) / 2,
                "quarter_4": last,
                "training_bits": bits - 0.02,
                "seconds_a_step": 0.5,
            }


def real_heads():
    def row(experiment, data, layer, causal, tokens, subject, quantity, value):
        dim, features = (64, 2145) if data in ("softmax", "csq") else (16, 153)
        return {
            "program": "real_heads",
            "experiment": experiment,
            "data": data,
            "layer": layer,
            "causal": causal,
            "tokens": tokens,
            "key_dim": dim,
            "features": features,
            "subject": subject,
            "quantity": quantity,
            "value": value,
        }

    subjects = ("scores", "exp", "exp_normalised", "square", "square_normalised")
    for data, layer, tokens, ranks in (
        ("softmax", "first", 1024, (64, 1024, 1024, 1024, 1024)),
        ("softmax", "last", 1024, (60, 900, 900, 1024, 1024)),
        ("csq", "first", 512, (64, 512, 512, 512, 512)),
        ("csq", "last", 512, (32, 128, 130, 512, 512)),
        ("softmax_16", "first", 512, (16, 512, 512, 150, 150)),
        ("random", "none", 512, (16, 512, 512, 153, 153)),
    ):
        for subject, rank in zip(subjects, ranks):
            for quantity in ("rank_1e-10", "rank_1e-3"):
                yield row("rank", data, layer, 0, tokens, subject, quantity, rank)
    for layer, agreement in (("first", 0.95), ("last", 0.99)):
        for quantity, value in (
            ("strongest_key_agreement", agreement),
            ("output_cosine", 0.97),
            ("entropy", 2),
            ("normalizer_min", 1),
            ("normalizer_max", 9),
        ):
            yield row("likeness", "softmax", layer, 1, 1024, "csq", quantity, value)
    for data, direct in (("softmax", 1e-7), ("csq", 1e-9), ("random", 1e-8)):
        for causal in (0, 1):
            yield row("error", data, "first", causal, 512, "csq", "direct", direct)
            yield row("error", data, "first", causal, 512, "csq", "factored", (1.5 + causal) * direct)


MAKERS = (
    theorems,
    costs,
    costs_by_dtype,
    retrievals,
    distillations,
    swaps,
    capacities,
    depths,
    languages,
    real_heads,
)


def all_runs():
    return [row for maker in MAKERS for row in maker()]


def results_of(rows):
    """With cells of text, as a CSV has them."""
    return Results({column: str(value) for column, value in {"job": row["program"], **row}.items()} for row in rows)


def write(rows, folder):
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


def has(row, chosen):
    return all(row.get(column) == value for column, value in chosen.items())


def changed(rows, changes):
    """Rows after changes: (columns that choose the rows, their new values)."""
    rows = [dict(row) for row in rows]
    for chosen, values in changes:
        touched = [row for row in rows if has(row, chosen)]
        assert touched, f"no row has {chosen}"
        for row in touched:
            row.update(values)
    return rows


def without(rows, chosen):
    left = [row for row in rows if not has(row, chosen)]
    assert len(left) < len(rows), f"no row has {chosen}"
    return left
