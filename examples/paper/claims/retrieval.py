"""Key-value retrieval, from `kv_retrieval`: a transformer by one recipe, with one mechanism and one centring."""

from .results import NOT_RUN, Missing, described
from .spread import spread, spreads
from .verdict import LEARNED, LOST, Claims, decide
from .wording import arrow, decimal, fixed

CLAIMS = Claims()

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
    chosen = {"mechanism": mechanism, "centering": allowed}
    try:
        return results.select("kv_retrieval", **chosen, **{**RECIPE, **wanted})
    except Missing as missing:
        if str(missing) == NOT_RUN:
            raise
        raise Missing(f"kv_retrieval by the recipe with {described({**chosen, **wanted})}") from None


def accuracy(results, *which, **wanted):
    return spread(retrieval(results, *which, **wanted), "accuracy")


PAPER_TABLE3 = {  # loss, accuracy, max|Z|
    "softmax": (0.0008, 1.000, 42.3),
    "squared": (2.52, 0.145, 55.3),
    "shifted": (2.52, 0.147, 66.3),
    "csq": (0.0004, 1.000, 18.0),
    "hybrid": (0.0004, 1.000, 25.8),
}


def paper_accuracies(*names):
    return ", ".join(fixed(PAPER_TABLE3[name][1]) for name in names)


NEAR, FAR = 0.1, 0.3  # from the paper's accuracies


@CLAIMS.state(
    topic="Retrieval",
    who="paper, Table 3",
    says="Table 3's accuracies: softmax, CSQ and the hybrid solve key-value retrieval; the raw and the shifted square without "
    "centring do not.",
    rule=f"Holds if each of the five median accuracies is within {NEAR} of the paper's; fails if one is further than {FAR} "
    "away.",
    jobs="kv_*",
    paper=paper_accuracies("softmax", "csq", "hybrid", "squared", "shifted"),
)
def table3(results):
    ours = spreads({name: retrieval(results, name) for name in PAPER_TABLE3}, "accuracy")
    distance = max(abs(ours[name].median - PAPER_TABLE3[name][1]) for name in PAPER_TABLE3)
    text = ", ".join(f"{name} {value.text('{:.3f}')}" for name, value in ours.items())
    return text, decide(distance <= NEAR, distance > FAR)


LINEAR_LEARNED = 0.9


@CLAIMS.state(
    topic="Retrieval",
    who="paper",
    says="Linear attention loses matching.",
    rule=f"Holds if the median accuracy of linear attention is at most {decimal(LOST)} while softmax's is at least "
    f"{decimal(LEARNED)}; fails if linear attention reaches {decimal(LINEAR_LEARNED)}.",
    jobs="kv_linear_* kv_softmax_*",
)
def linear_loses(results):
    both = spreads({name: retrieval(results, name) for name in ("linear", "softmax")}, "accuracy")
    linear, softmax = both.values()
    text = f"linear {linear.text('{:.3f}')}, softmax {softmax.text('{:.3f}')}"
    return text, decide(linear.median <= LOST and softmax.median >= LEARNED, linear.median >= LINEAR_LEARNED)


@CLAIMS.state(
    topic="Retrieval",
    who="paper",
    says="Degree 2 keeps it: CSQ matches as softmax does.",
    rule=f"Holds if CSQ's median accuracy is at least {decimal(LEARNED)}; fails at or below {decimal(LOST)}.",
    jobs="kv_csq_*",
    paper=paper_accuracies("csq"),
)
def degree_two_keeps(results):
    ours = accuracy(results, "csq")
    return ours.text("{:.3f}"), decide(ours.median >= LEARNED, ours.median <= LOST)


@CLAIMS.state(
    topic="Retrieval",
    who="asked here",
    says="Degree 2 alone is enough, without centring.",
    rule="Holds if the median accuracies of the raw and the shifted square without centring are at least "
    f"{decimal(LEARNED)}; fails if both are at most {decimal(LOST)}.",
    jobs="kv_squared_none_* kv_shifted_none_*",
    paper=paper_accuracies("squared", "shifted"),
)
def degree_two_alone(results):
    squared, shifted = spreads({name: retrieval(results, name) for name in ("squared", "shifted")}, "accuracy").values()
    both = (squared.median, shifted.median)
    text = f"squared {squared.text('{:.3f}')}, shifted {shifted.text('{:.3f}')}"
    return text, decide(min(both) >= LEARNED, max(both) <= LOST)


GAIN = 0.2


@CLAIMS.state(
    topic="Retrieval",
    who="paper, §8",
    says="Centring stabilises degree-2 attention: it learns, with smaller scores.",
    rule=f"Holds if prefix centring raises the median accuracy by {decimal(GAIN)} or more and lowers the median max|Z|, for "
    "the raw and the shifted square both; fails if it does neither for either.",
    jobs="kv_squared_* kv_shifted_* kv_csq_*",
    paper=f"accuracy {fixed(PAPER_TABLE3['shifted'][1])} → {fixed(PAPER_TABLE3['csq'][1])}, max|Z| "
    f"{PAPER_TABLE3['shifted'][2]} → {PAPER_TABLE3['csq'][2]} (shifted)",
)
def centring_stabilises(results):
    texts, gained, calmed = [], [], []
    for name in ("squared", "shifted"):
        sides = {
            f"{name}, {centering} centring": retrieval(results, name, centering) for centering in ("none", "prefix")
        }
        gain = [*spreads(sides, "accuracy").values()]
        size = [*spreads(sides, "max_abs_z").values()]
        texts.append(f"{name}: accuracy {arrow(gain, '{:.3f}')}, max|Z| {arrow(size, '{:.1f}')}")
        gained.append(gain[1].median - gain[0].median >= GAIN)
        calmed.append(size[1].median < size[0].median)
    return "; ".join(texts), decide(all(gained) and all(calmed), not any(gained) and not any(calmed))
