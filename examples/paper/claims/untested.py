"""What the runs say nothing about."""

from . import matrix_units

MATRIX_UNITS = "matrix units: what the O(n·d³) form gains or loses on hardware that multiplies matrices in one instruction"

NOT_TESTED = (
    "random projections of the features, and other ways to a smaller D",
    MATRIX_UNITS,
    "other β, scales and centrings than those named above, and more than one seed of the penalties, distillation, swap and "
    "small embeddings",
    "language modelling beyond minutes of training on one core: one small text, one size, one kind of gate, positions by rotation before rows are centred or mapped",
    "a layer's attention beyond 16k tokens: scaled, not timed",
    "retrieval on sequences longer than D, where the summary pays: that task has 64 tokens, D is 561 (the language model's "
    "context is 512 bytes and its D 153)",
    "more steps, other rates and widths: one recipe for every mechanism, so that what does not learn has not learned in "
    "so many steps",
    "the backward pass of a whole layer, decode, grouped heads, GPUs",
    "times on processors other than those named at the end, and on more than one thread",
)


def not_tested(results):
    """As far as the runs that are there have not tested it."""
    return [what for what in NOT_TESTED if what is not MATRIX_UNITS or not matrix_units.is_decided(results)]
