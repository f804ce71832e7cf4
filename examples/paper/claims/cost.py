"""What attention costs, one head and a whole layer, from `cost`."""

import math
from typing import NamedTuple

from .matching import grid, matched, positive, reading
from .results import Missing, Unmatched
from .verdict import Claims, decide
from .wording import decimal, fraction, kilo

CLAIMS = Claims()


class Timing(NamedTuple):
    milliseconds: float
    method: str


STEPS = ("forward", "forward+backward")


def head_rows(results, part, step):
    return results.select("cost", experiment="head", part=part, **{"pass": step})


def head_times(results, part, step):
    """{(key_dim, causal): {tokens: Timing}}: every head size and mask at the same lengths."""
    rows = grid(head_rows(results, part, step), "key_dim", "causal", "tokens", name=f"{part}, {step}")
    times = {}
    for (dim, causal, tokens), row in rows.items():
        times.setdefault((dim, causal), {})[tokens] = Timing(positive(row, "milliseconds"), row["method"])
    return times


def head_times_of(results, *parts_and_steps):
    """The times of several parts and steps, which have the same head sizes, masks and lengths."""
    matched(
        {f"{part}, {step}": head_rows(results, part, step) for part, step in parts_and_steps},
        "key_dim",
        "causal",
        "tokens",
    )
    return [head_times(results, part, step) for part, step in parts_and_steps]


# --- exponents --------------------------------------------------------------------------------------------------------

LINEAR, NOT_LINEAR = 1.15, 1.5  # exponents of time in n
CUBIC, NOT_CUBIC = 3.3, 4  # and in d
SPAN = 4  # the longest length against one so many times shorter
LEAST_DIM = 32


def growth_exponents(times, method, forward):
    """Of time with n between the longest length and a part of it, wherever the `forward` call is made by `method` at both
    (a backward always is): 1 is linear, 2 quadratic."""
    exponents = []
    for key, at in times.items():
        longest = max(at)
        shorter = longest // SPAN
        if shorter not in at:
            raise Unmatched(f"cost: no row of tokens {shorter}, {fraction(1 / SPAN)} of the longest")
        if forward[key][shorter].method == forward[key][longest].method == method:
            exponents.append(math.log(at[longest].milliseconds / at[shorter].milliseconds, SPAN))
    if not exponents:
        raise Missing("two lengths by one method")
    return exponents


def dimension_exponents(times, method):
    """Of time with d, between neighbouring head sizes from LEAST_DIM on, at the longest length."""
    exponents = []
    for (dim, causal), at in times.items():
        larger = times.get((2 * dim, causal))
        if dim >= LEAST_DIM and larger and at[max(at)].method == larger[max(at)].method == method:
            exponents.append(math.log2(larger[max(at)].milliseconds / at[max(at)].milliseconds))
    if not exponents:
        raise Missing("two head sizes by one method")
    return exponents


def judge_linear_cost(results, step):
    factored, forward, softmax, softmax_forward = head_times_of(
        results, ("csq", step), ("csq", "forward"), ("softmax", step), ("softmax", "forward")
    )
    tokens, dims = growth_exponents(factored, "factored", forward), dimension_exponents(factored, "factored")
    quadratic = growth_exponents(softmax, "direct", softmax_forward)
    left_out = sorted(set(growth_exponents(factored, "factored", factored)) - set(tokens))
    others = f"; not counted: {', '.join(f'n^{exponent:.2f}' for exponent in left_out)}" if left_out else ""
    text = (
        f"time ∝ n^{min(tokens):.2f} to n^{max(tokens):.2f} ({len(tokens)} of {len(factored)} head sizes and masks{others}) "
        f"and d^{min(dims):.2f} to d^{max(dims):.2f}; softmax: n^{min(quadratic):.2f} to "
        f"n^{max(quadratic):.2f}"
    )
    holds = max(tokens) <= LINEAR and max(dims) <= CUBIC
    return text, decide(holds, max(tokens) >= NOT_LINEAR or max(dims) >= NOT_CUBIC)


COST_RULE = (
    f"Holds if the measured exponents of time are at most {decimal(LINEAR)} in n (longest length against "
    f"{fraction(1 / SPAN)} of it) and at most {decimal(CUBIC)} in d (neighbouring head sizes from {LEAST_DIM} on), for every "
    "head size and mask whose forward call reads the summary at both lengths (shorter causal ones are served directly, in "
    f"O(n²·d)); fails if one is {decimal(NOT_LINEAR)} or more in n, or {decimal(NOT_CUBIC)} or more in d."
)


@CLAIMS.state(
    topic="Cost",
    who="paper",
    says="Degree-2 attention costs O(n·d³).",
    rule=COST_RULE,
    jobs="cost",
    paper="O(n·d³)",
)
def forward_cost(results):
    return judge_linear_cost(results, "forward")


@CLAIMS.state(
    topic="Cost",
    who="paper",
    says="So does training with it: forward and backward are O(n·d³).",
    rule=COST_RULE,
    jobs="cost",
    paper="O(n·d³)",
)
def training_cost(results):
    return judge_linear_cost(results, "forward+backward")


# --- crossovers -------------------------------------------------------------------------------------------------------

LATE, EARLY = 4, 1  # crossovers, in d²


def squares(count):
    return "d²" if count == 1 else f"{decimal(count)}·d²"


def crossover(softmax, factored):
    """(length from which the factored form stays faster, whether that is only an upper bound): by interpolation in the
    logarithms, and an upper bound where it is faster at the first length that reads the summary; None if it never is."""
    lengths = sorted(n for n in factored if factored[n].method == "factored")
    faster = [math.log(softmax[n].milliseconds / factored[n].milliseconds) for n in lengths]
    if not lengths or faster[-1] <= 0:
        return None
    first = next((i for i in range(len(lengths) - 1, -1, -1) if faster[i] <= 0), -1) + 1
    if first == 0:
        return float(lengths[0]), True
    share = -faster[first - 1] / (faster[first] - faster[first - 1])
    return lengths[first - 1] * (lengths[first] / lengths[first - 1]) ** share, False


def crossovers(results):
    """{(key_dim, causal, pass): (tokens, whether an upper bound) or None}"""
    found = {}
    for step in STEPS:
        softmax, factored = head_times_of(results, ("softmax", step), ("csq", step))
        for key in factored:
            found[(*key, step)] = crossover(softmax[key], factored[key])
    return found


def speed_at_square(results):
    """{(pass, causal): softmax's time over CSQ's at n = d², for each d}; by whatever method CSQ is served there."""
    found = {}
    for step in STEPS:
        softmax, ours = head_times_of(results, ("softmax", step), ("csq", step))
        for (dim, causal), at in ours.items():
            n = dim**2
            if n in at:
                ratio = softmax[dim, causal][n].milliseconds / at[n].milliseconds
                found.setdefault((step, causal), []).append(ratio)
    return dict(sorted(found.items()))


@CLAIMS.state(
    topic="Cost",
    who="critics",
    says="It wins only for n ≫ d².",
    rule=f"Holds if every measured crossover is at {squares(LATE)} or beyond (or is not reached); fails if one is at "
    f"{squares(EARLY)} or before.",
    jobs="cost",
)
def wins_only_late(results):
    found = crossovers(results)
    ratios = [at[0] / dim**2 if at else math.inf for (dim, _, _), at in found.items()]
    known = [ratio for ratio in ratios if ratio < math.inf]
    text = f"{len(known)} of {len(ratios)} crossovers reached"
    if known:
        text += f", at {min(known):.2f}·d² to {max(known):.2f}·d², upper bounds among them"
    text += "; times as fast as softmax at n = d²: " + ", ".join(
        f"{min(at):.2f} to {max(at):.2f} ({'causal' if causal else 'full'}, {step.replace('+', ' and ')})"
        for (step, causal), at in speed_at_square(results).items()
    )
    return text, decide(min(ratios) >= LATE, min(ratios) <= EARLY)


USUAL_DIM, USUAL_TOKENS = 128, 2048


@CLAIMS.state(
    topic="Cost",
    who="critics",
    says=f"At the usual d = {USUAL_DIM} and n = {USUAL_TOKENS}, softmax is faster.",
    rule="Holds if softmax's full forward takes less time there than factored CSQ's; fails otherwise.",
    jobs="cost",
)
def softmax_faster_at_usual_size(results):
    softmax, ours = head_times_of(results, ("softmax", "forward"), ("csq", "forward"))
    full, causal = (USUAL_DIM, 0), (USUAL_DIM, 1)
    if USUAL_TOKENS not in ours.get(full, {}):
        raise Missing(f"d = {USUAL_DIM}, n = {USUAL_TOKENS}")
    slower = ours[full][USUAL_TOKENS].milliseconds / softmax[full][USUAL_TOKENS].milliseconds
    text = f"factored CSQ takes {slower:.2f} times softmax's time"
    if causal in ours and ours[causal][USUAL_TOKENS].method == "direct":
        ratio = ours[causal][USUAL_TOKENS].milliseconds / softmax[causal][USUAL_TOKENS].milliseconds
        text += f" (under a causal mask csq serves it directly: {ratio:.2f})"
    return text, decide(slower > 1, True)


# --- a whole layer ----------------------------------------------------------------------------------------------------

LAYER_PARTS = ("projections", "feed_forward", "softmax", "csq")
LAYER_TOKENS = 128 * 1024
PAYS, PAYS_NOT = 2, 1.1  # how many times as fast with CSQ


class LayerPart(NamedTuple):
    milliseconds: float
    measured: bool  # or scaled
    method: str


def layer_budget(results):
    """{tokens: {part: LayerPart}}: every part at the same lengths."""
    rows = {part: results.select("cost", experiment="layer", part=part) for part in LAYER_PARTS}
    return {
        tokens: {
            part: LayerPart(positive(row, "milliseconds"), reading(row, "measured") == 1, row["method"])
            for part, row in at.items()
        }
        for (tokens,), at in matched(rows, "tokens").items()
    }


def layer_speed_up(at):
    rest = at["projections"].milliseconds + at["feed_forward"].milliseconds
    return (rest + at["softmax"].milliseconds) / (rest + at["csq"].milliseconds)


@CLAIMS.state(
    topic="Cost",
    who="critics",
    says="At d = 4096 an O(n·d³) method is hopeless. (Of the layer's d_model; heads have d = 128.)",
    rule=f"Fails if at {kilo(LAYER_TOKENS)} tokens the forward pass of a whole causal layer (projections, feed forward, 32 "
    f"heads of 128; attention scaled from 16k) runs {decimal(PAYS)} or more times as fast with CSQ as with softmax; holds if "
    f"less than {decimal(PAYS_NOT)} times.",
    jobs="cost",
)
def hopeless_at_model_width(results):
    ratios = {n: layer_speed_up(at) for n, at in layer_budget(results).items()}
    if LAYER_TOKENS not in ratios:
        raise Missing(f"a layer at {kilo(LAYER_TOKENS)} tokens")
    text = "forward with CSQ is " + ", ".join(f"{ratio:.2f} times as fast at {kilo(n)}" for n, ratio in ratios.items())
    return text, decide(ratios[LAYER_TOKENS] < PAYS_NOT, ratios[LAYER_TOKENS] >= PAYS)
