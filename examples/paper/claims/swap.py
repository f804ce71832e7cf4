"""exp replaced in a trained model, from `kernel_swap`."""

from .matching import keyed, reading
from .spread import spread, spreads
from .verdict import LEARNED, UNDECIDED, Claims, decide
from .wording import arrow, decimal, exponential, fixed, fraction, one_seed

CLAIMS = Claims()

DEGREES = (2, 8, 16, 24, 32, 48)
PAPER_SWAP = {8: (11.7, 0.192), 16: (0.166, 1.000), 24: (4.3e-4, 1.000), 32: (7.4e-6, 1.000)}  # deviation, accuracy


def swap_rows(results, mechanism, stage):
    return results.select("kernel_swap", mechanism=mechanism, stage=stage)


def swapped(results, mechanism, stage, column):
    return spread(swap_rows(results, mechanism, stage), column)


def polynomials(results):
    """Of every degree and seed, before fine-tuning."""
    rows = keyed(results.select("kernel_swap", stage="before"), "mechanism", "seed").values()
    return [row for row in rows if reading(row, "degree") > 0]


LOW, HIGH = 8, 32  # degrees
KEPT, NOT_KEPT = 0.01, 0.05  # accuracy below the teacher's
NEARER = 1e-3  # logit deviation, high degree to low

TEACHER_RULE = f"Undecided where the teacher's own is below {decimal(LEARNED)}."


@CLAIMS.state(
    topic="Replacing exp",
    who="paper, Table 2",
    says=f"At the same depth, polynomials of rising degree replace exp in a trained model: by degree {HIGH} nothing changes.",
    rule=f"Holds if degree {HIGH} keeps the teacher's median accuracy to {decimal(KEPT)} and moves the logits at most "
    f"{exponential(NEARER)} times as far as degree {LOW} does; fails if it loses more than {decimal(NOT_KEPT)} accuracy. "
    f"{TEACHER_RULE}",
    jobs="kernel_swap_*",
    paper=f"{PAPER_SWAP[LOW][0]} → {exponential(PAPER_SWAP[HIGH][0])}, accuracy {fixed(PAPER_SWAP[LOW][1])} → "
    f"{fixed(PAPER_SWAP[HIGH][1])}",
)
def same_depth_swap(results):
    names = ("softmax", f"polynomial_{LOW}", f"polynomial_{HIGH}")
    rows = {name: swap_rows(results, name, "before") for name in names}
    teacher, *right = spreads(rows, "accuracy").values()
    _, *deviation = spreads(rows, "max_logit_deviation").values()
    text = (
        f"largest logit deviation {arrow(deviation, '{:.2g}')}, accuracy {arrow(right, '{:.3f}')}; "
        f"teacher {teacher.text('{:.3f}')}"
    )
    if not teacher.median >= LEARNED:
        return text, UNDECIDED
    kept = right[1].median >= teacher.median - KEPT and deviation[1].median <= NEARER * deviation[0].median
    return text, decide(kept, right[1].median < teacher.median - NOT_KEPT)


DROPPED_IN, BROKEN = 0.05, 0.5  # accuracy below the teacher's, and share of the teacher's


def judge_drop_in(results, stage):
    rows = {"teacher": swap_rows(results, "softmax", "before"), "csq": swap_rows(results, "csq", stage)}
    teacher, ours = spreads(rows, "accuracy").values()
    text = f"{ours.text('{:.3f}')}, teacher {teacher.text('{:.3f}')}{one_seed(ours)}"
    if not teacher.median >= LEARNED:
        return text, UNDECIDED
    return text, decide(ours.median >= teacher.median - DROPPED_IN, ours.median <= (1 - BROKEN) * teacher.median)


@CLAIMS.state(
    topic="Replacing exp",
    who="asked here",
    says="CSQ is a drop-in for a trained softmax.",
    rule=f"Holds if the model keeps the teacher's median accuracy to {decimal(DROPPED_IN)} when CSQ replaces exp; fails if "
    f"{fraction(BROKEN)} of it is lost. {TEACHER_RULE}",
    jobs="kernel_swap_*",
)
def csq_drop_in(results):
    return judge_drop_in(results, "before")


@CLAIMS.state(
    topic="Replacing exp",
    who="asked here",
    says="A short fine-tuning (100 steps) makes up for the swap to CSQ.",
    rule="As above, after fine-tuning.",
    jobs="kernel_swap_*",
)
def csq_fine_tuned(results):
    return judge_drop_in(results, "after")
