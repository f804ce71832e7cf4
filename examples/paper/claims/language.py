"""A byte-level language model, from `language`: bits a byte by mechanism, with and without gates. Lower is better.

Models of one seed start at the same parameters and see the same windows, so what is compared is compared seed by seed.
"""

from .matching import matched, reading
from .spread import spread, spreads
from .verdict import Claims, decide
from .wording import decimal, fraction

CLAIMS = Claims()

MODELS = ("softmax", "csq", "gated_softmax", "gated_csq", "gated_linear", "mixed")

CLOSED, NOT_CLOSED = 2 / 3, 1 / 3  # shares of CSQ's distance to softmax
DISTANT = 0.02  # bits a byte: less is no distance that a gate could close
APART = 0.01  # bits a byte between two models that differ
FAR = 0.03  # and between two of which one is not what the other is
GROWS = 0.02  # bits a byte, from the first quarter of the context to the last


def language(results, name):
    return results.select("language", model=name)


def differences(results, better, worse, column="bits"):
    """Bits a byte of `worse` beyond `better`, seed by seed."""
    sides = {name: language(results, name) for name in (better, worse)}
    return spread(
        [
            {"seed": seed, "difference": reading(at[worse], column) - reading(at[better], column)}
            for (seed,), at in matched(sides, "seed").items()
        ],
        "difference",
    )


def bits(results, *names):
    each = spreads({name: language(results, name) for name in names}, "bits")
    return ", ".join(f"{name.replace('_', ' ')} {value.text('{:.3f}')}" for name, value in each.items())


def jobs(*names):
    return " ".join(f"language_{name}_*" for name in names)


@CLAIMS.state(
    topic="Language",
    who="critics",
    says="As a language model, ungated CSQ is worse than softmax of the same size.",
    rule=f"Holds if CSQ takes at least {decimal(DISTANT)} bits a byte more than softmax with every seed; fails if it takes no "
    "more in the median.",
    jobs=jobs("softmax", "csq"),
)
def ungated_is_behind(results):
    gap = differences(results, "softmax", "csq")
    return bits(results, "softmax", "csq"), decide(gap.low >= DISTANT, gap.median <= 0)


@CLAIMS.state(
    topic="Language",
    who="asked here",
    says="A gate per token and head closes most of CSQ's distance to softmax.",
    rule=f"Holds if gated CSQ makes up for {fraction(CLOSED)} of the distance or more, in the median over seeds; fails at "
    f"{fraction(NOT_CLOSED)} or less. Undecided where the distance is below {decimal(DISTANT)} bits a byte.",
    jobs=jobs("softmax", "csq", "gated_csq"),
)
def gate_closes(results):
    sides = {name: language(results, name) for name in ("softmax", "csq", "gated_csq")}
    rows = []
    for (seed,), at in matched(sides, "seed").items():
        softmax, csq, gated = (reading(at[name], "bits") for name in sides)
        rows.append({"seed": seed, "distance": csq - softmax, "made_up": csq - gated})
    distance, made_up = spread(rows, "distance"), spread(rows, "made_up")
    text = bits(results, "softmax", "csq", "gated_csq")
    text += f"; distance {distance.text('{:.3f}')}, made up {made_up.text('{:.3f}')}"
    if distance.low < DISTANT:
        return text, decide(False, False)
    share = spread([{**row, "share": row["made_up"] / row["distance"]} for row in rows], "share")
    return f"{text}: {share.text('{:.2f}')} of it", decide(share.median >= CLOSED, share.median <= NOT_CLOSED)


@CLAIMS.state(
    topic="Language",
    who="asked here",
    says="Layers of gated CSQ with one of gated softmax reach plain softmax.",
    rule=f"Holds if the mixed model takes less than {decimal(APART)} bits a byte more than softmax, in the median over seeds; "
    f"fails at {decimal(FAR)} or more.",
    jobs=jobs("softmax", "mixed"),
)
def mixed_reaches(results):
    gap = differences(results, "softmax", "mixed")
    return bits(results, "softmax", "mixed"), decide(gap.median < APART, gap.median >= FAR)


@CLAIMS.state(
    topic="Language",
    who="asked here",
    says="Degree 2 is needed: gated linear attention does not reach gated CSQ.",
    rule=f"Holds if gated linear takes at least {decimal(APART)} bits a byte more than gated CSQ with every seed; fails if it "
    "takes no more in the median.",
    jobs=jobs("gated_csq", "gated_linear"),
)
def linear_does_not_reach(results):
    gap = differences(results, "gated_csq", "gated_linear")
    return bits(results, "gated_csq", "gated_linear"), decide(gap.low >= APART, gap.median <= 0)


@CLAIMS.state(
    topic="Language",
    who="critics",
    says="With the same gate softmax stays ahead: what CSQ gains by it, softmax gains too.",
    rule=f"Holds if gated CSQ takes at least {decimal(APART)} bits a byte more than gated softmax with every seed; fails if it "
    "takes no more in the median.",
    jobs=jobs("gated_softmax", "gated_csq"),
)
def softmax_stays_ahead(results):
    gap = differences(results, "gated_softmax", "gated_csq")
    return bits(results, "softmax", "gated_softmax", "gated_csq"), decide(gap.low >= APART, gap.median <= 0)


@CLAIMS.state(
    topic="Language",
    who="critics",
    says="Ungated degree 2 degrades with the context: its summary fills up.",
    rule="Holds if CSQ's distance to softmax is larger in the last quarter of the context than in the first by at least "
    f"{decimal(GROWS)} bits a byte, in the median over seeds; fails if it is no larger.",
    jobs=jobs("softmax", "csq"),
)
def degrades(results):
    first = differences(results, "softmax", "csq", "quarter_1")
    last = differences(results, "softmax", "csq", "quarter_4")
    growth = last.median - first.median
    return (
        f"bits a byte more than softmax: {first.text('{:.3f}')} in the first quarter, {last.text('{:.3f}')} in the last",
        decide(growth >= GROWS, growth <= 0),
    )
