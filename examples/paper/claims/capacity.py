"""How much one attention layer recalls, from `capacity`: pairs against D, and head sizes at equal width."""

from .matching import matched, positive
from .results import Missing
from .spread import spread, spreads
from .verdict import LOST, Claims, decide
from .wording import decimal, listed

CLAIMS = Claims()

MECHANISMS = ("softmax", "csq", "squared", "linear", "linear_equal_state")
DIMS = (4, 8, 16)
RATIOS = (0.25, 0.5, 1, 2, 4)  # pairs/D
RATIO_TOLERANCE = 0.2  # pairs are whole numbers, so a ratio is met as nearly as they allow

RECALLED = 0.9  # accuracy
NEAR, BELOW = 0.05, 0.2  # accuracies beside CSQ's
AT_DIMS = f"for d = {listed(DIMS)}"


def recall_rows(results, mechanism, dim, ratio):
    rows = [
        row
        for row in results.select("capacity", experiment="recall", mechanism=mechanism, head_size=dim)
        if abs(positive(row, "pairs_over_features") / ratio - 1) < RATIO_TOLERANCE
    ]
    if not rows:
        raise Missing(f"capacity with mechanism {mechanism}, d = {dim}, pairs/D = {ratio}")
    return rows


def recall(results, mechanism, dim, ratio, column="accuracy"):
    return spread(recall_rows(results, mechanism, dim, ratio), column)


def recall_speed_up(results, dim, ratio):
    """Softmax's time over CSQ's, seed by seed: both of one run of one machine."""
    rows = {name: recall_rows(results, name, dim, ratio) for name in ("softmax", "csq")}
    return spread(
        [
            {"seed": seed, "ratio": positive(at["softmax"], "attention_us") / positive(at["csq"], "attention_us")}
            for (seed,), at in matched(rows, "seed").items()
        ],
        "ratio",
    )


def recall_beside(results, other):
    """(text, [(CSQ's median accuracy, the other's)]) at D pairs, for each d."""
    texts, pairs = [], []
    for dim in DIMS:
        rows = {name: recall_rows(results, name, dim, 1) for name in ("csq", other)}
        ours, theirs = spreads(rows, "accuracy").values()
        texts.append(f"d = {dim}: CSQ {ours.text('{:.3f}')}, linear {theirs.text('{:.3f}')}")
        pairs.append((ours.median, theirs.median))
    return "; ".join(texts), pairs


@CLAIMS.state(
    topic="Capacity",
    who="asked here",
    says="A degree-2 summary holds about D = (d+1)(d+2)/2 pairs where a linear one of the same d loses them.",
    rule=f"Holds if at D pairs CSQ's median accuracy is at least {decimal(RECALLED)} and linear attention's at most "
    f"{decimal(LOST)}, {AT_DIMS}; fails if for one d linear attention comes within {decimal(NEAR)} of CSQ.",
    jobs="capacity_recall_*",
)
def capacity(results):
    text, pairs = recall_beside(results, "linear")
    holds = all(ours >= RECALLED and linear <= LOST for ours, linear in pairs)
    return text, decide(holds, any(linear >= ours - NEAR for ours, linear in pairs))


@CLAIMS.state(
    topic="Capacity",
    who="asked here",
    says="At equal state bytes, linear attention does as well as CSQ.",
    rule=f"Holds if at D pairs linear attention with as large a state comes within {decimal(NEAR)} of CSQ's median accuracy "
    f"{AT_DIMS}; fails if it is {decimal(BELOW)} or more below for all three.",
    jobs="capacity_recall_*",
)
def equal_state(results):
    text, pairs = recall_beside(results, "linear_equal_state")
    holds = all(linear >= ours - NEAR for ours, linear in pairs)
    return text, decide(holds, all(linear <= ours - BELOW for ours, linear in pairs))


MANY = max(RATIOS)  # pairs/D


@CLAIMS.state(
    topic="Capacity",
    who="asked here",
    says=f"Where CSQ is the faster one ({MANY}·D pairs, {2 * MANY}·D tokens), it still recalls.",
    rule=f"Holds if at {MANY}·D pairs CSQ's attention call takes less time than softmax's (median over seeds of the ratio) "
    f"and its median accuracy is at least {decimal(RECALLED)}, {AT_DIMS}; fails if the accuracy is at most {decimal(LOST)} for "
    "all three.",
    jobs="capacity_recall_*",
)
def recall_where_faster(results):
    texts, holds, lost = [], [], []
    for dim in DIMS:
        right, ratio = recall(results, "csq", dim, MANY), recall_speed_up(results, dim, MANY)
        texts.append(f"d = {dim}: {right.text('{:.3f}')}, {ratio.text('{:.1f}')} times as fast as softmax")
        holds.append(right.median >= RECALLED and ratio.median > 1)
        lost.append(right.median <= LOST)
    return "; ".join(texts), decide(all(holds), all(lost))


EPISODES = ("softmax", "csq", "linear", "gated_softmax", "gated_csq", "gated_linear", "csq_alone", "linear_alone")


def overwritten(results, name, dim):
    return results.select("capacity", experiment="episodes", mechanism=name, head_size=dim)


def overwritten_beside(results, *names):
    """(text, [the median accuracy of each]) for each d."""
    texts, medians = [], []
    for dim in DIMS:
        at = spreads({name: overwritten(results, name, dim) for name in names}, "accuracy")
        texts.append(f"d = {dim}: " + ", ".join(f"{n.replace('_', ' ')} {v.text('{:.3f}')}" for n, v in at.items()))
        medians.append([value.median for value in at.values()])
    return "; ".join(texts), medians


@CLAIMS.state(
    topic="Capacity",
    who="asked here",
    says="A gate that is told where an episode begins learns to forget the ones before: gated CSQ recalls the last as if there "
    "had been no other.",
    rule="The same keys, overwritten by every episode. Holds if gated CSQ's median accuracy comes within "
    f"{decimal(NEAR)} of CSQ's with the last episode alone, {AT_DIMS}; fails if for one d it is {decimal(BELOW)} or more below.",
    jobs="capacity_episodes_*",
)
def gate_forgets(results):
    text, medians = overwritten_beside(results, "csq_alone", "gated_csq", "csq")
    holds = all(gated >= alone - NEAR for alone, gated, _ in medians)
    return text, decide(holds, any(gated <= alone - BELOW for alone, gated, _ in medians))


@CLAIMS.state(
    topic="Capacity",
    who="asked here",
    says="A gate is no capacity: with one, linear attention still loses pairs that CSQ keeps.",
    rule=f"The same runs. Holds if gated linear attention's median accuracy is {decimal(BELOW)} or more below gated CSQ's and "
    f"within {decimal(NEAR)} of linear attention's with the last episode alone (its gate has learned), {AT_DIMS}; fails if for "
    f"one d it comes within {decimal(NEAR)} of gated CSQ's.",
    jobs="capacity_episodes_*",
)
def gate_is_no_capacity(results):
    text, medians = overwritten_beside(results, "gated_csq", "gated_linear", "linear_alone")
    holds = all(linear <= ours - BELOW and linear >= alone - NEAR for ours, linear, alone in medians)
    return text, decide(holds, any(linear >= ours - NEAR for ours, linear, _ in medians))


WIDTH = 64
HEAD_SIZES = (8, 16, 32, WIDTH)
SMALL_HEAD = min(HEAD_SIZES)
EXTRACT_LITTLE, EXTRACT_ALL = 0.8, 0.02  # share of one head's accuracy, and accuracy below it


def head_size_rows(results, mechanism, dim):
    return results.select("capacity", experiment="head_size", mechanism=mechanism, head_size=dim)


def head_size(results, mechanism, dim, column):
    return spread(head_size_rows(results, mechanism, dim), column)


@CLAIMS.state(
    topic="Capacity",
    who="critics",
    says="Small heads, where O(n·d³) is cheap, extract little.",
    rule=f"At a width of {WIDTH} in all: holds if the median accuracy of CSQ with heads of {SMALL_HEAD} is at most "
    f"{decimal(EXTRACT_LITTLE)} of that with one head of {WIDTH}; fails if it is within {decimal(EXTRACT_ALL)} of it or "
    "above.",
    jobs="capacity_head_size_*",
)
def small_heads(results):
    rows = {f"heads of {dim}": head_size_rows(results, "csq", dim) for dim in (SMALL_HEAD, WIDTH)}
    small, large = spreads(rows, "accuracy").values()
    cost = [value.median for value in spreads(rows, "multiply_adds").values()]
    text = (
        f"heads of {SMALL_HEAD}: {small.text('{:.3f}')}, one of {WIDTH}: {large.text('{:.3f}')}, at "
        f"{cost[1] / cost[0]:.1f} times the multiply-adds"
    )
    return text, decide(small.median <= EXTRACT_LITTLE * large.median, small.median >= large.median - EXTRACT_ALL)
