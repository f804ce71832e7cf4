"""The theorems: ranks, gradients and bounds, from `theorems`; the swap bound from `kernel_swap` too."""

from . import swap
from .matching import grid, keyed, matched, positive, reading
from .results import NOT_RUN, Missing
from .spread import outcome
from .verdict import NUMERICAL_RANK, Claims, decide
from .wording import decimal, exponential

CLAIMS = Claims()

PULLBACK_ERROR = 1e-13  # relative, double
GROWS, GROWS_NOT = 2, 1.2  # softmax's time a token between the shortest and the longest n


def theorem_rows(results, theorem, **wanted):
    return list(keyed(results.select("theorems", theorem=theorem, **wanted), "mechanism", "setting").values())


def setting(row):
    """{"n": 24, "d": 4} of "n=24 d=4 full"."""
    return {name: int(value) for name, value in (part.split("=") for part in row["setting"].split() if "=" in part)}


def misses(rows):
    """Rows whose measured number is not in the relation to the predicted one that the row asserts."""

    def met(row):
        predicted, measured = reading(row, "predicted"), outcome(row, "measured")
        return measured == predicted if row["relation"] == "=" else measured <= predicted

    return [row for row in rows if not met(row)]


def met_of_all(rows, what):
    missed = misses(rows)
    return f"{len(rows) - len(missed)} of {len(rows)} {what}", decide(not missed, True)


@CLAIMS.state(
    topic="Dimension",
    who="paper, 3.1",
    says="The gradient by the d×e matrix between queries and keys is scale·XᵀGY, for any row-wise map.",
    rule="Holds if the formula agrees with the library's backward pass, with forward differentiation and with golden cases "
    f"to {exponential(PULLBACK_ERROR)} (relative, double) for every map and mask; fails otherwise.",
    jobs="theorems",
    paper="exact",
)
def pullback_gradient(results):
    errors = [outcome(row, "measured") for row in theorem_rows(results, "3.1")]
    return f"largest of {len(errors)} relative errors {max(errors):.1e}", decide(max(errors) <= PULLBACK_ERROR, True)


@CLAIMS.state(
    topic="Dimension",
    who="paper, 3.1",
    says="Scores and gradients live in a space of dimension rank(X)·rank(Y): d² numbers, not n².",
    rule=f"Holds if the numerical rank ({exponential(NUMERICAL_RANK)}) is rank(X)·rank(Y) in every setting; fails otherwise.",
    jobs="theorems",
    paper="rank(X)·rank(Y)",
)
def score_dimension(results):
    return met_of_all(theorem_rows(results, "dimension"), "settings")


@CLAIMS.state(
    topic="Dimension",
    who="paper, 4.1",
    says="The Jacobian of softmax attention by M has rank r(r − ε).",
    rule=f"Holds if the numerical rank ({exponential(NUMERICAL_RANK)}) is r(r − ε) in every setting (d = r = 4; r = 3 < "
    "d = 5; ε = 0, 1; full, causal; 5 draws each); fails otherwise.",
    jobs="theorems",
    paper="r(r − ε)",
)
def softmax_rank(results):
    return met_of_all(theorem_rows(results, "4.1"), "settings")


def rank_rows(results, mechanism, epsilon):
    """Of a mechanism's Jacobian. At ε = 0 all of r² is to be had."""
    rows = theorem_rows(results, "beyond 4.1", mechanism=mechanism, relation="=")
    rows = [row for row in rows if setting(row)["eps"] == epsilon]
    if not rows:
        raise Missing(f"theorems with mechanism {mechanism}, ε = {epsilon}")
    return rows


def shortfall(row):
    return setting(row)["r"] ** 2 - reading(row, "measured")


@CLAIMS.state(
    topic="Dimension",
    who="paper, 4.4",
    says="The raw square s² can attain all r² dimensions (theorem 4.4 promises it where a transversality condition holds).",
    rule="Holds if its rank is r² in every setting with ε = 0; fails if it is below r² in all of them.",
    jobs="theorems",
    paper="r²",
)
def square_rank(results):
    short = [shortfall(row) for row in rank_rows(results, "squared", epsilon=0)]
    by = f"{min(short):g}" if min(short) == max(short) else f"{min(short):g} to {max(short):g}"
    text = (
        f"short by {by} in {len(short)} settings: normalised, it cannot see the scale of M, so "
        "that the condition is never met"
    )
    return text, decide(all(s == 0 for s in short), all(s > 0 for s in short))


@CLAIMS.state(
    topic="Dimension",
    who="found here",
    says="The shift restores the dimension that the raw square lacks: at ε = 0, (s + 1)² and 1 + s + s²/2 attain r².",
    rule="Holds if both attain r² in every setting with ε = 0 while the raw square attains it in none; fails if either is "
    "below r² in one.",
    jobs="theorems",
)
def shift_restores(results):
    sides = {name: rank_rows(results, name, epsilon=0) for name in ("squared", "shifted", "taylor")}
    short = [{name: shortfall(row) for name, row in at.items()} for at in matched(sides, "setting").values()]
    attained = all(at[name] == 0 for at in short for name in ("shifted", "taylor"))
    text = "r² attained by both" if attained else "below r² in a setting"
    return text + lost_with_ones(results), decide(attained and all(at["squared"] > 0 for at in short), not attained)


def lost_with_ones(results, r=4):
    """What is left of r² where ones lie in the column space of X; nothing where it was not measured."""
    names = ("squared", "shifted", "csq")
    try:
        rows = rank_rows(results, names, epsilon=1)
    except Missing:
        return ""
    rows = [row for row in rows if setting(row)["r"] == r and row["setting"].endswith(" full")]
    at = {name: f"{reading(row, 'measured'):g}" for (name,), row in keyed(rows, "mechanism").items()}
    return f"; but at ε = 1, r = {r}, of {r**2}: " + ", ".join(f"{name} {at.get(name, NOT_RUN)}" for name in names)


def times(results, *mechanisms):
    """{(d, n): {mechanism: row}}: the rank of the Jacobian (`predicted`) and the milliseconds of a call (`measured`)."""
    rows = {name: theorem_rows(results, "cost", mechanism=name) for name in mechanisms}
    return matched({name: [{**row, **setting(row)} for row in of_one] for name, of_one in rows.items()}, "d", "n")


@CLAIMS.state(
    topic="Dimension",
    who="critics",
    says="The landscape's dimension is not the cost: softmax has the same d² dimensions at every n and still costs O(n²·d).",
    rule="Holds if, for each d, softmax's Jacobian rank is the same at the shortest and the longest n while its time a token "
    f"grows by {decimal(GROWS)} or more; fails if the time a token grows by less than {decimal(GROWS_NOT)} for every d.",
    jobs="theorems",
)
def landscape_is_not_cost(results):
    at = grid([of["softmax"] for of in times(results, "softmax").values()], "d", "n", name="theorems, cost")
    dims, lengths = sorted({d for d, _ in at}), sorted({n for _, n in at})
    first, last = lengths[0], lengths[-1]
    if first == last:
        raise Missing("theorems, cost at two lengths")
    same = all(reading(at[d, first], "predicted") == reading(at[d, last], "predicted") for d in dims)
    growth = [positive(at[d, last], "measured") / last / (positive(at[d, first], "measured") / first) for d in dims]
    text = f"ranks {'equal' if same else 'differ'}; time a token grows {min(growth):.1f} to {max(growth):.1f} times"
    return text, decide(same and min(growth) >= GROWS, max(growth) < GROWS_NOT)


@CLAIMS.state(
    topic="Replacing exp",
    who="paper, 5.5",
    says="Swapping exp for a positive polynomial moves the output by at most 4e^R·B_V·η where η ≤ e^{−R}/2.",
    rule="Holds if at least one setting meets the hypothesis and no such setting exceeds its bound, in `theorems` and in "
    "`kernel_swap`; fails if one does.",
    jobs="theorems kernel_swap_*",
    paper="4e^R·B_V·η",
)
def swap_bound(results):
    rows = theorem_rows(results, "5.5")
    shares = [
        outcome(row, "measured") / positive(row, "predicted")
        for row in rows
        if row["verdict"] != "bound not applicable"
    ]
    total, where = len(rows), ""
    try:
        trained = swap.polynomials(results)
    except Missing:
        where = " (kernel_swap not run)"
    else:
        total += len(trained)
        shares += [
            outcome(row, "attention_deviation") / positive(row, "bound")
            for row in trained
            if reading(row, "bound_applicable") == 1
        ]
    if not shares:
        raise Missing("a setting that meets the hypothesis")
    text = f"bound applies to {len(shares)} of {total}{where}; largest share of it used {max(shares):.2g}"
    return text, decide(all(share <= 1 for share in shares), True)


@CLAIMS.state(
    topic="Depth",
    who="paper, 6.8",
    says="No-go: L degree-2 blocks of width w reach p independent outputs only if L(2w² + 3) ≥ p.",
    rule="Holds if the rank of the outputs by the parameters stays at or below L(2w² + 3) for every random stack; fails "
    "otherwise. L(2w² + 3) is the number of parameters, so that only a wrong program could fail: the theorem counts.",
    jobs="theorems",
    paper="L(2w² + 3) ≥ p",
)
def no_go(results):
    return met_of_all(theorem_rows(results, "6.8"), "stacks and counts")
