#!/usr/bin/env python3
"""PyTorch's scaled_dot_product_attention on the CPU: forward, and backward alone (its forward runs outside the timer).

    python3 bench/peers/torch_sdpa.py --threads 1,16 --dtypes float,bf16

q, k and v are [1, heads, n, d], contiguous. One row is checked against double before anything is timed. With --serve a
line that starts with check,FOLDER, asks how far csq's arrays in that folder (rows.hpp) and PyTorch's results for the
same inputs are from double.
"""

import argparse
import math
import pathlib
import statistics
import sys
import time

try:
    import torch
    from torch.nn.functional import scaled_dot_product_attention
except ImportError:
    found = f"PyTorch {torch.__version__} is too old: 2.0 is needed" if "torch" in dir() else "PyTorch is not installed"
    print(f"torch_sdpa.py: {found}", file=sys.stderr)
    sys.exit(3)

DTYPES = {"float": torch.float32, "bf16": torch.bfloat16}
# Relative error of a row, on inputs that are already rounded.
TOLERANCES = {"float": 1e-5, "bf16": 5e-2}
ONE_THREAD = [(1, 1024, 64), (1, 4096, 64), (1, 1024, 128), (1, 4096, 128)]
MORE_THREADS = [(16, 4096, 64), (16, 4096, 128)]


def make_inputs(dtype, heads, n, d, count):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(1, heads, n, d, generator=generator).to(DTYPES[dtype]) for _ in range(count)]


@torch.no_grad()
def check(dtype, causal, q, k, v, out):
    head, row = q.shape[1] - 1, q.shape[2] * 2 // 3
    keys = row + 1 if causal else k.shape[2]
    scores = k[0, head, :keys].double() @ q[0, head, row].double() / math.sqrt(q.shape[3])
    expected = torch.softmax(scores, dim=0) @ v[0, head, :keys].double()
    error = ((out[0, head, row].double() - expected).norm() / expected.norm()).item()
    if not error < TOLERANCES[dtype]:
        sys.exit(f"torch_sdpa.py: row {row} of head {head} differs from double: relative error {error}")


def prepare_forward(dtype, heads, n, d, causal):
    """A function that runs forward once and returns its seconds."""
    q, k, v = make_inputs(dtype, heads, n, d, 3)

    @torch.no_grad()
    def timed():
        start = time.perf_counter()
        scaled_dot_product_attention(q, k, v, is_causal=causal)
        return time.perf_counter() - start

    with torch.no_grad():
        check(dtype, causal, q, k, v, scaled_dot_product_attention(q, k, v, is_causal=causal))
    return timed


def prepare_backward(dtype, heads, n, d, causal):
    """A function that runs both passes once and returns the seconds of backward."""
    q, k, v, dout = make_inputs(dtype, heads, n, d, 4)
    for tensor in (q, k, v):
        tensor.requires_grad_(True)

    def timed():
        out = scaled_dot_product_attention(q, k, v, is_causal=causal)
        start = time.perf_counter()
        torch.autograd.grad(out, (q, k, v), dout)
        return time.perf_counter() - start

    check(dtype, causal, q, k, v, scaled_dot_product_attention(q, k, v, is_causal=causal).detach())
    timed()
    return timed


def read_tensor(folder, name, dtype, heads, n, d):
    data = bytearray((folder / name).read_bytes())
    return torch.frombuffer(data, dtype=DTYPES[dtype]).reshape(1, heads, n, d) if data else None


def relative_error(values, reference):
    return ((values.double() - reference).norm() / reference.norm()).item()


def attention_in_double(q, k, v, dout, causal):
    """Output and gradients of one head, from the definition."""
    q, k, v = (x.double().requires_grad_(dout is not None) for x in (q, k, v))
    scores = q @ k.T / math.sqrt(q.shape[1])
    if causal:
        scores = scores.masked_fill(torch.ones(scores.shape, dtype=torch.bool).triu(1), -math.inf)
    out = torch.softmax(scores, dim=1) @ v
    return out, *(torch.autograd.grad(out, (q, k, v), dout.double()) if dout is not None else ())


def errors_of(folder, dtype, heads, n, d, causal):
    """[(array, csq's error, PyTorch's)] of the last head: both against double, from the inputs that csq had."""
    q, k, v, dout = (read_tensor(folder, name, dtype, heads, n, d) for name in ("q", "k", "v", "dout"))
    head = heads - 1
    expected = attention_in_double(q[0, head], k[0, head], v[0, head], None if dout is None else dout[0, head], causal)
    for tensor in (q, k, v):
        tensor.requires_grad_(dout is not None)
    out = scaled_dot_product_attention(q, k, v, is_causal=causal)
    ours = [out.detach(), *(torch.autograd.grad(out, (q, k, v), dout) if dout is not None else ())]
    errors = []
    for name, mine, wanted in zip(("out", "dq", "dk", "dv"), ours, expected):
        csq = read_tensor(folder, name, dtype, heads, n, d)
        wanted = wanted.detach()
        errors.append((name, relative_error(csq[0, head], wanted), relative_error(mine[0, head], wanted)))
    return errors


class Rows:
    """A case is prepared and warmed up once."""

    def __init__(self):
        capability = getattr(torch.backends, "cpu", None)  # the instruction set, from PyTorch 2.1 on
        capability = capability.get_cpu_capability() if hasattr(capability, "get_cpu_capability") else ""
        self.peer = f"torch {torch.__version__} {capability}".strip()
        self.timed = {}

    def print(self, case, budget):
        pass_, dtype, threads, heads, n, d, causal = case
        torch.set_num_threads(threads)
        if case not in self.timed:
            prepare = prepare_forward if pass_ == "forward" else prepare_backward
            self.timed[case] = prepare(dtype, heads, n, d, causal)
        seconds = median_seconds(self.timed[case], budget)
        flops = (4 if pass_ == "forward" else 10) * n * n * d * heads / (2 if causal else 1)
        print(f"{self.peer},{pass_},{dtype},{threads},{heads},{n},{d},{int(causal)},"
              f"{seconds * 1e3:.4f},{flops / seconds * 1e-9:.2f}", flush=True)


def median_seconds(timed, budget):
    """Calls until `budget` seconds are spent, at least one."""
    samples = []
    end = time.perf_counter() + budget
    while not samples or time.perf_counter() < end:
        samples.append(timed())
    return statistics.median(samples)


def time_all(rows, options):
    for threads in options.threads:
        for pass_ in options.passes:
            for dtype in options.dtypes:
                for mask in options.masks:
                    for shape in options.shapes or (ONE_THREAD if threads == 1 else MORE_THREADS):
                        rows.print((pass_, dtype, threads, *shape, mask == "causal"), options.seconds)
                        rows.timed.clear()


def serve(rows):
    for line in sys.stdin:
        if line.startswith("check,"):
            _, folder, _, dtype, threads, heads, n, d, causal, _ = line.strip().split(",")
            torch.set_num_threads(int(threads))
            errors = errors_of(pathlib.Path(folder), dtype, int(heads), int(n), int(d), causal == "1")
            print(",".join(f"{name},{csq:.3e},{own:.3e}" for name, csq, own in errors), flush=True)
            continue
        pass_, dtype, threads, heads, n, d, causal, seconds = line.strip().split(",")
        rows.print((pass_, dtype, int(threads), int(heads), int(n), int(d), causal == "1"), float(seconds))


def whole(text):
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def list_of(read):
    def parse(text):
        try:
            return [read(part) for part in text.split(",")]
        except ValueError:
            raise argparse.ArgumentTypeError(f"'{text}'") from None
    return parse


def one_of(*names):
    def read(text):
        if text not in names:
            raise ValueError
        return text
    return list_of(read)


def shape(text):
    heads, n, d = (whole(part) for part in text.split("x"))
    return heads, n, d


def read_options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=list_of(whole), default=[1], help="1,16: for each number of threads")
    parser.add_argument("--shapes", type=list_of(shape), help="HEADSxTOKENSxDIM,…; "
                        "else one head with one thread, 16 heads with more")
    parser.add_argument("--passes", type=one_of("forward", "backward"), default=["forward", "backward"])
    parser.add_argument("--dtypes", type=one_of("float", "bf16"), default=["float", "bf16"])
    parser.add_argument("--masks", type=one_of("full", "causal"), default=["full", "causal"])
    parser.add_argument("--seconds", type=float, default=1, help="how long each row is timed")
    parser.add_argument("--serve", action="store_true",
                        help="cases from standard input: pass,dtype,threads,heads,n,d,causal,seconds")
    return parser.parse_args()


def main():
    options = read_options()
    print("peer,pass,dtype,threads,heads,n,d,causal,median_ms,gflops", flush=True)
    if options.serve:
        serve(Rows())
    else:
        time_all(Rows(), options)


if __name__ == "__main__":
    main()
