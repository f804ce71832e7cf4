"""What a matrix unit makes of the crossover, from `cost --dtype bfloat16`: one head in bfloat16 beside float, of one run.

The softmax that factored CSQ is compared with is the faster one of csq's and PyTorch's at each length; csq's alone where
PyTorch was not timed.
"""

from typing import NamedTuple

from .cost import Timing, crossover
from .matching import keyed, matched, positive, reading
from .results import Missing, NoNumber, Unmatched
from .verdict import FAILS, HOLDS, PARTLY, Claims
from .wording import listed, times

CLAIMS = Claims()

SIXTEEN, FLOAT = "bfloat16", "float"
OURS, PEER, FACTORED, DIRECT = "softmax", "softmax_torch", "csq", "csq_direct"


class Head(NamedTuple):
    """In one type: {tokens: Timing} of the fastest softmax and of factored CSQ, and which softmaxes were timed."""

    softmax: dict
    factored: dict
    parts: tuple

    @property
    def crossover(self):
        return crossover(self.softmax, self.factored)

    @property
    def longest(self):
        return max(self.factored)


def rows_of(results, **wanted):
    try:
        return results.select("cost", experiment="dtypes", **wanted)
    except Missing:
        if not any(row.get("experiment") == "dtypes" for row in results.rows):
            raise Missing() from None
        raise


def rows_or_none(results, **wanted):
    try:
        return rows_of(results, **wanted)
    except Missing:
        return []


def head(results, dtype, dim, causal, step):
    """Both sides at the same lengths."""
    which = {"dtype": dtype, "key_dim": dim, "causal": causal, "pass": step, "threads": 1}
    sides = {part: rows_of(results, part=part, **which) for part in (OURS, FACTORED)}
    if rows_or_none(results, part=PEER, dtype=dtype):
        sides[PEER] = rows_of(results, part=PEER, **which)
    # The factored form in both types besides, so that a length that one of them lacks is said.
    other = {**which, "dtype": FLOAT if dtype == SIXTEEN else SIXTEEN}
    sides[f"{FACTORED}, {other['dtype']}"] = rows_of(results, part=FACTORED, **other)
    at = matched({f"{name}, {dtype}" if "," not in name else name: rows for name, rows in sides.items()}, "tokens")

    def timing(row):
        return Timing(positive(row, "milliseconds"), row["method"])

    softmaxes = tuple(part for part in (OURS, PEER) if part in sides)
    fastest = {
        n: min((timing(at_n[f"{part}, {dtype}"]) for part in softmaxes), key=lambda one: one.milliseconds)
        for (n,), at_n in at.items()
    }
    return Head(fastest, {n: timing(at_n[f"{FACTORED}, {dtype}"]) for (n,), at_n in at.items()}, softmaxes)


def unit_in_use(results):
    """Whether every call of csq in bfloat16 ran on a matrix unit."""
    return all(reading(row, "matrix_unit") == 1 for row in rows_of(results, dtype=SIXTEEN, library="csq"))


def heads_measured(results):
    """[(key_dim, causal, pass)], as they are in the report."""
    rows = rows_of(results, part=FACTORED, dtype=SIXTEEN)
    return sorted({(row["pass"], reading(row, "causal"), reading(row, "key_dim")) for row in rows})


def peer_versions(results):
    return sorted({row["library"] for row in rows_or_none(results, part=PEER)})


def longest_times(results, dim, causal, step):
    """(tokens, {(part, dtype): milliseconds}) at the longest length; PyTorch's where it was timed."""
    rows = keyed(
        rows_of(results, key_dim=dim, causal=causal, threads=1, **{"pass": step}),
        "part",
        "dtype",
        "tokens",
        name=f"d = {dim}, {'causal' if causal else 'full'}, {step}",
    )
    longest = max(tokens for _, _, tokens in rows)
    at = {(part, dtype): positive(row, "milliseconds") for (part, dtype, n), row in rows.items() if n == longest}
    for part, dtype in ((OURS, SIXTEEN), (FACTORED, SIXTEEN), (DIRECT, SIXTEEN), (OURS, FLOAT), (FACTORED, FLOAT)):
        if (part, dtype) not in at:
            raise Unmatched(f"{part}, {dtype}: no row of tokens {longest}")
    return longest, at


def is_decided(results):
    """Whether the runs say something of matrix units."""
    try:
        judge(results)
    except NoNumber:
        return False
    return True


def crossover_text(at, dim):
    if at is None:
        return "not reached"
    tokens, is_bound = at
    return f"{'≤ ' if is_bound else ''}{tokens:.0f} tokens, {tokens / dim**2:.2f}·d²"


DIMS = (32, 64)
LONGEST = 8192
LATER = 2  # crossover in bfloat16 over that in float


def judge(results):
    heads = {dim: [head(results, dtype, dim, 0, "forward") for dtype in (SIXTEEN, FLOAT)] for dim in DIMS}
    if not unit_in_use(results):
        raise NoNumber("no matrix unit was in use")
    faster = soon = 0
    words = []
    for dim, (sixteen, single) in heads.items():
        here, there = sixteen.crossover, single.crossover
        if here is None and sixteen.longest < LONGEST:
            raise Missing(f"d = {dim} beyond {sixteen.longest} tokens")
        wins = [n for n in sixteen.factored if sixteen.factored[n].milliseconds < sixteen.softmax[n].milliseconds]
        faster += any(n <= LONGEST for n in wins)
        text = f"d = {dim}: {crossover_text(here, dim)} (float: {crossover_text(there, dim)}"
        if here and there:
            # Where float crosses before the shortest length, only what does so too is known to be soon enough.
            soon += here[0] <= LATER * there[0] and (here[1] or not there[1])
            text += f"; {here[0] / there[0]:.2f} times it"
        words.append(text + ")")
    against = "csq's own softmax alone" if heads[DIMS[0]][0].parts == (OURS,) else "the faster of csq's and PyTorch's softmax"
    text = f"crossover in {SIXTEEN} against {against}, " + "; ".join(words)
    return text, HOLDS if not faster else FAILS if soon == len(DIMS) else PARTLY


@CLAIMS.state(
    topic="Cost",
    who="critics",
    says="Matrix units make softmax win anyway.",
    rule=f"With all arrays in {SIXTEEN} on a matrix unit, forward, full attention, one head, one thread, d = {listed(DIMS)}, "
    "against the fastest softmax there is (at each length the faster of csq's own and PyTorch's; csq's alone where PyTorch "
    f"was not timed, which is said): holds if factored CSQ is nowhere faster up to {LONGEST:,} tokens; fails if for every such "
    f"d it crosses over at no more than {times(LATER)} the length where {FLOAT} does on the same machine in the same run; "
    "holds in part otherwise. Undecided where no matrix unit was in use.",
    jobs="cost_bf16",
)
def softmax_wins_on_matrix_units(results):
    return judge(results)
