#!/usr/bin/env python3
"""csq's softmax against what one would use instead, in one interleaved run.

    python3 bench/peers/compare.py --threads 1,16 --peers torch             builds what it needs in build/peers
    python3 bench/peers/compare.py build/release --threads 1,2              what is built already

Every program is a process of its own, is started once and takes its turn at each case, round after round, there and
back: csq, peer, peer, csq, … So no threads of one wait beside another's calls, and a slow moment of the machine meets
them all. A factor is the median over the rounds of csq's GF/s ÷ the peer's, float against float and bf16 against
bf16: above 1, csq is faster. Where PyTorch is among the peers, csq's output and gradients and PyTorch's are first
compared with double, on the same inputs. A peer that is not installed is named and left out.
"""

import argparse
import csv
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections import namedtuple

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
ONE_THREAD = [(1, 1024, 64), (1, 4096, 64), (1, 1024, 128), (1, 4096, 128)]
MORE_THREADS = [(16, 4096, 64), (16, 4096, 128)]
QUICK = {1: [(1, 1024, 64), (1, 4096, 128)]}
QUICK_MORE = [(16, 4096, 64)]
# Worker threads of the program before spin a little after their last call.
PAUSE = 0.05
# Of a result against double, ‖x − double‖/‖double‖: output, gradients. In bf16 products may round both factors too.
LIMITS = {"float": (5e-5, 5e-4), "bf16": (2e-2, 3e-2)}

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
        row = self.exchange(case, dtype, seconds)
        return (row[0], float(row[-1])) if len(row) == 10 else None

    def exchange(self, case, dtype, seconds=0, before=()):
        """The fields of its answer to a case with these fields before it; one empty field when it has ended."""
        fields = [*before, case.pass_, dtype, case.threads, case.heads, case.n, case.d, int(case.causal), seconds]
        try:
            self.process.stdin.write(",".join(map(str, fields)) + "\n")
            self.process.stdin.flush()
            return self.process.stdout.readline().strip().split(",")
        except OSError:
            return [""]

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
        for shape in options.shapes or default_shapes(threads, options.quick)
    ]


def default_shapes(threads, quick):
    if quick:
        return QUICK.get(threads, QUICK_MORE)
    return ONE_THREAD if threads == 1 else MORE_THREADS


def build_programs(names):
    """Of csq's own programs those that are asked for, with CMake; returns the build folder."""
    folder = ROOT / "build" / "peers"
    show_progress(f"building {', '.join(names)} in {folder}")
    configure = ["cmake", "-S", ROOT, "-B", folder, "-DCMAKE_BUILD_TYPE=Release", "-DCSQ_BUILD_TESTS=OFF",
                 "-DCSQ_BUILD_EXAMPLES=OFF", "-DCSQ_BUILD_PAPER=OFF"]
    build = ["cmake", "--build", folder, "--parallel", str(all_threads()), "--target", *names]
    for command in (configure, build):
        try:
            done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        except OSError as error:
            sys.exit(f"compare.py: {command[0]} does not start: {error.strerror}")
        if done.returncode != 0:
            sys.exit(f"{done.stdout}\ncompare.py: {' '.join(map(str, command[:3]))} failed")
    show_progress("")
    return folder


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
        """csq ÷ peer of the same dtype, round by round; empty where the peer has no such case."""
        csq = (self.csq, peer[1])
        pairs = zip(self.rates.get((case, csq), []), self.rates.get((case, peer), []))
        return [ours / theirs for ours, theirs in pairs]

    def factor(self, case, peer):
        return statistics.median(self.ratios(case, peer))

    @property
    def csq(self):
        """Its name and version."""
        return next(name for name, _ in self.contestants if name.startswith("csq "))

    @property
    def own(self):
        return sorted((c for c in self.contestants if c[0] == self.csq), key=lambda c: c[1], reverse=True)

    @property
    def peers(self):
        return sorted((c for c in self.contestants if c[0] != self.csq), key=lambda c: (c[1] != "float", c[0]))


def check(csq, torch, cases, options):
    """Prints how far both are from double, in the worst case of each array; returns the sentences that are wrong."""
    worst, wrong = {}, []
    # A case of backward has the output too.
    last = "backward" if "backward" in options.passes else "forward"
    for case in [case for case in cases if case.pass_ == last]:
        for dtype in options.dtypes:
            show_progress(f"checking {case_text(case)}, {dtype}")
            with tempfile.TemporaryDirectory() as folder:
                saved = csq.exchange(case, dtype, before=("save", folder))
                answer = torch.exchange(case, dtype, before=("check", folder)) if saved == ["saved"] else [""]
            if len(answer) < 3:
                wrong.append(f"{case_text(case)}, {dtype}: no answer")
                return wrong
            for name, own, theirs in zip(*[iter(answer)] * 3):
                limit = LIMITS[dtype][name != "out"]
                if not float(own) <= limit:
                    wrong.append(f"{case_text(case)}, {dtype}: csq's {name} is {own} from double, more than {limit:g}")
                pair = worst.setdefault((dtype, name), [0, 0])
                pair[:] = max(pair[0], float(own)), max(pair[1], float(theirs))
    show_progress("")
    for dtype in options.dtypes:
        parts = [f"{name} {own:.1e} ({theirs:.1e})" for (of, name), (own, theirs) in worst.items() if of == dtype]
        print(f"{dtype}: csq from double, in the worst case (PyTorch): {', '.join(parts)}")
    return wrong


def measure(csq, peers, cases, options):
    """Returns the results and the names of the peers that ended before their time."""
    results, failed = Results(), []
    turn = options.seconds / options.rounds
    end = time.monotonic() + (options.limit or float("inf"))
    for round_ in range(options.rounds):
        for case in cases:
            if round_ > 0 and time.monotonic() > end:  # every case has been measured
                print(f"--limit: stopped in round {round_ + 1} of {options.rounds}", file=sys.stderr)
                return results, failed
            show_progress(f"round {round_ + 1} of {options.rounds}: {case_text(case)}")
            for dtype in options.dtypes:
                able = [peer for peer in peers if dtype in peer.dtypes and peer.can(case) and peer.name not in failed]
                answers = {}
                for program in [csq, *able][::-1 if round_ % 2 else 1]:
                    time.sleep(PAUSE)
                    answers[program.name] = program.ask(case, dtype, turn)
                for program in [csq, *able]:
                    answer = answers[program.name]
                    if answer is not None:
                        results.add(case, answer[0], dtype, answer[1])
                        continue
                    print(f"{program.name}: ended at {case_text(case)}, {dtype}", file=sys.stderr)
                    if program is csq:
                        sys.exit(1)
                    failed.append(program.name)
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


def short_name(contestant):
    return f"{contestant[0].split()[0]} {contestant[1]}"


def print_table(results, cases):
    print(f"\n{'pass':9}{'mask':7}{'threads':>7}{'heads':>6}{'n':>6}{'d':>5} |"
          + "".join(f"{short_name(own):>11}" for own in results.own)
          + "".join(f" |{short_name(peer):>18}" for peer in results.peers))
    print(f"{'':40} |" + f"{'GF/s':>11}" * len(results.own) + f" |{'GF/s   csq is':>18}" * len(results.peers))
    for case in cases:
        cells = []
        for peer in results.peers:
            has = results.ratios(case, peer)
            cells.append(cell_text(results.rate(case, peer), results.factor(case, peer)) if has else "-")
        print(f"{case.pass_:9}{'causal' if case.causal else 'full':7}{case.threads:7}{case.heads:6}{case.n:6}{case.d:5} |"
              + "".join(f"{results.rate(case, own):11.0f}" for own in results.own)
              + "".join(f" |{cell:>18}" for cell in cells))


def cell_text(rate, factor):
    return f"{rate:.0f}  {factor:.2f}x {'lost' if factor < 1 else '    '}"


def print_markdown(results, cases):
    """As the README has it: csq's speed over theirs, losses in bold."""
    masks = {case.causal for case in cases}
    heads = [f"csq {dtype}, GF/s" for _, dtype in results.own] + [short_name(peer) for peer in results.peers]
    print(f"\n| pass, {'mask, ' if len(masks) > 1 else ''}threads, heads, n, d | {' | '.join(heads)} |")
    print("|---" * (len(heads) + 1) + "|")
    for case in cases:
        mask = f"{'causal' if case.causal else 'full'}, " if len(masks) > 1 else ""
        cells = [f"{case.pass_}, {mask}{case.threads}, {case.heads}, {case.n}, {case.d}"]
        cells += [f"{results.rate(case, own):.0f}" for own in results.own]
        for peer in results.peers:
            factor = f"{results.factor(case, peer):.2f}×" if results.ratios(case, peer) else "–"
            cells.append(f"**{factor}**" if results.ratios(case, peer) and results.factor(case, peer) < 1 else factor)
        print(f"| {' | '.join(cells)} |")


def print_verdicts(results, cases, missing, failed):
    print()
    for peer in results.peers:
        factors = {case: results.factor(case, peer) for case in cases if results.ratios(case, peer)}
        lost = {case: factor for case, factor in factors.items() if factor < 1}
        print(f"{results.csq}, {peer[1]}, against {peer[0]}: {len(factors) - len(lost)} won, {len(lost)} lost, "
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
                       "csq_gflops": round(results.rate(case, (results.csq, peer[1])), 2),
                       "factor": round(results.factor(case, peer), 4),
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
            json.dump({"csq": results.csq, "processor": processor(), "rounds": options.rounds,
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
    parser.add_argument("build", type=pathlib.Path, nargs="?",
                        help="build folder, such as build/release; unless given, what is needed is built in build/peers")
    parser.add_argument("--threads", type=list_of(whole), default=sorted({1, all_threads()}),
                        help="1,2: for each number of threads; 1 and all")
    parser.add_argument("--shapes", type=list_of(shape), help="HEADSxTOKENSxDIM,…; "
                        "else one head with one thread, 16 heads with more")
    parser.add_argument("--passes", type=one_of("forward", "backward"), default=["forward", "backward"])
    parser.add_argument("--masks", type=one_of("full", "causal"), default=["full", "causal"])
    parser.add_argument("--dtypes", type=one_of("float", "bf16"), default=["float", "bf16"],
                        help="of csq and its peers")
    parser.add_argument("--peers", type=one_of("eigen", "onnxruntime", "torch"),
                        default=["eigen", "onnxruntime", "torch"])
    parser.add_argument("--rounds", type=whole, help="5, with --quick 3")
    parser.add_argument("--seconds", type=float,
                        help="of each program at each case, all rounds together; 0.5, with --quick 0.15")
    parser.add_argument("--limit", type=float, metavar="S",
                        help="after so many seconds of measuring, and one round, no further call starts")
    parser.add_argument("--quick", action="store_true", help="a rough answer: fewer shapes, 3 short rounds")
    parser.add_argument("--no-check", action="store_true", help="results are not compared with double first")
    parser.add_argument("--markdown", action="store_true", help="prints the table once more, as the README has it")
    parser.add_argument("--csv", help="write the joined rows to this file")
    parser.add_argument("--json", help="write the joined rows to this file")
    options = parser.parse_args()
    options.rounds = options.rounds or (3 if options.quick else 5)
    options.seconds = options.seconds or (0.15 if options.quick else 0.5)
    return options


def version_of(csq):
    return subprocess.run([csq.command[0], "--version"], stdout=subprocess.PIPE, text=True).stdout.strip()


def main():
    options = read_options()
    own = ["csq_rows", "eigen_composed"] if "eigen" in options.peers else ["csq_rows"]
    folder = (options.build or build_programs(own)) / "bench" / "peers"
    csq = Program("csq", [folder / "csq_rows"], dtypes=("float", "bf16"))
    peers = [peer for peer in peers_of(folder) if peer.name in options.peers]
    start = time.monotonic()
    try:
        if not csq.start():
            sys.exit(f"compare.py: {folder}/csq_rows is needed: build the target csq_rows")
        missing = [peer.name for peer in peers if not peer.start()]
        print(f"{processor()}; {version_of(csq)}; {', '.join(peer.name for peer in peers if peer.name not in missing)}")
        cases = cases_of(options)
        torch = next((peer for peer in peers if peer.name == "torch" and peer.name not in missing), None)
        wrong = check(csq, torch, cases, options) if torch and not options.no_check else []
        if wrong:
            sys.exit("\n".join(["compare.py: results are wrong:", *wrong]))
        results, failed = measure(csq, [peer for peer in peers if peer.name not in missing], cases, options)
    finally:
        for program in [csq, *peers]:
            program.stop()
    contestants = ", ".join(sorted({name for name, _ in results.contestants}))
    print(f"{contestants}; {options.rounds} rounds, medians; {time.monotonic() - start:.0f} s")
    print_table(results, cases)
    print_verdicts(results, cases, missing, failed)
    if options.markdown:
        print_markdown(results, cases)
    write_files(results, cases, missing, failed, options)


if __name__ == "__main__":
    main()
