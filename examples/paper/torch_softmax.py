#!/usr/bin/env python3
"""Adds PyTorch's scaled_dot_product_attention in bfloat16 to a CSV that `cost --dtype bfloat16` has left: at the sizes
and on as many threads as csq's softmax there, a row softmax_torch each, written as soon as it is timed.

    python3 examples/paper/torch_softmax.py FILE.csv [--seconds 0.1] [--at-most 60] [--passes forward,forward+backward]

A CSV without such rows stays as it is. Without PyTorch 2 nothing is added: the claim then says that csq's softmax stood
alone.
"""

import argparse
import csv
import pathlib
import sys
import time

ADDED = "softmax_torch"


def peer():
    """bench/peers/torch_sdpa.py, which checks what it times against double; None without PyTorch."""
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "bench" / "peers"))
    try:
        import torch_sdpa
    except SystemExit:  # it has said why
        return None
    return torch_sdpa


def prepare_training(sdpa, dtype, n, d, causal):
    """A function that runs forward and backward once and returns the seconds of both."""
    torch, attention = sdpa.torch, sdpa.scaled_dot_product_attention
    q, k, v, dout = sdpa.make_inputs(dtype, 1, n, d, 4)
    for tensor in (q, k, v):
        tensor.requires_grad_(True)

    def timed():
        start = time.perf_counter()
        torch.autograd.grad(attention(q, k, v, is_causal=causal), (q, k, v), dout)
        return time.perf_counter() - start

    sdpa.check(dtype, causal, q, k, v, attention(q, k, v, is_causal=causal).detach())
    timed()
    return timed


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        lines = [line for line in file if not line.startswith("#")]
    reader = csv.DictReader(lines)
    return reader.fieldnames, list(reader)


def read_options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--seconds", type=float, default=0.1, help="how long each row is timed")
    parser.add_argument("--at-most", type=float, default=60, help="seconds after which no row is begun")
    parser.add_argument("--passes", default="forward,forward+backward")
    return parser.parse_args()


def main():
    options = read_options()
    columns, rows = read(options.file)
    wanted = [
        row
        for row in rows
        if row["part"] == "softmax" and row.get("dtype") == "bfloat16" and row["pass"] in options.passes.split(",")
    ]
    key = ("pass", "causal", "key_dim", "tokens", "threads")
    there = {tuple(row[column] for column in key) for row in rows if row["part"] == ADDED}
    wanted = [row for row in wanted if tuple(row[column] for column in key) not in there]
    sdpa = peer() if wanted else None
    if sdpa is None:
        return 0
    library = sdpa.Rows().peer
    began = time.perf_counter()
    with open(options.file, "a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        for count, row in enumerate(wanted):
            if time.perf_counter() - began > options.at_most:
                print(f"torch_softmax.py: {len(wanted) - count} rows left out for want of time; run it again for them")
                break
            sdpa.torch.set_num_threads(int(row["threads"]))
            n, d, causal = int(row["tokens"]), int(row["key_dim"]), row["causal"] == "1"
            if row["pass"] == "forward":
                timed = sdpa.prepare_forward("bf16", 1, n, d, causal)
            else:
                timed = prepare_training(sdpa, "bf16", n, d, causal)
            milliseconds = 1000 * sdpa.median_seconds(timed, options.seconds)
            # Which instructions PyTorch chose it does not say.
            writer.writerow({**row, "part": ADDED, "milliseconds": f"{milliseconds:.6g}", "matrix_unit": "", "library": library})
            file.flush()
            print(f"torch {row['pass']} d={d} n={n} {'causal' if causal else 'full'} {milliseconds:.3f} ms", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
