"""The penalties on scores and on ranks, from `kv_retrieval`: CSQ by the recipe, at rising weights λ."""

from .matching import matched
from .results import Missing
from .retrieval import retrieval
from .spread import spread
from .verdict import LEARNED, Claims, decide
from .wording import arrow, decimal, exponential, times

CLAIMS = Claims()

PAPER_BOUND = {0: 16.1, 1e-4: 15.6, 3e-4: 14.9, 1e-3: 14.0, 3e-3: 12.7, 1e-2: 10.6, 3e-2: 8.84}  # max|Z|
PAPER_RANK = {  # max|Z|, stable ranks of Qc and Kc
    0: (16.0, 8.5, 6.2),
    1e-5: (23.5, 9.0, 6.6),
    3e-5: (29.3, 10.1, 7.4),
    1e-4: (37.8, 13.0, 12.6),
    3e-4: (73.9, 16.4, 16.0),
    1e-3: (232, 16.8, 18.6),
    3e-3: (537, 14.6, 19.9),
}
WEIGHTS = {"bound_penalty": tuple(PAPER_BOUND), "rank_penalty": tuple(PAPER_RANK)}


def sweep_rows(results, penalty, weight):
    """One point of a sweep. The points that were run have the same seeds; that at 0, which other claims read too, may have
    more, which do not count."""
    points = {}
    for each in WEIGHTS[penalty]:
        try:
            points[each] = retrieval(results, "csq", **{penalty: each})
        except Missing:
            if each == weight:
                raise
    seeds = {row["seed"] for each, rows in points.items() if each != 0 for row in rows}
    if 0 in points:
        points[0] = [row for row in points[0] if row["seed"] in seeds]
    if not seeds:
        raise Missing(f"kv_retrieval with {penalty} above 0")
    matched({f"{penalty} {each:g}": rows for each, rows in points.items()}, "seed")
    return points[weight]


def sweep(results, column, penalty, weight):
    return spread(sweep_rows(results, penalty, weight), column)


STRONG_BOUND = max(PAPER_BOUND)
CALMED = 0.75  # of max|Z|
BOUND_COSTS = 0.9  # an accuracy below it


@CLAIMS.state(
    topic="Penalties",
    who="paper, Figure 1",
    says="The bound penalty bounds the scores without costing accuracy.",
    rule=f"Holds if at λ = {exponential(STRONG_BOUND)} the median max|Z| is at most {decimal(CALMED)} of that at λ = 0, the "
    f"overflow is smaller, and the accuracy is at least {decimal(LEARNED)} at every λ; fails if max|Z| is not smaller, or the "
    f"accuracy at {exponential(STRONG_BOUND)} is below {decimal(BOUND_COSTS)}.",
    jobs="bound_* kv_csq_prefix_1",
    paper=f"max|Z| {PAPER_BOUND[0]} → {PAPER_BOUND[STRONG_BOUND]}, overflow .0040 → .0017, accuracy 1",
)
def bound_penalty(results):
    size, over = (
        [sweep(results, column, "bound_penalty", weight) for weight in (0, STRONG_BOUND)]
        for column in ("max_abs_z", "overflow")
    )
    right = {weight: sweep(results, "accuracy", "bound_penalty", weight).median for weight in WEIGHTS["bound_penalty"]}
    text = (
        f"max|Z| {arrow(size, '{:.1f}')}, overflow {arrow(over, '{:.4f}')}, least accuracy {min(right.values()):.3f}"
    )
    before, after = (value.median for value in size)
    holds = after <= CALMED * before and over[1].median < over[0].median and min(right.values()) >= LEARNED
    return text, decide(holds, after >= before or right[STRONG_BOUND] < BOUND_COSTS)


RANK_WEIGHT = 3e-4
SPREAD_OUT = 1.25  # stable ranks
PRICE = 2  # max|Z|


@CLAIMS.state(
    topic="Penalties",
    who="paper, Figure 2",
    says="The rank penalty spreads queries and keys over more directions.",
    rule=f"Holds if the stable ranks of Qc and Kc at λ = {exponential(RANK_WEIGHT)} are at least {times(SPREAD_OUT)} those at "
    "λ = 0; fails if neither is larger.",
    jobs="rank_* kv_csq_prefix_1",
    paper=f"{PAPER_RANK[0][1]} → {PAPER_RANK[RANK_WEIGHT][1]} and {PAPER_RANK[0][2]} → {PAPER_RANK[RANK_WEIGHT][2]}",
)
def rank_penalty(results):
    ratios, texts = [], []
    for column in ("stable_rank_q", "stable_rank_k"):
        before, after = (sweep(results, column, "rank_penalty", weight) for weight in (0, RANK_WEIGHT))
        ratios.append(after.median / before.median)
        texts.append(arrow((before, after), "{:.1f}"))
    return " and ".join(texts), decide(min(ratios) >= SPREAD_OUT, max(ratios) <= 1)


@CLAIMS.state(
    topic="Penalties",
    who="paper, Figure 2",
    says="It does so at the price of larger scores.",
    rule=f"Holds if the median max|Z| at λ = {exponential(RANK_WEIGHT)} is at least {times(PRICE)} that at λ = 0; fails if it "
    "is not larger.",
    jobs="rank_* kv_csq_prefix_1",
    paper=f"{PAPER_RANK[0][0]} → {PAPER_RANK[RANK_WEIGHT][0]}",
)
def rank_penalty_price(results):
    before, after = (sweep(results, "max_abs_z", "rank_penalty", weight) for weight in (0, RANK_WEIGHT))
    return arrow((before, after), "{:.1f}"), decide(after.median >= PRICE * before.median, after.median <= before.median)
