"""The claims of the paper and of its critics, each with the rule that decides it.

A claim says what is claimed, by whom, the paper's number, the runs that test it and, in words and as a function of the
runs' CSV files, when it holds and when it fails. What is neither, or lacks its data, is undecided. The rules look at
nothing but the CSV files; report.py prints them with their verdicts, and says which were written when.

    results = Results("examples/paper/results")
    for claim in CLAIMS: ours, verdict = claim.judge(results)

"Median" is over seeds wherever there are several.
"""

import csv
import math
import pathlib
from statistics import median
from typing import Callable, NamedTuple

HOLDS, FAILS, UNDECIDED = "holds", "fails", "undecided"
NOT_RUN = "not run"


# ----------------------------------------------------------------------------------------------------------------------
# Results
# ----------------------------------------------------------------------------------------------------------------------


class Missing(Exception):
    """No run has left what a rule or a table needs."""


class Spread(NamedTuple):
    median: float
    low: float
    high: float
    count: int

    def text(self, form="{:.3g}"):
        middle, low, high = (form.format(value) if math.isfinite(value) else "diverged" for value in self[:3])
        return middle if low == high else f"{middle} ({low} to {high})"


LARGER_IS_BETTER = ("accuracy", "stable_rank_q", "stable_rank_k")


def number(text, column):
    """None for an empty cell: not applicable. A run that diverged left NaN, which counts as the worst there is."""
    if text in ("", None):
        return None
    value = float(text)
    if math.isnan(value):
        return -math.inf if column in LARGER_IS_BETTER else math.inf
    return value


class Results:
    """All rows of all CSV files of a folder. `origin` holds each file's first line, the commit and the machine."""

    def __init__(self, folder):
        self.rows = []
        self.origin = {}
        for path in sorted(pathlib.Path(folder).glob("*.csv")):
            with open(path, newline="", encoding="utf-8") as file:
                lines = file.read().splitlines()
            comments = [line for line in lines if line.startswith("#")]
            self.origin[path.stem] = comments[0].lstrip("# ") if comments else ""
            for row in csv.DictReader(line for line in lines if not line.startswith("#")):
                self.rows.append({**row, "job": path.stem})

    def select(self, program, **wanted):
        """Rows whose columns equal what is wanted: numbers as numbers, the rest as text, a tuple as alternatives.
        Raises Missing when there is none."""

        def fits(row, column, value):
            if column not in row or row[column] is None:
                return False
            if isinstance(value, tuple):
                return any(fits(row, column, one) for one in value)
            if isinstance(value, str):
                return row[column] == value
            return row[column] != "" and math.isclose(float(row[column]), value, rel_tol=1e-9, abs_tol=1e-12)

        rows = [
            row
            for row in self.rows
            if row.get("program") == program and all(fits(row, column, value) for column, value in wanted.items())
        ]
        if not rows:
            raise Missing(program + ": " + ", ".join(f"{column} = {value}" for column, value in wanted.items()))
        return rows

    def spread(self, rows, column):
        """Of one number a seed; rows that two jobs share, such as a sweep's zero, count once."""
        by_seed = {row.get("seed", ""): number(row[column], column) for row in rows}
        values = [value for value in by_seed.values() if value is not None]
        if not values:
            raise Missing(column)
        return Spread(median(values), min(values), max(values), len(values))


def decide(holds, fails):
    return HOLDS if holds else FAILS if fails else UNDECIDED


def arrow(spreads, form):
    """Before and after, and how few seeds they are of."""
    text = " → ".join(spread.text(form) for spread in spreads)
    return text + one_seed(*spreads)


def one_seed(*spreads):
    return " (one seed)" if all(spread.count == 1 for spread in spreads) else ""


# ----------------------------------------------------------------------------------------------------------------------
# Claims
# ----------------------------------------------------------------------------------------------------------------------


class Claim(NamedTuple):
    topic: str
    who: str
    says: str
    paper: str  # the paper's number, or a dash
    jobs: str  # of run.sh, space-separated patterns
    rule: str
    function: Callable

    def judge(self, results):
        """(ours, verdict); what the rule lacks is said instead of a number."""
        try:
            return self.function(results)
        except Missing:
            return NOT_RUN, UNDECIDED


CLAIMS = []


def claim(topic, who, says, rule, jobs, paper="–"):
    def add(function):
        CLAIMS.append(Claim(topic, who, says, paper, jobs, rule, function))
        return function

    return add


# --- the theorems -----------------------------------------------------------------------------------------------------


def theorem_rows(results, theorem, **wanted):
    return results.select("theorems", theorem=theorem, **wanted)


def misses(rows):
    """Rows whose measured number is not in the relation to the predicted one that the row asserts."""

    def met(row):
        predicted, measured = float(row["predicted"]), float(row["measured"])
        return measured == predicted if row["relation"] == "=" else measured <= predicted

    return [row for row in rows if not met(row)]


@claim(
    "Dimension",
    "paper, 3.1",
    "The gradient by the d×e matrix between queries and keys is scale·XᵀGY, for any row-wise map.",
    "Holds if the formula agrees with the library's backward pass, with forward differentiation and with golden cases to "
    "1e-13 (relative, double) for every map and mask; fails otherwise.",
    "theorems",
    "exact",
)
def pullback_gradient(results):
    rows = theorem_rows(results, "3.1")
    worst = max(float(row["measured"]) for row in rows)
    return f"largest of {len(rows)} relative errors {worst:.1e}", decide(not misses(rows), True)


@claim(
    "Dimension",
    "paper, 3.1",
    "Scores and gradients live in a space of dimension rank(X)·rank(Y): d² numbers, not n².",
    "Holds if the numerical rank (1e-10) is rank(X)·rank(Y) in every setting; fails otherwise.",
    "theorems",
    "rank(X)·rank(Y)",
)
def score_dimension(results):
    rows = theorem_rows(results, "dimension")
    return f"{len(rows) - len(misses(rows))} of {len(rows)} settings", decide(not misses(rows), True)


@claim(
    "Dimension",
    "paper, 4.1",
    "The Jacobian of softmax attention by M has rank r(r − ε).",
    "Holds if the numerical rank (1e-10) is r(r − ε) in every setting (d = r = 4; r = 3 < d = 5; ε = 0, 1; full, causal; "
    "5 draws each); fails otherwise.",
    "theorems",
    "r(r − ε)",
)
def softmax_rank(results):
    rows = theorem_rows(results, "4.1")
    return f"{len(rows) - len(misses(rows))} of {len(rows)} settings", decide(not misses(rows), True)


def rank_settings(results, mechanism):
    """[(r², measured)] at ε = 0, where all of r² is to be had."""
    rows = [
        row
        for row in theorem_rows(results, "beyond 4.1", mechanism=mechanism, relation="=")
        if " eps=0 " in row["setting"] + " "
    ]
    if not rows:
        raise Missing("no setting with ε = 0")
    found = []
    for row in rows:
        r = int(dict(part.split("=") for part in row["setting"].split() if "=" in part)["r"])
        found.append((r * r, float(row["measured"])))
    return found


@claim(
    "Dimension",
    "paper, 4.4",
    "The raw square s² can attain all r² dimensions (theorem 4.4 promises it where a transversality condition holds).",
    "Holds if its rank is r² in every setting with ε = 0; fails if it is below r² in all of them.",
    "theorems",
    "r²",
)
def square_rank(results):
    found = rank_settings(results, "squared")
    short = [full - measured for full, measured in found]
    by = f"{min(short):g}" if min(short) == max(short) else f"{min(short):g} to {max(short):g}"
    text = (
        f"short by {by} in {len(found)} settings: normalised, it cannot see the scale of M, so "
        "that the condition is never met"
    )
    return text, decide(all(s == 0 for s in short), all(s > 0 for s in short))


@claim(
    "Dimension",
    "found here",
    "The shift restores the dimension that the raw square lacks: at ε = 0, (s + 1)² and 1 + s + s²/2 attain r².",
    "Holds if both attain r² in every setting with ε = 0 while the raw square attains it in none; fails if either is "
    "below r² in one.",
    "theorems",
)
def shift_restores(results):
    square, shifted, taylor = (rank_settings(results, name) for name in ("squared", "shifted", "taylor"))
    attained = all(measured == full for full, measured in shifted + taylor)
    text = "r² attained by both" if attained else "below r² in a setting"
    lost = [
        (row["mechanism"], float(row["measured"]))
        for row in theorem_rows(results, "beyond 4.1", mechanism=("squared", "shifted", "csq"), relation="=")
        if "r=4 eps=1 full" in row["setting"]
    ]
    if lost:
        text += "; but at ε = 1, r = 4, of 16: " + ", ".join(f"{name} {rank:g}" for name, rank in lost)
    return text, decide(attained and all(measured < full for full, measured in square), not attained)


@claim(
    "Dimension",
    "critics",
    "The landscape's dimension is not the cost: softmax has the same d² dimensions at every n and still costs O(n²·d).",
    "Holds if, for each d, softmax's Jacobian rank is the same at the shortest and the longest n while its time a token "
    "grows by 2 or more; fails if the time a token grows by less than 1.2 for every d.",
    "theorems",
)
def landscape_is_not_cost(results):
    by_dim = {}
    for row in theorem_rows(results, "cost", mechanism="softmax"):
        setting = dict(part.split("=") for part in row["setting"].split())
        by_dim.setdefault(int(setting["d"]), {})[int(setting["n"])] = (
            float(row["predicted"]),
            float(row["measured"]) / int(setting["n"]),
        )
    growth, same = [], True
    for at in by_dim.values():
        (rank, time), (last_rank, last_time) = at[min(at)], at[max(at)]
        same = same and rank == last_rank
        growth.append(last_time / time)
    text = f"ranks {'equal' if same else 'differ'}; time a token grows {min(growth):.1f} to {max(growth):.1f} times"
    return text, decide(same and min(growth) >= 2, max(growth) < 1.2)


@claim(
    "Replacing exp",
    "paper, 5.5",
    "Swapping exp for a positive polynomial moves the output by at most 4e^R·B_V·η where η ≤ e^{−R}/2.",
    "Holds if at least one setting meets the hypothesis and no such setting exceeds its bound, in `theorems` and in "
    "`kernel_swap`; fails if one does.",
    "theorems kernel_swap_*",
    "4e^R·B_V·η",
)
def swap_bound(results):
    rows = theorem_rows(results, "5.5")
    applicable = [row for row in rows if row["verdict"] != "bound not applicable"]
    pairs = [(float(row["measured"]), float(row["predicted"])) for row in applicable]
    total = len(rows)
    try:
        trained = results.select("kernel_swap", stage="before")
        polynomials = [row for row in trained if float(row["degree"]) > 0]
        total += len(polynomials)
        pairs += [
            (float(row["attention_deviation"]), float(row["bound"]))
            for row in polynomials
            if float(row["bound_applicable"]) == 1
        ]
        where = ""
    except Missing:
        where = " (kernel_swap not run)"
    if not pairs:
        raise Missing("no setting meets the hypothesis")
    shares = [measured / bound for measured, bound in pairs]
    text = f"bound applies to {len(pairs)} of {total}{where}; largest share of it used {max(shares):.2g}"
    return text, decide(all(share <= 1 for share in shares), True)


@claim(
    "Depth",
    "paper, 6.8",
    "No-go: L degree-2 blocks of width w reach p independent outputs only if L(2w² + 3) ≥ p.",
    "Holds if the rank of the outputs by the parameters stays at or below L(2w² + 3) for every random stack; fails "
    "otherwise. L(2w² + 3) is the number of parameters, so that only a wrong program could fail: the theorem counts.",
    "theorems",
    "L(2w² + 3) ≥ p",
)
def no_go(results):
    rows = theorem_rows(results, "6.8")
    return f"{len(rows) - len(misses(rows))} of {len(rows)} stacks and counts", decide(not misses(rows), True)


# --- cost -------------------------------------------------------------------------------------------------------------


def head_times(results, part, **wanted):
    """{(key_dim, causal): {tokens: (milliseconds, method)}}"""
    times = {}
    for row in results.select("cost", experiment="head", part=part, **wanted):
        key = (int(row["key_dim"]), int(row["causal"]))
        times.setdefault(key, {})[int(row["tokens"])] = (float(row["milliseconds"]), row["method"])
    return times


def growth_exponents(times, method, forward):
    """Of time with n between the longest length and a quarter of it, wherever the `forward` call is made by `method` at
    both (a backward always is): 1 is linear, 2 quadratic."""
    exponents = []
    for key, at in times.items():
        longest = max(at)
        quarter = longest // 4
        if quarter in at and forward[key][quarter][1] == forward[key][longest][1] == method:
            exponents.append(math.log(at[longest][0] / at[quarter][0], 4))
    if not exponents:
        raise Missing("two lengths by one method")
    return exponents


def dimension_exponents(times, method):
    """Of time with d, between neighbouring head sizes from 32 on, at the longest length."""
    exponents = []
    for (dim, causal), at in times.items():
        larger = times.get((2 * dim, causal))
        if dim >= 32 and larger and at[max(at)][1] == larger[max(at)][1] == method:
            exponents.append(math.log2(larger[max(at)][0] / at[max(at)][0]))
    if not exponents:
        raise Missing("two head sizes by one method")
    return exponents


def judge_linear_cost(results, step):
    factored, softmax = (head_times(results, part, **{"pass": step}) for part in ("csq", "softmax"))
    forward = head_times(results, "csq", **{"pass": "forward"})
    tokens, dims = growth_exponents(factored, "factored", forward), dimension_exponents(factored, "factored")
    quadratic = growth_exponents(softmax, "direct", head_times(results, "softmax", **{"pass": "forward"}))
    left_out = sorted(set(growth_exponents(factored, "factored", factored)) - set(tokens))
    others = f"; not counted: {', '.join(f'n^{exponent:.2f}' for exponent in left_out)}" if left_out else ""
    text = (
        f"time ∝ n^{min(tokens):.2f} to n^{max(tokens):.2f} ({len(tokens)} of {len(factored)} head sizes and masks{others}) "
        f"and d^{min(dims):.2f} to d^{max(dims):.2f}; softmax: n^{min(quadratic):.2f} to "
        f"n^{max(quadratic):.2f}"
    )
    return text, decide(max(tokens) <= 1.15 and max(dims) <= 3.3, max(tokens) >= 1.5 or max(dims) >= 4)


COST_RULE = (
    "Holds if the measured exponents of time are at most 1.15 in n (longest length against a quarter of it) and at most "
    "3.3 in d (neighbouring head sizes from 32 on), for every head size and mask whose forward call reads the summary at "
    "both lengths (shorter causal ones are served directly, in O(n²·d)); fails if one is 1.5 or more in n, or 4 or more in d."
)


@claim("Cost", "paper", "Degree-2 attention costs O(n·d³).", COST_RULE, "cost", "O(n·d³)")
def forward_cost(results):
    return judge_linear_cost(results, "forward")


@claim("Cost", "paper", "So does training with it: forward and backward are O(n·d³).", COST_RULE, "cost", "O(n·d³)")
def training_cost(results):
    return judge_linear_cost(results, "forward+backward")


def crossover(softmax, factored):
    """(length from which the factored form stays faster, whether that is only an upper bound): by interpolation in the
    logarithms, and an upper bound where it is faster at the first length that reads the summary; None if it never is."""
    lengths = sorted(n for n in factored if n in softmax and factored[n][1] == "factored")
    faster = [math.log(softmax[n][0] / factored[n][0]) for n in lengths]
    if not lengths or faster[-1] <= 0:
        return None
    first = next((i for i in range(len(lengths) - 1, -1, -1) if faster[i] <= 0), -1) + 1
    if first == 0:
        return float(lengths[0]), True
    share = -faster[first - 1] / (faster[first] - faster[first - 1])
    return lengths[first - 1] * (lengths[first] / lengths[first - 1]) ** share, False


def crossovers(results):
    """{(key_dim, causal, pass): (tokens, whether an upper bound) or None}"""
    found = {}
    for step in ("forward", "forward+backward"):
        softmax = head_times(results, "softmax", **{"pass": step})
        factored = head_times(results, "csq", **{"pass": step})
        for key in sorted(factored):
            found[(*key, step)] = crossover(softmax[key], factored[key])
    return found


def speed_at_square(results):
    """{(causal, pass): softmax's time over CSQ's at n = d², for each d}; by whatever method CSQ is served there."""
    found = {}
    for step in ("forward", "forward+backward"):
        softmax, ours = (head_times(results, part, **{"pass": step}) for part in ("softmax", "csq"))
        for (dim, causal), at in ours.items():
            if dim**2 in at and dim**2 in softmax[dim, causal]:
                found.setdefault((causal, step), []).append(softmax[dim, causal][dim**2][0] / at[dim**2][0])
    return found


@claim(
    "Cost",
    "critics",
    "It wins only for n ≫ d².",
    "Holds if every measured crossover is at 4·d² or beyond (or is not reached); fails if one is at d² or before.",
    "cost",
)
def wins_only_late(results):
    found = crossovers(results)
    ratios = [at[0] / dim**2 if at else math.inf for (dim, _, _), at in found.items()]
    known = [ratio for ratio in ratios if ratio < math.inf]
    text = f"{len(known)} of {len(ratios)} crossovers reached"
    if known:
        text += f", at {min(known):.2f}·d² to {max(known):.2f}·d², upper bounds among them"
    text += "; times as fast as softmax at n = d²: " + ", ".join(
        f"{min(at):.2f} to {max(at):.2f} ({'causal' if causal else 'full'}, {step.replace('+', ' and ')})"
        for (causal, step), at in speed_at_square(results).items()
    )
    return text, decide(min(ratios) >= 4, min(ratios) <= 1)


@claim(
    "Cost",
    "critics",
    "At the usual d = 128 and n = 2048, softmax is faster.",
    "Holds if softmax's full forward takes less time there than factored CSQ's; fails otherwise.",
    "cost",
)
def softmax_faster_at_usual_size(results):
    times = [head_times(results, part, **{"pass": "forward"}) for part in ("softmax", "csq")]
    if any((128, 0) not in at or 2048 not in at[128, 0] for at in times):
        raise Missing("d = 128, n = 2048")
    softmax, factored = (at[128, 0][2048][0] for at in times)
    text = f"factored CSQ takes {factored / softmax:.2f} times softmax's time"
    causal = [at[128, 1][2048] for at in times if 2048 in at.get((128, 1), {})]
    if len(causal) == 2 and causal[1][1] == "direct":
        text += f" (under a causal mask csq serves it directly: {causal[1][0] / causal[0][0]:.2f})"
    return text, decide(softmax < factored, True)


def layer_budget(results):
    """{tokens: {part: (milliseconds, measured, method)}}"""
    budget = {}
    for row in results.select("cost", experiment="layer"):
        at = budget.setdefault(int(row["tokens"]), {})
        at[row["part"]] = (float(row["milliseconds"]), int(row["measured"]), row["method"])
    return budget


def layer_speed_up(at):
    rest = at["projections"][0] + at["feed_forward"][0]
    return (rest + at["softmax"][0]) / (rest + at["csq"][0])


@claim(
    "Cost",
    "critics",
    "At d = 4096 an O(n·d³) method is hopeless. (Of the layer's d_model; heads have d = 128.)",
    "Fails if at 128k tokens the forward pass of a whole causal layer (projections, feed forward, 32 heads of 128; "
    "attention scaled from 16k) runs 2 or more times as fast with CSQ as with softmax; holds if less than 1.1 times.",
    "cost",
)
def hopeless_at_model_width(results):
    budget = layer_budget(results)
    if 131072 not in budget or 2048 not in budget:
        raise Missing("2k and 128k tokens")
    ratios = {n: layer_speed_up(at) for n, at in budget.items()}
    text = "forward with CSQ is " + ", ".join(f"{ratios[n]:.2f} times as fast at {n // 1024}k" for n in sorted(ratios))
    return text, decide(ratios[131072] < 1.1, ratios[131072] >= 2)


# --- learning: key-value retrieval ------------------------------------------------------------------------------------

RECIPE = {
    "layers": 6,
    "steps": 600,
    "batch": 128,
    "rate": 1e-3,
    "bound_penalty": 0,
    "rank_penalty": 0,
    "shift": 1,
    "embedding_scale": 1,
}

# What --centering automatic means. The shifted square with prefix centring is csq, and is run as such.
OWN_CENTERING = {"csq": "prefix", "hybrid": "prefix"}


def retrieval(results, mechanism, centering=None, **wanted):
    """Runs by the recipe, or changed as `wanted`, of one mechanism with one centring (its own unless given)."""
    own = OWN_CENTERING.get(mechanism, "none")
    centering = centering or own
    if (mechanism, centering) == ("shifted", "prefix"):
        mechanism, own = "csq", "prefix"
    allowed = (centering, "automatic") if centering == own else centering
    return results.select("kv_retrieval", mechanism=mechanism, centering=allowed, **{**RECIPE, **wanted})


def accuracy(results, *which, **wanted):
    return results.spread(retrieval(results, *which, **wanted), "accuracy")


PAPER_TABLE3 = {  # loss, accuracy, max|Z|
    "softmax": (0.0008, 1.000, 42.3),
    "squared": (2.52, 0.145, 55.3),
    "shifted": (2.52, 0.147, 66.3),
    "csq": (0.0004, 1.000, 18.0),
    "hybrid": (0.0004, 1.000, 25.8),
}


@claim(
    "Retrieval",
    "paper, Table 3",
    "Table 3's accuracies: softmax, CSQ and the hybrid solve key-value retrieval; the raw and the shifted square without "
    "centring do not.",
    "Holds if each of the five median accuracies is within 0.1 of the paper's; fails if one is further than 0.3 away.",
    "kv_*",
    "1.000, 1.000, 1.000, .145, .147",
)
def table3(results):
    ours = {name: accuracy(results, name) for name in PAPER_TABLE3}
    distance = max(abs(ours[name].median - PAPER_TABLE3[name][1]) for name in PAPER_TABLE3)
    text = ", ".join(f"{name} {value.text('{:.3f}')}" for name, value in ours.items())
    return text, decide(distance <= 0.1, distance > 0.3)


@claim(
    "Retrieval",
    "paper",
    "Linear attention loses matching.",
    "Holds if the median accuracy of linear attention is at most .5 while softmax's is at least .95; fails if linear "
    "attention reaches .9.",
    "kv_linear_* kv_softmax_*",
)
def linear_loses(results):
    linear, softmax = accuracy(results, "linear"), accuracy(results, "softmax")
    text = f"linear {linear.text('{:.3f}')}, softmax {softmax.text('{:.3f}')}"
    return text, decide(linear.median <= 0.5 and softmax.median >= 0.95, linear.median >= 0.9)


@claim(
    "Retrieval",
    "paper",
    "Degree 2 keeps it: CSQ matches as softmax does.",
    "Holds if CSQ's median accuracy is at least .95; fails at or below .5.",
    "kv_csq_*",
    "1.000",
)
def degree_two_keeps(results):
    ours = accuracy(results, "csq")
    return ours.text('{:.3f}'), decide(ours.median >= 0.95, ours.median <= 0.5)


@claim(
    "Retrieval",
    "asked here",
    "Degree 2 alone is enough, without centring.",
    "Holds if the median accuracies of the raw and the shifted square without centring are at least .95; fails if both "
    "are at most .5.",
    "kv_squared_none_* kv_shifted_none_*",
    ".145, .147",
)
def degree_two_alone(results):
    squared, shifted = accuracy(results, "squared"), accuracy(results, "shifted")
    both = (squared.median, shifted.median)
    return f"squared {squared.text('{:.3f}')}, shifted {shifted.text('{:.3f}')}", decide(min(both) >= 0.95, max(both) <= 0.5)


@claim(
    "Retrieval",
    "paper, §8",
    "Centring stabilises degree-2 attention: it learns, with smaller scores.",
    "Holds if prefix centring raises the median accuracy by .2 or more and lowers the median max|Z|, for the raw and the "
    "shifted square both; fails if it does neither for either.",
    "kv_squared_* kv_shifted_* kv_csq_*",
    "accuracy .147 → 1.000, max|Z| 66.3 → 18.0 (shifted)",
)
def centring_stabilises(results):
    texts, gained, calmed = [], [], []
    for name in ("squared", "shifted"):
        before, after = retrieval(results, name, "none"), retrieval(results, name, "prefix")
        gain = [results.spread(rows, "accuracy") for rows in (before, after)]
        size = [results.spread(rows, "max_abs_z") for rows in (before, after)]
        texts.append(
            f"{name}: accuracy {arrow(gain, '{:.3f}')}, max|Z| {arrow(size, '{:.1f}')}"
        )
        gained.append(gain[1].median - gain[0].median >= 0.2)
        calmed.append(size[1].median < size[0].median)
    return "; ".join(texts), decide(all(gained) and all(calmed), not any(gained) and not any(calmed))


@claim(
    "Why",
    "control",
    "Prefix centring alone is what solves the task: linear attention with it does too.",
    "Holds if linear attention with prefix centring has a median accuracy of at least .95; fails at or below .5.",
    "kv_linear_prefix_*",
)
def centring_alone(results):
    ours = accuracy(results, "linear", "prefix")
    return ours.text('{:.3f}'), decide(ours.median >= 0.95, ours.median <= 0.5)


@claim(
    "Why",
    "control",
    "The shift is needed: centred, the raw square does not solve the task.",
    "Holds if the raw square with prefix centring has a median accuracy of at most .5 while CSQ reaches .95; fails if it "
    "reaches .95 itself.",
    "kv_squared_prefix_* kv_csq_*",
)
def shift_is_needed(results):
    squared, ours = accuracy(results, "squared", "prefix"), accuracy(results, "csq")
    text = f"squared with prefix centring {squared.text('{:.3f}')}, CSQ {ours.text('{:.3f}')}"
    return text, decide(squared.median <= 0.5 and ours.median >= 0.95, squared.median >= 0.95)


@claim(
    "Why",
    "control",
    "Centring also mixes neighbours: with small embeddings, N(0, .02²), softmax learns with prefix centring and not "
    "without.",
    "Holds if softmax's median accuracy is at most .5 without and at least .95 with prefix centring; fails if it reaches "
    ".95 without, or stays at or below .5 with it.",
    "small_softmax_*",
)
def centring_mixes(results):
    without = accuracy(results, "softmax", "none", embedding_scale=0.02)
    with_it = accuracy(results, "softmax", "prefix", embedding_scale=0.02)
    text = f"without {without.text('{:.3f}')}, with {with_it.text('{:.3f}')}{one_seed(without, with_it)}"
    return text, decide(
        without.median <= 0.5 and with_it.median >= 0.95, without.median >= 0.95 or with_it.median <= 0.5
    )


BOUND_SWEEP = (0, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
RANK_SWEEP = (0, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3)
PAPER_BOUND = {0: 16.1, 1e-4: 15.6, 3e-4: 14.9, 1e-3: 14.0, 3e-3: 12.7, 1e-2: 10.6, 3e-2: 8.84}
PAPER_RANK = {  # max|Z|, stable ranks of Qc and Kc
    0: (16.0, 8.5, 6.2),
    1e-5: (23.5, 9.0, 6.6),
    3e-5: (29.3, 10.1, 7.4),
    1e-4: (37.8, 13.0, 12.6),
    3e-4: (73.9, 16.4, 16.0),
    1e-3: (232, 16.8, 18.6),
    3e-3: (537, 14.6, 19.9),
}


def sweep(results, column, penalty, weight):
    """One point of a sweep; that at 0 by the seeds of the others."""
    rows = retrieval(results, "csq", **{penalty: weight})
    if weight == 0:
        weights = {"bound_penalty": BOUND_SWEEP, "rank_penalty": RANK_SWEEP}[penalty][1:]
        seeds = {row["seed"] for row in retrieval(results, "csq", **{penalty: weights})}
        rows = [row for row in rows if row["seed"] in seeds]
    return results.spread(rows, column)


@claim(
    "Penalties",
    "paper, Figure 1",
    "The bound penalty bounds the scores without costing accuracy.",
    "Holds if at λ = 3e-2 the median max|Z| is at most .75 of that at λ = 0, the overflow is smaller, and the accuracy is "
    "at least .95 at every λ; fails if max|Z| is not smaller, or the accuracy at 3e-2 is below .9.",
    "bound_* kv_csq_prefix_1",
    "max|Z| 16.1 → 8.84, overflow .0040 → .0017, accuracy 1",
)
def bound_penalty(results):
    size, over = ([sweep(results, column, "bound_penalty", weight) for weight in (0, 3e-2)] for column in ("max_abs_z", "overflow"))
    right = {weight: sweep(results, "accuracy", "bound_penalty", weight).median for weight in BOUND_SWEEP}
    text = (
        f"max|Z| {arrow(size, '{:.1f}')}, overflow {arrow(over, '{:.4f}')}, least accuracy {min(right.values()):.3f}"
    )
    before, after = (spread.median for spread in size)
    holds = after <= 0.75 * before and over[1].median < over[0].median and min(right.values()) >= 0.95
    return text, decide(holds, after >= before or right[3e-2] < 0.9)


@claim(
    "Penalties",
    "paper, Figure 2",
    "The rank penalty spreads queries and keys over more directions.",
    "Holds if the stable ranks of Qc and Kc at λ = 3e-4 are at least 1.25 times those at λ = 0; fails if neither is "
    "larger.",
    "rank_* kv_csq_prefix_1",
    "8.5 → 16.4 and 6.2 → 16.0",
)
def rank_penalty(results):
    ratios, texts = [], []
    for column in ("stable_rank_q", "stable_rank_k"):
        spreads = [sweep(results, column, "rank_penalty", weight) for weight in (0, 3e-4)]
        ratios.append(spreads[1].median / spreads[0].median)
        texts.append(arrow(spreads, "{:.1f}"))
    return " and ".join(texts), decide(min(ratios) >= 1.25, max(ratios) <= 1)


@claim(
    "Penalties",
    "paper, Figure 2",
    "It does so at the price of larger scores.",
    "Holds if the median max|Z| at λ = 3e-4 is at least twice that at λ = 0; fails if it is not larger.",
    "rank_* kv_csq_prefix_1",
    "16.0 → 73.9",
)
def rank_penalty_price(results):
    spreads = [sweep(results, "max_abs_z", "rank_penalty", weight) for weight in (0, 3e-4)]
    before, after = (spread.median for spread in spreads)
    return arrow(spreads, "{:.1f}"), decide(after >= 2 * before, after <= before)


LEARNED = 0.95  # accuracy below which a teacher teaches nothing

PAPER_DISTILLATION = {  # loss, accuracy, relative attention error
    "none": (2.758, 0.147, 0.983),
    "kl": (0.0089, 1.000, 0.711),
    "pullback": (0.0081, 1.000, 0.648),
    "both": (0.0082, 1.000, 0.615),
}


def student(results, losses, column):
    return results.spread(results.select("kv_retrieval", losses=losses), column)


@claim(
    "Distillation",
    "paper, Table 4",
    "Matching the pullback teaches a CSQ student as well as matching outputs (KL), and brings its attention nearer.",
    "Holds if the median accuracy with the pullback loss is within .02 of that with KL or above, its attention error is "
    "smaller, and both beat labels alone by .2; fails if it is .1 or more below KL. Undecided where the teacher's own "
    "median accuracy is below .95.",
    "distill_*",
    "1.000 against 1.000, attention error .648 against .711, labels alone .147",
)
def distillation(results):
    spreads = {losses: student(results, losses, "accuracy") for losses in PAPER_DISTILLATION}
    errors = {losses: student(results, losses, "attention_error") for losses in ("kl", "pullback")}
    teacher = student(results, "none", "teacher_accuracy")
    text = (
        ", ".join(f"{losses} {value.text('{:.3f}')}" for losses, value in spreads.items())
        + f"; attention error {errors['pullback'].text('{:.3f}')} (pullback) against {errors['kl'].text('{:.3f}')} (KL); "
        f"teacher {teacher.text('{:.3f}')}{one_seed(teacher)}"
    )
    if not teacher.median >= LEARNED:
        return text, UNDECIDED
    right = {losses: spread.median for losses, spread in spreads.items()}
    error = {losses: spread.median for losses, spread in errors.items()}
    near = right["pullback"] >= right["kl"] - 0.02 and error["pullback"] < error["kl"]
    beats = min(right["pullback"], right["kl"]) >= right["none"] + 0.2
    return text, decide(near and beats, right["pullback"] <= right["kl"] - 0.1)


# --- replacing exp in a trained model ---------------------------------------------------------------------------------

DEGREES = (2, 8, 16, 24, 32, 48)
PAPER_SWAP = {8: (11.7, 0.192), 16: (0.166, 1.000), 24: (4.3e-4, 1.000), 32: (7.4e-6, 1.000)}  # deviation, accuracy


def swapped(results, mechanism, stage, column):
    return results.spread(results.select("kernel_swap", mechanism=mechanism, stage=stage), column)


@claim(
    "Replacing exp",
    "paper, Table 2",
    "At the same depth, polynomials of rising degree replace exp in a trained model: by degree 32 nothing changes.",
    "Holds if degree 32 keeps the teacher's median accuracy to .01 and moves the logits at most 1e-3 times as far as "
    "degree 8 does; fails if it loses more than .05 accuracy. Undecided where the teacher's own is below .95.",
    "kernel_swap_*",
    "11.7 → 7.4e-6, accuracy .192 → 1.000",
)
def same_depth_swap(results):
    teacher = swapped(results, "softmax", "before", "accuracy")
    deviation = [swapped(results, f"polynomial_{p}", "before", "max_logit_deviation") for p in (8, 32)]
    right = [swapped(results, f"polynomial_{p}", "before", "accuracy") for p in (8, 32)]
    text = (
        f"largest logit deviation {arrow(deviation, '{:.2g}')}, accuracy {arrow(right, '{:.3f}')}; "
        f"teacher {teacher.text('{:.3f}')}"
    )
    if not teacher.median >= LEARNED:
        return text, UNDECIDED
    kept = right[1].median >= teacher.median - 0.01 and deviation[1].median <= 1e-3 * deviation[0].median
    return text, decide(kept, right[1].median < teacher.median - 0.05)


def judge_drop_in(results, stage):
    teacher = swapped(results, "softmax", "before", "accuracy")
    ours = swapped(results, "csq", stage, "accuracy")
    text = f"{ours.text('{:.3f}')}, teacher {teacher.text('{:.3f}')}{one_seed(ours)}"
    if not teacher.median >= LEARNED:
        return text, UNDECIDED
    return text, decide(ours.median >= teacher.median - 0.05, ours.median <= 0.5 * teacher.median)


@claim(
    "Replacing exp",
    "asked here",
    "CSQ is a drop-in for a trained softmax.",
    "Holds if the model keeps the teacher's median accuracy to .05 when CSQ replaces exp; fails if half of it is lost. "
    "Undecided where the teacher's own is below .95.",
    "kernel_swap_*",
)
def csq_drop_in(results):
    return judge_drop_in(results, "before")


@claim(
    "Replacing exp",
    "asked here",
    "A short fine-tuning (100 steps) makes up for the swap to CSQ.",
    "As above, after fine-tuning.",
    "kernel_swap_*",
)
def csq_fine_tuned(results):
    return judge_drop_in(results, "after")


# --- capacity ---------------------------------------------------------------------------------------------------------

CAPACITY_DIMS = (4, 8, 16)


def recall_rows(results, mechanism, dim, ratio):
    """One cell; pairs are whole numbers, so the ratio is met as nearly as they allow."""
    rows = [
        row
        for row in results.select("capacity", experiment="recall", mechanism=mechanism, head_size=dim)
        if abs(float(row["pairs_over_features"]) / ratio - 1) < 0.2
    ]
    if not rows:
        raise Missing(f"{mechanism}, d = {dim}, pairs/D = {ratio}")
    return rows


def recall(results, mechanism, dim, ratio, column="accuracy"):
    return results.spread(recall_rows(results, mechanism, dim, ratio), column)


def recall_speed_up(results, dim, ratio):
    """Softmax's time over CSQ's, seed by seed: both of one run of one machine."""
    times = {}
    for name in ("softmax", "csq"):
        for row in recall_rows(results, name, dim, ratio):
            times.setdefault(row["seed"], {})[name] = float(row["attention_us"])
    ratios = [{"seed": seed, "ratio": at["softmax"] / at["csq"]} for seed, at in times.items() if len(at) == 2]
    if not ratios:
        raise Missing("one seed of both")
    return results.spread(ratios, "ratio")


def recall_beside(results, other):
    """(text, [(CSQ's median accuracy, the other's)]) at D pairs, for each d."""
    spreads = [(recall(results, "csq", d, 1), recall(results, other, d, 1)) for d in CAPACITY_DIMS]
    text = "; ".join(
        f"d = {d}: CSQ {ours.text('{:.3f}')}, linear {theirs.text('{:.3f}')}"
        for d, (ours, theirs) in zip(CAPACITY_DIMS, spreads)
    )
    return text, [(ours.median, theirs.median) for ours, theirs in spreads]


@claim(
    "Capacity",
    "asked here",
    "A degree-2 summary holds about D = (d+1)(d+2)/2 pairs where a linear one of the same d loses them.",
    "Holds if at D pairs CSQ's median accuracy is at least .9 and linear attention's at most .5, for d = 4, 8 and 16; "
    "fails if for one d linear attention comes within .05 of CSQ.",
    "capacity_recall_*",
)
def capacity(results):
    text, pairs = recall_beside(results, "linear")
    holds = all(ours >= 0.9 and linear <= 0.5 for ours, linear in pairs)
    return text, decide(holds, any(linear >= ours - 0.05 for ours, linear in pairs))


@claim(
    "Capacity",
    "asked here",
    "At equal state bytes, linear attention does as well as CSQ.",
    "Holds if at D pairs linear attention with as large a state comes within .05 of CSQ's median accuracy for d = 4, 8 "
    "and 16; fails if it is .2 or more below for all three.",
    "capacity_recall_*",
)
def equal_state(results):
    text, pairs = recall_beside(results, "linear_equal_state")
    holds = all(linear >= ours - 0.05 for ours, linear in pairs)
    return text, decide(holds, all(linear <= ours - 0.2 for ours, linear in pairs))


@claim(
    "Capacity",
    "asked here",
    "Where CSQ is the faster one (4·D pairs, 8·D tokens), it still recalls.",
    "Holds if at 4·D pairs CSQ's attention call takes less time than softmax's (median over seeds of the ratio) and its "
    "median accuracy is at least .9, for d = 4, 8 and 16; fails if the accuracy is at most .5 for all three.",
    "capacity_recall_*",
)
def recall_where_faster(results):
    texts, holds, lost = [], [], []
    for dim in CAPACITY_DIMS:
        right, ratio = recall(results, "csq", dim, 4), recall_speed_up(results, dim, 4)
        texts.append(f"d = {dim}: {right.text('{:.3f}')}, {ratio.text('{:.1f}')} times as fast as softmax")
        holds.append(right.median >= 0.9 and ratio.median > 1)
        lost.append(right.median <= 0.5)
    return "; ".join(texts), decide(all(holds), all(lost))


def head_size(results, mechanism, dim, column):
    return results.spread(
        results.select("capacity", experiment="head_size", mechanism=mechanism, head_size=dim), column
    )


@claim(
    "Capacity",
    "critics",
    "Small heads, where O(n·d³) is cheap, extract little.",
    "At a width of 64 in all: holds if the median accuracy of CSQ with heads of 8 is at most .8 of that with one head of "
    "64; fails if it is within .02 of it or above.",
    "capacity_head_size_*",
)
def small_heads(results):
    small, large = (head_size(results, "csq", dim, "accuracy") for dim in (8, 64))
    cost = head_size(results, "csq", 64, "multiply_adds").median / head_size(results, "csq", 8, "multiply_adds").median
    text = f"heads of 8: {small.text('{:.3f}')}, one of 64: {large.text('{:.3f}')}, at {cost:.1f} times the multiply-adds"
    return text, decide(small.median <= 0.8 * large.median, small.median >= large.median - 0.02)


# --- depth ------------------------------------------------------------------------------------------------------------

# Chosen before the runs as lying between rounding and the best that one layer too few could reach, which least squares
# over single polynomials put at 0.087 (p = 4, 1 layer) and 0.052 (p = 8, 2 layers). Twelve heads side by side reach
# less, 0.036 and 0.008: the threshold stays as it was chosen, and does not separate the depths of p = 8.
SOLVED_ERROR = 0.02
QUADRATIC = ("csq", "shifted", "squared")


def depth_error(results, power, depth, mechanism):
    return results.spread(results.select("depth", power=power, depth=depth, mechanism=mechanism), "error")


def learned_best(results, power, depth):
    """The quadratic mechanism that learns it best: its error, its name."""
    found = []
    for mechanism in QUADRATIC:
        try:
            found.append((depth_error(results, power, depth, mechanism), mechanism))
        except Missing:
            pass
    if not found:
        raise Missing(f"p = {power}, {depth} layers")
    return min(found)


def learned_error(results, power, depth):
    return learned_best(results, power, depth)[0]


@claim(
    "Depth",
    "paper",
    "Depth O(log p): log₂ p degree-2 layers express a degree-p selection.",
    "Holds if the chain of squared layers built by hand has a relative error of at most 1e-6 with 2 layers for p = 4 and "
    "3 for p = 8; fails otherwise.",
    "depth_*",
    "log₂ p",
)
def depth_expresses(results):
    errors = [depth_error(results, power, depth, "chain") for power, depth in ((4, 2), (8, 3))]
    text = f"error {errors[0].text('{:.1e}')} (p = 4, 2 layers), {errors[1].text('{:.1e}')} (p = 8, 3 layers)"
    return text, decide(max(error.high for error in errors) <= 1e-6, True)


@claim(
    "Depth",
    "asked here",
    "They learn it: log₂ p degree-2 layers, trained.",
    "A depth solves when the median relative error of the best of CSQ, shifted and squared is at most .02. (Chosen in the "
    "belief that one layer too few cannot come below .05; heads side by side can.) Holds if 2 layers solve p = 4 and 3 layers p = 8; fails if 4 layers solve neither.",
    "depth_*",
    "log₂ p",
)
def depth_suffices(results):
    needed, best = zip(learned_best(results, 4, 2), learned_best(results, 8, 3))
    deepest = [learned_error(results, power, 4) for power in (4, 8)]
    text = (
        f"error {needed[0].text()} ({best[0]}, p = 4, 2 layers), {needed[1].text()} ({best[1]}, p = 8, 3 layers); with 4 "
        f"layers {deepest[0].text()} and {deepest[1].text()}; CSQ {depth_error(results, 4, 2, 'csq').text()} and "
        f"{depth_error(results, 8, 3, 'csq').text()}"
    )
    holds = all(error.median <= SOLVED_ERROR for error in needed)
    return text, decide(holds, all(error.median > SOLVED_ERROR for error in deepest))


@claim(
    "Depth",
    "asked here",
    "Fewer layers do not, at equal parameters.",
    "Holds if neither 1 layer solves p = 4 nor 2 layers p = 8 (as above); fails if both do.",
    "depth_*",
    "log₂ p",
)
def depth_needed(results):
    short = [learned_error(results, 4, 1), learned_error(results, 8, 2)]
    text = f"error {short[0].text()} (p = 4, 1 layer), {short[1].text()} (p = 8, 2 layers)"
    softmax = [depth_error(results, power, 1, "softmax").text() for power in (4, 8)]
    text += f"; one layer of softmax: {softmax[0]} and {softmax[1]}"
    solved = [error.median <= SOLVED_ERROR for error in short]
    return text, decide(not any(solved), all(solved))


# --- real heads -------------------------------------------------------------------------------------------------------


def real_values(results, experiment, subject, quantity, **wanted):
    rows = results.select("real_heads", experiment=experiment, subject=subject, quantity=quantity, **wanted)
    return [float(row["value"]) for row in rows]


REAL = {"data": ("softmax", "csq")}


def rank_ratio(results, above, below, quantity):
    """Median over the real heads, full attention."""
    pairs = zip(
        real_values(results, "rank", above, quantity, causal=0, **REAL),
        real_values(results, "rank", below, quantity, causal=0, **REAL),
    )
    return median(a / b for a, b in pairs)


@claim(
    "Real heads",
    "asked here",
    "exp takes attention beyond rank d.",
    "Holds if on the real heads, full attention, the numerical rank (1e-10) of exp(S) is at least twice that of S "
    "(median); fails if it is below 1.1 times.",
    "real_heads",
)
def exp_inflates(results):
    ratio = rank_ratio(results, "exp", "scores", "rank_1e-10")
    return f"rank(exp S) is {ratio:.2f} times rank(S)", decide(ratio >= 2, ratio < 1.1)


@claim(
    "Real heads",
    "asked here",
    "It is the normalisation of the rows that raises the rank.",
    "Holds if the rank of exp(S) with rows that sum to 1 is at least 1.5 times that of exp(S) (median over real heads, "
    "full attention); fails if it is below 1.1 times. Singular values above 1e-3 of the largest: at 1e-10 exp(S) may have "
    "full rank already, and then nothing could raise it.",
    "real_heads",
)
def normalisation_inflates(results):
    numerical = rank_ratio(results, "exp_normalised", "exp", "rank_1e-10")
    ratio = rank_ratio(results, "exp_normalised", "exp", "rank_1e-3")
    text = f"{ratio:.2f} times (at 1e-10: {numerical:.2f} times)"
    return text, decide(ratio >= 1.5, ratio < 1.1)


@claim(
    "Real heads",
    "asked here",
    "(S + β)² has rank at most D = (d+1)(d+2)/2, normalised or not.",
    "Holds if its numerical rank (1e-10) is at most D = 153 < n for real heads cut to their first 16 dimensions and "
    "random heads of 16, full attention, and equals D for the random ones; fails if it exceeds D once. (At d = 64, "
    "D = 2145 is beyond n.)",
    "real_heads",
    "D",
)
def square_rank_bound(results):
    subjects = ("square", "square_normalised")
    rows = results.select("real_heads", experiment="rank", subject=subjects, quantity="rank_1e-10", causal=0)
    rows = [row for row in rows if float(row["features"]) < float(row["tokens"])]
    bounded = all(float(row["value"]) <= float(row["features"]) for row in rows)
    tight = [float(row["value"]) == float(row["features"]) for row in rows if row["data"] == "random"]
    if not tight:
        raise Missing("random heads")
    largest = max(float(row["value"]) / float(row["features"]) for row in rows)
    text = f"at most {largest:.3f}·D ({len(rows)} matrices); the random heads {'attain' if all(tight) else 'miss'} D"
    return text, decide(bounded and all(tight), not bounded)


@claim(
    "Real heads",
    "asked here",
    "On heads trained with softmax, CSQ gives nearly softmax's output.",
    "Holds if, causal, the median cosine of the outputs is at least .95 and the strongest key agrees in at least 90% of "
    "the rows; fails if the cosine is below .8 or the key agrees in fewer than half.",
    "real_heads",
)
def csq_like_softmax(results):
    cosine, agreement = (
        median(real_values(results, "likeness", "csq", quantity, causal=1, data="softmax"))
        for quantity in ("output_cosine", "strongest_key_agreement")
    )
    text = f"cosine {cosine:.3f}, strongest key agrees in {100 * agreement:.0f}% of the rows"
    return text, decide(cosine >= 0.95 and agreement >= 0.9, cosine < 0.8 or agreement < 0.5)


@claim(
    "Real heads",
    "asked here",
    "The factored form pays for its speed with precision.",
    "Holds if in float CSQ's factored output is more than 10 times as far from double's as its direct output, for one of "
    "the heads; fails if it is within 3 times for all.",
    "real_heads",
)
def factored_precision(results):
    direct, factored = (real_values(results, "error", "csq", quantity) for quantity in ("direct", "factored"))
    ratio = max(f / d for f, d in zip(factored, direct))
    return f"largest error {max(factored):.1e}, at most {ratio:.1f} times the direct form's", decide(ratio > 10, ratio <= 3)


NOT_TESTED = (
    "random projections of the features, and other ways to a smaller D",
    "matrix units: what the O(n·d³) form gains or loses on hardware that multiplies matrices in one instruction",
    "other β, scales and centrings than those named above, and more than one seed of the penalties, distillation, swap and "
    "small embeddings",
    "language modelling at any scale: the tasks here are synthetic and small",
    "a layer's attention beyond 16k tokens: scaled, not timed",
    "transformers on sequences longer than D, where the summary pays: the retrieval task has 64 tokens, D is 561",
    "more steps, other rates and widths: one recipe for every mechanism, so that what does not learn has not learned in "
    "so many steps",
    "the backward pass of a whole layer, decode, grouped heads, GPUs",
    "times on processors other than those named at the end, and on more than one thread",
)
