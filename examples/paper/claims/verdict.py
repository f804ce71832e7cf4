"""What every subject shares: what a claim is, how it is judged, and the thresholds that several subjects mean alike."""

from typing import Callable, NamedTuple

from .results import NoNumber

HOLDS, FAILS, UNDECIDED = "holds", "fails", "undecided"
PARTLY = "holds in part"  # where a rule says what that is

LEARNED = 0.95  # accuracy: a task is learned from here on, and a teacher below it teaches nothing
LOST = 0.5  # and not learned up to here
NUMERICAL_RANK = 1e-10  # singular values above this share of the largest count


def decide(holds, fails):
    return HOLDS if holds else FAILS if fails else UNDECIDED


class Claim(NamedTuple):
    topic: str
    who: str
    says: str
    paper: str  # the paper's number, or a dash
    jobs: str  # of run.sh, space-separated patterns
    rule: str
    function: Callable

    def judge(self, results):
        """(ours, verdict); what the rule lacks is said instead of a number."""
        try:
            return self.function(results)
        except NoNumber as lack:
            return str(lack), UNDECIDED


class Claims(list):
    """The claims of a subject, in the order in which they are stated."""

    def state(self, *, topic, who, says, rule, jobs, paper="–"):
        """Decorates the function of Results that judges the claim: (ours, verdict)."""

        def add(function):
            self.append(Claim(topic, who, says, paper, jobs, rule, function))
            return function

        return add
