"""A threshold is stated once: as a constant that a rule's words and its code both read."""

import ast
import pathlib
import re
import unittest

import claims
from claims import wording

SUBJECTS = [
    path
    for path in sorted(pathlib.Path(claims.__file__).parent.glob("*.py"))
    if "@CLAIMS.state(" in path.read_text(encoding="utf-8")
]

# Numbers in a rule's words that decide nothing: what was run, what an equation says, what was once believed.
TOLD = (
    "λ = 0",
    "ε = 0, 1",
    "ε = 0",
    "rows that sum to 1",
    "d = r = 4; r = 3 < d = 5",
    "5 draws",
    "L(2w² + 3)",
    "p = 4",
    "p = 8",
    "below .05",
    "32 heads of 128",
    "scaled from 16k",
)
TOLD_CONSTANTS = {"CUT", "WHOLE", "NUMERICAL_RANK"}


class Subject:
    def __init__(self, path):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        self.bodies = [node.body for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        self.rules = [
            keyword.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "state"
            for keyword in node.keywords
            if keyword.arg == "rule"
        ]
        # Constants that are words themselves, such as a rule that two claims have in common.
        self.phrases = {
            target.id: node.value
            for node in tree.body
            if isinstance(node, ast.Assign) and any(isinstance(part, ast.JoinedStr) for part in ast.walk(node.value))
            for target in node.targets
        }

    def parts(self, rule):
        """All nodes of a rule's words, those of phrases that it quotes too."""
        for node in ast.walk(rule):
            yield node
            if isinstance(node, ast.Name) and node.id in self.phrases:
                yield from self.parts(self.phrases[node.id])

    def names_in_code(self):
        return {node.id for body in self.bodies for part in body for node in ast.walk(part) if isinstance(node, ast.Name)}


class Thresholds(unittest.TestCase):
    def test_every_claim_is_looked_at(self):
        self.assertEqual(sum(len(Subject(path).rules) for path in SUBJECTS), len(claims.CLAIMS))

    def test_code_states_none(self):
        """Squares and doublings are no thresholds."""
        for path in SUBJECTS:
            for body in Subject(path).bodies:
                for node in (node for part in body for node in ast.walk(part)):
                    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
                        self.assertIn(node.value, (0, 1, 2), f"{path.name}:{node.lineno}")

    def test_words_state_none(self):
        for path in SUBJECTS:
            subject = Subject(path)
            for rule in subject.rules:
                computed = [node for node in subject.parts(rule) if isinstance(node, ast.FormattedValue)]
                inside = {id(part) for node in computed for part in ast.walk(node)}
                for node in subject.parts(rule):
                    if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
                        left = node.value
                        for told in TOLD:
                            left = left.replace(told, "")
                        self.assertIsNone(re.search(r"\d", left), f"{path.name}:{node.lineno}: {left}")

    def test_code_reads_what_words_read(self):
        for path in SUBJECTS:
            subject = Subject(path)
            for rule in subject.rules:
                read = {node.id for node in subject.parts(rule) if isinstance(node, ast.Name) and node.id.isupper()}
                read -= {*subject.phrases, *TOLD_CONSTANTS}
                self.assertLessEqual(read, subject.names_in_code(), path.name)


class Wording(unittest.TestCase):
    def test_numbers(self):
        self.assertEqual([wording.decimal(value) for value in (0.95, 1.15, 4, 0.02)], [".95", "1.15", "4", ".02"])
        self.assertEqual([wording.fixed(value) for value in (0.147, 1)], [".147", "1.000"])
        self.assertEqual([wording.exponential(value) for value in (3e-2, 1e-13, 7.4e-6)], ["3e-2", "1e-13", "7.4e-6"])
        self.assertEqual([wording.fraction(value) for value in (0.5, 0.25, 0.4)], ["half", "a quarter", ".4"])
        self.assertEqual([wording.times(value) for value in (2, 1.25)], ["twice", "1.25 times"])
        self.assertEqual([wording.listed(values) for values in ((4, 8, 16), (4,))], ["4, 8 and 16", "4"])
        self.assertEqual([wording.layers(count) for count in (1, 2)], ["1 layer", "2 layers"])
        self.assertEqual(wording.kilo(131072), "128k")
