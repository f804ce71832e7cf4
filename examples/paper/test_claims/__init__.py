"""The rules of claims on made-up runs, the report of them, and RESULTS.md against the committed runs.

    python3 -m unittest discover -s examples/paper/test_claims -t examples/paper
"""
