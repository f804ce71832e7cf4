#!/usr/bin/env python3
"""csq's softmax against what one would use instead, in one interleaved run.

    python3 bench/peers/compare.py build/release --threads 1,2

Every program is started once and takes its turn at each case, round after round: csq, peer, peer, csq, peer, … A factor
is the median over the rounds of csq's GF/s ÷ the peer's: above 1, csq is faster. csq computes in float, so against
bf16 its float is what is compared. A peer that is not installed is named and left out.
"""

import argparse
import csv
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
from collections import namedtuple

HERE = pathlib.Path(__file__).resolve().parent
ONE_THREAD = [(1, 1024, 64), (1, 4096, 64), (1, 1024, 128), (1, 4096, 128)]
MORE_THREADS = [(16, 4096, 64), (16, 4096, 128)]
# Worker threads of the program before spin a little after their last call.
PAUSE = 0.05

Case = namedtuple("Case", "pass_ threads heads n d causal")


class Program:
    """One process that answers a case by the row it measured; `dtypes`, `passes` and `masks` are what it can do."""

    def __init__(self, name, command, dtypes=("float",), passes=("forward", "backward"), masks=("full", "causal")):
        self.name, self.command = name, [str(word) for word in command]
        self.dtypes, self.passes, self.masks = dtypes, passes, masks
        self.process = None

    def start(self):
        """False where it is not installed; it has then said so itself, in one line."""
        try:
            self.process = subprocess.Popen(self.command + ["--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                            text=True)
        except OSError as error:
            print(f"{self.name}: {self.command[0]} does not start: {error.strerror}", file=sys.stderr)
            return False
        return self.process.stdout.readline().startswith("peer,")

    def can(self, case):
        return case.pass_ in self.passes and ("causal" if case.causal else "full") in self.masks

    def ask(self, case, dtype, seconds):
        """(its name and version, GF/s), or None when it has ended."""
        fields = [case.pass_, dtype, case.threads, case.heads, case.n, case.d, int(case.causal), seconds]
        try:
            self.process.stdin.write(",".join(map(str, fields)) + "\n")
            self.process.stdin.flush()
            row = self.process.stdout.readline().strip().split(",")
        except OSError:
            return None
        return (row[0], float(row[-1])) if len(row) == 10 else None

    def stop(self):
        if self.process is None:
            return
        try:
            self.process.stdin.close()
            self.process.wait(timeout=5)
        except (OSError, subprocess.TimeoutExpired):
            self.process.kill()


def peers_of(build):
    return [
        Program("eigen", [build / "eigen_composed"]),
        Program("onnxruntime", ["node", HERE / "onnxruntime.mjs"], passes=("forward",), masks=("full",)),
        Program("torch", [sys.executable, HERE / "torch_sdpa.py"], dtypes=("float", "bf16")),
    ]


def cases_of(options):
    return [
        Case(pass_, threads, *shape, mask == "causal")
        for threads in options.threads
        for pass_ in options.passes
        for mask in options.masks
        for shape in options.shapes or (ONE_THREAD if threads == 1 else MORE_THREADS)
    ]


class Results:
    """GF/s by (case, contestant), one a round; a contestant is a name with its version, and a dtype."""

    def __init__(self):
        self.rates = {}
        self.contestants = []

    def add(self, case, name, dtype, rate):
        contestant = (name, dtype)
        if contestant not in self.contestants:
            self.contestants.append(contestant)
        self.rates.setdefault((case, contestant), []).append(rate)

    def rate(self, case, contestant):
        return statistics.median(self.rates[case, contestant])

    def ratios(self, case, peer):
        """csq ÷ peer, round by round; empty where the peer has no such case."""
        return [ours / theirs for ours, theirs in zip(self.rates[case, self.csq], self.rates.get((case, peer), []))]

    @property
    def csq(self):
        return self.contestants[0]

    @property
    def peers(self):
        return self.contestants[1:]


def measure(csq, peers, cases, options):
    """Returns the results and the names of the peers that ended before their time."""
    results, failed = Results(), []
    turn = options.seconds / options.rounds
    for round_ in range(options.rounds):
        for case in cases:
            show_progress(f"round {round_ + 1} of {options.rounds}: {case_text(case)}")
            for program in [csq] + [peer for peer in peers if peer.name not in failed and peer.can(case)]:
                for dtype in [dtype for dtype in program.dtypes if dtype in options.dtypes or program is csq]:
                    time.sleep(PAUSE)
                    answer = program.ask(case, dtype, turn)
                    if answer is not None:
                        results.add(case, answer[0], dtype, answer[1])
                        continue
                    print(f"{program.name}: ended at {case_text(case)}, {dtype}", file=sys.stderr)
                    if program is csq:
                        sys.exit(1)
                    failed.append(program.name)
                    break
    show_progress("")
    return results, failed


def show_progress(text):
    """One line that is written over, on a terminal only."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def case_text(case):
    mask = "causal" if case.causal else "full"
    threads = f"{case.threads} thread{'s' if case.threads > 1 else ''}"
    return f"{case.pass_}, {mask}, {threads}, {case.heads} head{'s' if case.heads > 1 else ''}, n {case.n}, d {case.d}"


def peer_text(peer):
    return f"{peer[0]}, {peer[1]}"


def print_table(results, cases):
    names = [f"{name.split()[0]} {dtype}" for name, dtype in results.peers]
    print(f"\n{'pass':9}{'mask':7}{'threads':>7}{'heads':>6}{'n':>6}{'d':>5} |{'csq':>6}"
          + "".join(f" |{name:>18}" for name in names))
    print(f"{'':40} |{'GF/s':>6}" + f" |{'GF/s   csq is':>18}" * len(names))
    for case in cases:
        cells = []
        for peer in results.peers:
            ratios = results.ratios(case, peer)
            cells.append(cell_text(results.rate(case, peer), statistics.median(ratios)) if ratios else "-")
        print(f"{case.pass_:9}{'causal' if case.causal else 'full':7}{case.threads:7}{case.heads:6}{case.n:6}{case.d:5}"
              f" |{results.rate(case, results.csq):6.0f}" + "".join(f" |{cell:>18}" for cell in cells))


def cell_text(rate, factor):
    return f"{rate:.0f}  {factor:.2f}x {'lost' if factor < 1 else '    '}"


def print_verdicts(results, cases, missing, failed):
    print()
    for peer in results.peers:
        factors = {case: statistics.median(results.ratios(case, peer)) for case in cases if results.ratios(case, peer)}
        lost = {case: factor for case, factor in factors.items() if factor < 1}
        print(f"{results.csq[0]} against {peer_text(peer)}: {len(factors) - len(lost)} won, {len(lost)} lost, "
              f"factor {min(factors.values()):.2f} to {max(factors.values()):.2f}")
        for case, factor in lost.items():
            print(f"    lost: {case_text(case)}: {factor:.2f}")
    for name in missing:
        print(f"{name}: missing")
    for name in failed:
        print(f"{name}: ended before its time")


def flat_rows(results, cases):
    for case in cases:
        for peer in results.peers:
            ratios = results.ratios(case, peer)
            if ratios:
                yield {"pass": case.pass_, "threads": case.threads, "heads": case.heads, "n": case.n, "d": case.d,
                       "causal": int(case.causal), "peer": peer[0], "dtype": peer[1],
                       "peer_gflops": round(results.rate(case, peer), 2),
                       "csq_gflops": round(results.rate(case, results.csq), 2),
                       "factor": round(statistics.median(ratios), 4),
                       "lowest_factor": round(min(ratios), 4), "highest_factor": round(max(ratios), 4)}


def write_files(results, cases, missing, failed, options):
    rows = list(flat_rows(results, cases))
    if options.csv:
        with open(options.csv, "w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]) if rows else ["pass"])
            writer.writeheader()
            writer.writerows(rows)
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"csq": results.csq[0], "processor": processor(), "rounds": options.rounds,
                       "seconds": options.seconds, "missing": missing, "failed": failed, "rows": rows}, file, indent=2)
            file.write("\n")


def processor():
    try:
        with open("/proc/cpuinfo") as file:
            return next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), "unknown")
    except OSError:
        return "unknown"


def all_threads():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
    parser.add_argument("build", type=pathlib.Path, help="build folder, such as build/release")
    parser.add_argument("--threads", type=list_of(whole), default=sorted({1, all_threads()}),
                        help="1,2: for each number of threads; 1 and all")
    parser.add_argument("--shapes", type=list_of(shape), help="HEADSxTOKENSxDIM,…; "
                        "else one head with one thread, 16 heads with more")
    parser.add_argument("--passes", type=one_of("forward", "backward"), default=["forward", "backward"])
    parser.add_argument("--masks", type=one_of("full", "causal"), default=["full", "causal"])
    parser.add_argument("--dtypes", type=one_of("float", "bf16"), default=["float", "bf16"], help="of the peers")
    parser.add_argument("--peers", type=one_of("eigen", "onnxruntime", "torch"),
                        default=["eigen", "onnxruntime", "torch"])
    parser.add_argument("--rounds", type=whole, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each program at each case, all rounds together")
    parser.add_argument("--csv", help="write the joined rows to this file")
    parser.add_argument("--json", help="write the joined rows to this file")
    return parser.parse_args()


def main():
    options = read_options()
    folder = options.build / "bench" / "peers"
    csq = Program("csq", [folder / "csq_rows"])
    peers = [peer for peer in peers_of(folder) if peer.name in options.peers]
    start = time.monotonic()
    try:
        if not csq.start():
            sys.exit(f"compare.py: {folder}/csq_rows is needed: build the target csq_rows")
        missing = [peer.name for peer in peers if not peer.start()]
        cases = cases_of(options)
        results, failed = measure(csq, [peer for peer in peers if peer.name not in missing], cases, options)
    finally:
        for program in [csq, *peers]:
            program.stop()
    print(f"{processor()}; {options.rounds} rounds, medians; measured in {time.monotonic() - start:.0f} s")
    print_table(results, cases)
    print_verdicts(results, cases, missing, failed)
    write_files(results, cases, missing, failed, options)


if __name__ == "__main__":
    main()
