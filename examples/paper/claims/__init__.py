"""The claims of the paper and of its critics, each with the rule that decides it: a module a subject.

A claim says what is claimed, by whom, the paper's number, the runs that test it and, in words and as a function of the
runs' CSV files, when it holds and when it fails. What is neither, or lacks its data, is undecided. The rules look at
nothing but the CSV files; report.py prints them with their verdicts, and says which were written when.

    results = Results.read("examples/paper/results")
    for claim in CLAIMS: ours, verdict = claim.judge(results)

"Median" is over seeds wherever there are several. What a rule compares has the same seeds, heads or lengths: a row that
lacks its partner, or that is there twice, leaves the claim undecided, and is named (matching.py). A threshold is a
constant, from which its rule's words are made (wording.py).
"""

from . import (
    capacity,
    controls,
    cost,
    depth,
    distillation,
    language,
    matrix_units,
    real_heads,
    retrieval,
    swap,
    sweeps,
    theorems,
)
from .results import Results

CLAIMS = [
    claim
    for subject in (
        theorems,
        cost,
        matrix_units,
        retrieval,
        controls,
        sweeps,
        distillation,
        swap,
        capacity,
        depth,
        language,
        real_heads,
    )
    for claim in subject.CLAIMS
]
