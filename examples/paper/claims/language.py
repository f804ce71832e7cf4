"""A byte-level language model, from `language`: bits a byte by mechanism, with and without gates. Lower is better.

Models of one seed start at the same parameters and see the same windows, so what is compared is compared seed by seed.
"""

import math

from .matching import matched
from .spread import outcome, spread, spreads
from .verdict import Claims, decide
from .wording import decimal, fraction, one_seed

CLAIMS = Claims()

MODELS = ("softmax", "csq", "gated_softmax", "gated_csq", "gated_linear", "mixed")

CLOSED, NOT_CLOSED = 2 / 3, 1 / 3  # shares of CSQ's distance to softmax
DISTANT = 0.02  # bits a byte: less is no distance that a gate could close
APART = 0.01  # bits a byte between two models that differ
FAR = 0.03  # and between two of which one is not what the other is
GROWS = 0.02  # bits a byte, from the first quarter of the context to the last


# What two runs must have in common to be compared.
COMMON = (
    "seed",
    "text_bytes",
    "text_checksum",
    "windows",
    "context",
    "layers",
    "heads",
    "head_dim",
    "steps",
    "batch",
    "rate",
)


def language(results, name):
    return results.select("language", model=name)


def beside(results, *names):
    """[{name: row}], a seed each; a run that differs in more than its model has no partner, and that is said."""
    return list(matched({name: language(results, name) for name in names}, *COMMON).values())


def difference(larger, smaller, column="bits"):
    """A run that diverged counts as the worst."""
    high, low = outcome(larger, column), outcome(smaller, column)
    return 0 if math.isinf(high) and math.isinf(low) else high - low


def spread_of(rows, value):
    return spread([{"seed": number, "value": value(at)} for number, at in enumerate(rows)], "value")


def behind(results, better, worse):
    """Bits a byte of `worse` beyond `better`, seed by seed."""
    return spread_of(beside(results, better, worse), lambda at: difference(at[worse], at[better]))


def bits(results, *names):
    each = spreads({name: language(results, name) for name in names}, "bits")
    text = ", ".join(f"{name.replace('_', ' ')} {value.text('{:.3f}')}" for name, value in each.items())
    return text + one_seed(*each.values())


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
    gap = behind(results, "softmax", "csq")
    return bits(results, "softmax", "csq"), decide(gap.low >= DISTANT, gap.median <= 0)


@CLAIMS.state(
    topic="Language",
    who="asked here",
    says="A gate per token and head closes most of CSQ's distance to softmax.",
    rule=f"Holds if gated CSQ makes up for {fraction(CLOSED)} of the distance or more, in the median over seeds; fails at "
    f"{fraction(NOT_CLOSED)} or less. Undecided where the distance is below {decimal(DISTANT)} bits a byte for any seed.",
    jobs=jobs("softmax", "csq", "gated_csq"),
)
def gate_closes(results):
    rows = beside(results, "softmax", "csq", "gated_csq")
    distance = spread_of(rows, lambda at: difference(at["csq"], at["softmax"]))
    made_up = spread_of(rows, lambda at: difference(at["csq"], at["gated_csq"]))
    text = bits(results, "softmax", "csq", "gated_csq")
    text += f"; distance {distance.text('{:.3f}')}, made up {made_up.text('{:.3f}')}"
    if distance.low < DISTANT:
        return text, decide(False, False)
    share = spread_of(
        rows, lambda at: difference(at["csq"], at["gated_csq"]) / difference(at["csq"], at["softmax"])
    )
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
    gap = behind(results, "softmax", "mixed")
    return bits(results, "softmax", "mixed"), decide(gap.median < APART, gap.median >= FAR)


@CLAIMS.state(
    topic="Language",
    who="asked here",
    says="Degree 2 is needed: gated linear attention (φ = elu + 1) does not reach gated CSQ.",
    rule=f"Holds if gated linear takes at least {decimal(APART)} bits a byte more than gated CSQ with every seed; fails if it "
    "takes no more in the median.",
    jobs=jobs("gated_csq", "gated_linear"),
)
def linear_does_not_reach(results):
    gap = behind(results, "gated_csq", "gated_linear")
    return bits(results, "gated_csq", "gated_linear"), decide(gap.low >= APART, gap.median <= 0)


@CLAIMS.state(
    topic="Language",
    who="critics",
    says="With the same gate softmax stays ahead: what CSQ gains by it, softmax gains too.",
    rule=f"Holds if gated CSQ takes at least {decimal(APART)} bits a byte more than gated softmax with every seed, and softmax "
    "more than gated softmax; fails if gated CSQ takes no more than gated softmax in the median.",
    jobs=jobs("softmax", "gated_softmax", "gated_csq"),
)
def softmax_stays_ahead(results):
    gap, gain = behind(results, "gated_softmax", "gated_csq"), behind(results, "gated_softmax", "softmax")
    text = bits(results, "softmax", "gated_softmax", "gated_csq")
    return text, decide(gap.low >= APART and gain.low > 0, gap.median <= 0)


@CLAIMS.state(
    topic="Language",
    who="critics",
    says="Ungated degree 2 falls behind as the context grows.",
    rule="Holds if CSQ's distance to softmax is larger in the last quarter of the context than in the first by at least "
    f"{decimal(GROWS)} bits a byte, in the median over seeds; fails if it is no larger.",
    jobs=jobs("softmax", "csq"),
)
def degrades(results):
    rows = beside(results, "softmax", "csq")
    first, last = (
        spread_of(rows, lambda at, quarter=quarter: difference(at["csq"], at["softmax"], quarter))
        for quarter in ("quarter_1", "quarter_4")
    )
    growth = spread_of(
        rows,
        lambda at: difference(at["csq"], at["softmax"], "quarter_4") - difference(at["csq"], at["softmax"], "quarter_1"),
    )
    return (
        f"bits a byte more than softmax: {first.text('{:.3f}')} in the first quarter, {last.text('{:.3f}')} in the last",
        decide(growth.median >= GROWS, growth.median <= 0),
    )
