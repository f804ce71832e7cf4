"""A softmax teacher distilled into CSQ, from `kv_retrieval --distill`."""

from .spread import spread, spreads
from .verdict import LEARNED, UNDECIDED, Claims, decide
from .wording import decimal, fixed, one_seed

CLAIMS = Claims()

PAPER_DISTILLATION = {  # loss, accuracy, relative attention error
    "none": (2.758, 0.147, 0.983),
    "kl": (0.0089, 1.000, 0.711),
    "pullback": (0.0081, 1.000, 0.648),
    "both": (0.0082, 1.000, 0.615),
}


def student_rows(results, losses):
    return results.select("kv_retrieval", losses=losses)


def student(results, losses, column):
    return spread(student_rows(results, losses), column)


AS_WELL, WORSE = 0.02, 0.1  # accuracy below KL's
BEATS = 0.2  # accuracy above labels alone


def paper_accuracy(losses):
    return fixed(PAPER_DISTILLATION[losses][1])


def paper_error(losses):
    return fixed(PAPER_DISTILLATION[losses][2])


@CLAIMS.state(
    topic="Distillation",
    who="paper, Table 4",
    says="Matching the pullback teaches a CSQ student as well as matching outputs (KL), and brings its attention nearer.",
    rule=f"Holds if the median accuracy with the pullback loss is within {decimal(AS_WELL)} of that with KL or above, its "
    f"attention error is smaller, and both beat labels alone by {decimal(BEATS)}; fails if it is {decimal(WORSE)} or more "
    f"below KL. Undecided where the teacher's own median accuracy is below {decimal(LEARNED)}.",
    jobs="distill_*",
    paper=f"{paper_accuracy('pullback')} against {paper_accuracy('kl')}, attention error {paper_error('pullback')} against "
    f"{paper_error('kl')}, labels alone {paper_accuracy('none')}",
)
def distillation(results):
    rows = {losses: student_rows(results, losses) for losses in PAPER_DISTILLATION}
    accuracies, errors = spreads(rows, "accuracy"), spreads(rows, "attention_error")
    teacher = spread(rows["none"], "teacher_accuracy")
    text = (
        ", ".join(f"{losses} {value.text('{:.3f}')}" for losses, value in accuracies.items())
        + f"; attention error {errors['pullback'].text('{:.3f}')} (pullback) against {errors['kl'].text('{:.3f}')} (KL); "
        f"teacher {teacher.text('{:.3f}')}{one_seed(teacher)}"
    )
    if not teacher.median >= LEARNED:
        return text, UNDECIDED
    right = {losses: value.median for losses, value in accuracies.items()}
    near = right["pullback"] >= right["kl"] - AS_WELL and errors["pullback"].median < errors["kl"].median
    beats = min(right["pullback"], right["kl"]) >= right["none"] + BEATS
    return text, decide(near and beats, right["pullback"] <= right["kl"] - WORSE)
