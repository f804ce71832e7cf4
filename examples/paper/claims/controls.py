"""Why it learns, from `kv_retrieval`: the weight, the shift or the centring?"""

from .retrieval import accuracy, retrieval
from .spread import spreads
from .verdict import LEARNED, LOST, Claims, decide
from .wording import decimal, one_seed

CLAIMS = Claims()

SMALL_EMBEDDING = 0.02  # standard deviation


@CLAIMS.state(
    topic="Why",
    who="control",
    says="Prefix centring alone is what solves the task: linear attention with it does too.",
    rule=f"Holds if linear attention with prefix centring has a median accuracy of at least {decimal(LEARNED)}; fails at or "
    f"below {decimal(LOST)}.",
    jobs="kv_linear_prefix_*",
)
def centring_alone(results):
    ours = accuracy(results, "linear", "prefix")
    return ours.text("{:.3f}"), decide(ours.median >= LEARNED, ours.median <= LOST)


@CLAIMS.state(
    topic="Why",
    who="control",
    says="The shift is needed: centred, the raw square does not solve the task.",
    rule=f"Holds if the raw square with prefix centring has a median accuracy of at most {decimal(LOST)} while CSQ reaches "
    f"{decimal(LEARNED)}; fails if it reaches {decimal(LEARNED)} itself.",
    jobs="kv_squared_prefix_* kv_csq_*",
)
def shift_is_needed(results):
    sides = {"squared, prefix centring": retrieval(results, "squared", "prefix"), "CSQ": retrieval(results, "csq")}
    squared, ours = spreads(sides, "accuracy").values()
    text = f"squared with prefix centring {squared.text('{:.3f}')}, CSQ {ours.text('{:.3f}')}"
    return text, decide(squared.median <= LOST and ours.median >= LEARNED, squared.median >= LEARNED)


@CLAIMS.state(
    topic="Why",
    who="control",
    says=f"Centring also mixes neighbours: with small embeddings, N(0, {decimal(SMALL_EMBEDDING)}²), softmax learns with "
    "prefix centring and not without.",
    rule=f"Holds if softmax's median accuracy is at most {decimal(LOST)} without and at least {decimal(LEARNED)} with prefix "
    f"centring; fails if it reaches {decimal(LEARNED)} without, or stays at or below {decimal(LOST)} with it.",
    jobs="small_softmax_*",
)
def centring_mixes(results):
    sides = {
        f"softmax, {centering} centring": retrieval(results, "softmax", centering, embedding_scale=SMALL_EMBEDDING)
        for centering in ("none", "prefix")
    }
    without, with_it = spreads(sides, "accuracy").values()
    text = f"without {without.text('{:.3f}')}, with {with_it.text('{:.3f}')}{one_seed(without, with_it)}"
    holds = without.median <= LOST and with_it.median >= LEARNED
    return text, decide(holds, without.median >= LEARNED or with_it.median <= LOST)
