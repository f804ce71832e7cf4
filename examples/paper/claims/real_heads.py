"""Heads of trained language models, from `real_heads`: rank, likeness to softmax, rounding."""

from statistics import median

from .matching import matched, positive, reading
from .results import Missing
from .verdict import NUMERICAL_RANK, Claims, decide
from .wording import decimal, exponential, fraction, times

CLAIMS = Claims()

HEAD = ("data", "layer", "causal")  # what tells heads apart
REAL = ("softmax", "csq")  # data: what the models were trained with
EFFECTIVE_RANK = 1e-3  # singular values above this share of the largest count


def rank_of(tolerance):
    """The quantity's name."""
    return f"rank_{exponential(tolerance)}"


def head_rows(results, experiment, subject, quantity, **wanted):
    return results.select("real_heads", experiment=experiment, subject=subject, quantity=quantity, **wanted)


def rank_ratio(results, above, below, tolerance):
    """Median over the real heads, full attention."""
    sides = {
        subject: head_rows(results, "rank", subject, rank_of(tolerance), causal=0, data=REAL) for subject in (above, below)
    }
    pairs = matched(sides, *HEAD).values()
    return median(reading(at[above], "value") / positive(at[below], "value") for at in pairs)


INFLATED, INFLATED_BY_ROWS, NOT_INFLATED = 2, 1.5, 1.1  # times the rank


@CLAIMS.state(
    topic="Real heads",
    who="asked here",
    says="exp takes attention beyond rank d.",
    rule=f"Holds if on the real heads, full attention, the numerical rank ({exponential(NUMERICAL_RANK)}) of exp(S) is at "
    f"least {times(INFLATED)} that of S (median); fails if it is below {times(NOT_INFLATED)}.",
    jobs="real_heads",
)
def exp_inflates(results):
    ratio = rank_ratio(results, "exp", "scores", NUMERICAL_RANK)
    return f"rank(exp S) is {ratio:.2f} times rank(S)", decide(ratio >= INFLATED, ratio < NOT_INFLATED)


@CLAIMS.state(
    topic="Real heads",
    who="asked here",
    says="It is the normalisation of the rows that raises the rank.",
    rule=f"Holds if the rank of exp(S) with rows that sum to 1 is at least {times(INFLATED_BY_ROWS)} that of exp(S) (median "
    f"over real heads, full attention); fails if it is below {times(NOT_INFLATED)}. Singular values above "
    f"{exponential(EFFECTIVE_RANK)} of the largest: at {exponential(NUMERICAL_RANK)} exp(S) may have full rank already, and "
    "then nothing could raise it.",
    jobs="real_heads",
)
def normalisation_inflates(results):
    numerical = rank_ratio(results, "exp_normalised", "exp", NUMERICAL_RANK)
    ratio = rank_ratio(results, "exp_normalised", "exp", EFFECTIVE_RANK)
    text = f"{ratio:.2f} times (at {exponential(NUMERICAL_RANK)}: {numerical:.2f} times)"
    return text, decide(ratio >= INFLATED_BY_ROWS, ratio < NOT_INFLATED)


def features(dim):
    return (dim + 1) * (dim + 2) // 2


CUT, WHOLE = 16, 64  # dimensions of a head


@CLAIMS.state(
    topic="Real heads",
    who="asked here",
    says="(S + β)² has rank at most D = (d+1)(d+2)/2, normalised or not.",
    rule=f"Holds if its numerical rank ({exponential(NUMERICAL_RANK)}) is at most D = {features(CUT)} < n for real heads cut "
    f"to their first {CUT} dimensions and random heads of {CUT}, full attention, and equals D for the random ones; fails if it "
    f"exceeds D once. (At d = {WHOLE}, D = {features(WHOLE)} is beyond n.)",
    jobs="real_heads",
    paper="D",
)
def square_rank_bound(results):
    def bounded_rows(subject):
        rows = head_rows(results, "rank", subject, rank_of(NUMERICAL_RANK), causal=0)
        return [row for row in rows if reading(row, "features") < reading(row, "tokens")]

    heads = matched({subject: bounded_rows(subject) for subject in ("square", "square_normalised")}, *HEAD)
    shares = {
        (data, layer, subject): reading(row, "value") / positive(row, "features")
        for (data, layer, _), at in heads.items()
        for subject, row in at.items()
    }
    tight = [share == 1 for (data, *_), share in shares.items() if data == "random"]
    if not tight:
        raise Missing("random heads")
    bounded = all(share <= 1 for share in shares.values())
    text = (
        f"at most {max(shares.values()):.3f}·D ({len(shares)} matrices); the random heads "
        f"{'attain' if all(tight) else 'miss'} D"
    )
    return text, decide(bounded and all(tight), not bounded)


ALIKE, UNLIKE = 0.95, 0.8  # cosine
AGREES, DISAGREES = 0.9, 0.5  # share of the rows


@CLAIMS.state(
    topic="Real heads",
    who="asked here",
    says="On heads trained with softmax, CSQ gives nearly softmax's output.",
    rule=f"Holds if, causal, the median cosine of the outputs is at least {decimal(ALIKE)} and the strongest key agrees in at "
    f"least {AGREES:.0%} of the rows; fails if the cosine is below {decimal(UNLIKE)} or the key agrees in fewer than "
    f"{fraction(DISAGREES)}.",
    jobs="real_heads",
)
def csq_like_softmax(results):
    quantities = ("output_cosine", "strongest_key_agreement")
    sides = {name: head_rows(results, "likeness", "csq", name, causal=1, data="softmax") for name in quantities}
    heads = matched(sides, *HEAD).values()
    cosine, agreement = (median(reading(at[name], "value") for at in heads) for name in quantities)
    text = f"cosine {cosine:.3f}, strongest key agrees in {agreement:.0%} of the rows"
    return text, decide(cosine >= ALIKE and agreement >= AGREES, cosine < UNLIKE or agreement < DISAGREES)


IMPRECISE, PRECISE = 10, 3  # times the direct form's error


@CLAIMS.state(
    topic="Real heads",
    who="asked here",
    says="The factored form pays for its speed with precision.",
    rule=f"Holds if in float CSQ's factored output is more than {times(IMPRECISE)} as far from double's as its direct output, "
    f"for one of the heads; fails if it is within {times(PRECISE)} for all.",
    jobs="real_heads",
)
def factored_precision(results):
    heads = matched({form: head_rows(results, "error", "csq", form) for form in ("direct", "factored")}, *HEAD).values()
    ratio = max(reading(at["factored"], "value") / positive(at["direct"], "value") for at in heads)
    worst = max(reading(at["factored"], "value") for at in heads)
    text = f"largest error {worst:.1e}, at most {ratio:.1f} times the direct form's"
    return text, decide(ratio > IMPRECISE, ratio <= PRECISE)
