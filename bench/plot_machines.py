#!/usr/bin/env python3
"""Draws machines.csv: time against the tokens of the whole sequence, log-log, a row of panels a head size. One panel a
mechanism with the ranks that were run: measured times as points, the model as lines. The last panel is the model alone,
dashed: ranks and tokens that were not run.

    plot_machines.py [machines.csv [machines.png]]      the ending chooses the format: .png, .svg, .pdf
"""

import csv
import sys

try:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator
except ImportError:
    print("plot_machines.py: matplotlib is not installed, so no plot is drawn (apt-get install python3-matplotlib)")
    sys.exit(0)

# Mechanism, label, dark to light by rising ranks.
MECHANISMS = [
    ("csq", "CSQ", "Blues"),
    ("gated_csq", "gated CSQ", "Greens"),
    ("ring_softmax", "ring softmax", "Reds"),
]
MARKERS = "osD^vP*X"
# Milliseconds: about a tenth of each other, and round in their units.
TIMES = {1e-2: "10 µs", 1e-1: "100 µs", 1: "1 ms", 10: "10 ms", 100: "100 ms", 1e3: "1 s", 1e4: "10 s", 6e4: "1 min",
         6e5: "10 min", 3.6e6: "1 h", 3.6e7: "10 h", 4.32e8: "5 days", 4.32e9: "50 days", 3.156e10: "1 year",
         3.156e11: "10 years", 3.156e12: "100 years"}
# CSQ and gated CSQ lie on each other at these scales.
BEYOND_DASHES = {"csq": (0, (6, 3)), "gated_csq": (0, (2, 3)), "ring_softmax": (0, (6, 3))}


def read_rows(path):
    """{head size: lines}"""
    rows = {}
    with open(path, newline="") as file:
        for line in csv.DictReader(file):
            if line["kind"] not in ("measured", "extrapolated"):
                raise ValueError(f"kind is {line['kind']}")
            rows.setdefault(int(line["head_dim"]), []).append(line)
    return dict(sorted(rows.items()))


def select(lines, kind, mechanism, ranks=None):
    chosen = [line for line in lines if line["kind"] == kind and line["mechanism"] == mechanism
              and (ranks is None or int(line["ranks"]) == ranks)]
    return sorted(chosen, key=lambda line: int(line["tokens"]))


def token_label(value, _):
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:g}"


def shade(name, index, count):
    return matplotlib.colormaps[name](0.95 - 0.55 * index / max(1, count - 1))


def finish_axis(axis):
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.xaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_locator(FixedLocator(list(TIMES)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: TIMES.get(value, "")))
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.tick_params(labelsize=8, labelbottom=True)
    axis.grid(True, which="major", color="#dddddd", linewidth=0.6)
    axis.set_axisbelow(True)


def time_limits(lines):
    """Of all panels of what was measured."""
    times = [float(line[column]) for line in lines if line["kind"] == "measured"
             for column in ("median_ms", "model_ms") if line[column]]
    return min(times) / 1.6, max(times) * 2.5


def draw_measured(axis, lines, mechanism, label, colors):
    ranks = sorted({int(line["ranks"]) for line in lines if line["kind"] == "measured"})
    for index, count in enumerate(ranks):
        there = select(lines, "measured", mechanism, count)
        color, marker = shade(colors, index, len(ranks)), MARKERS[index % len(MARKERS)]
        for line in there:
            axis.plot(int(line["tokens"]), float(line["median_ms"]), marker, color=color, markersize=5.5,
                      markerfacecolor="white" if line["disturbed"] else color, zorder=4)
        modelled = [line for line in there if line["model_ms"]]
        axis.plot([int(line["tokens"]) for line in modelled], [float(line["model_ms"]) for line in modelled],
                  color=color, linewidth=1.5, marker="_", markersize=9, zorder=3)
    handles = [Line2D([], [], color=shade(colors, index, len(ranks)), marker=MARKERS[index % len(MARKERS)],
                      markersize=5, linewidth=1.5 if count > 1 else 0,
                      label=f"{count} rank" + ("s" if count > 1 else ""))
               for index, count in enumerate(ranks)]
    axis.legend(handles=handles, fontsize=8, frameon=False, loc="upper left")
    finish_axis(axis)
    tokens = sorted({int(line["tokens"]) for line in lines if line["kind"] == "measured"})
    axis.set_xticks(tokens)
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axis.set_title(f"{label}, measured here", fontsize=9)


def draw_extrapolated(axis, lines):
    ranks = sorted({int(line["ranks"]) for line in lines if line["kind"] == "extrapolated"})
    for mechanism, _, colors in MECHANISMS:
        for index, count in enumerate(ranks):
            there = select(lines, "extrapolated", mechanism, count)
            axis.plot([int(line["tokens"]) for line in there], [float(line["model_ms"]) for line in there],
                      color=shade(colors, index, len(ranks)), linestyle=BEYOND_DASHES[mechanism], linewidth=1.5,
                      zorder=3)
            if mechanism == "gated_csq":
                continue
            axis.annotate(f"{count:,} ranks", (int(there[-1]["tokens"]), float(there[-1]["model_ms"])),
                          xytext=(4, 0), textcoords="offset points", fontsize=7, va="center",
                          color=shade(colors, index, len(ranks)))
    finish_axis(axis)
    if ranks:
        low, high = axis.get_xlim()
        axis.set_xlim(low, high * 6)
        axis.xaxis.set_major_locator(LogLocator(base=10))
        axis.xaxis.set_major_formatter(FuncFormatter(token_label))
    axis.set_title("EXTRAPOLATED by the model, a core a rank:\nnothing of this was run", fontsize=9, color="#a03000")
    axis.set_facecolor("#fbf7f0")


def draw(rows, path):
    beyond = any(line["kind"] == "extrapolated" for lines in rows.values() for line in lines)
    columns = len(MECHANISMS) + (1 if beyond else 0)
    figure, axes = plt.subplots(len(rows), columns, figsize=(3.3 * columns + 1.2, 3.2 * len(rows) + 1.1), squeeze=False)
    for line_of_axes, (dim, lines) in zip(axes, rows.items()):
        for axis, (mechanism, label, colors) in zip(line_of_axes, MECHANISMS):
            draw_measured(axis, lines, mechanism, label, colors)
            axis.set_ylim(*time_limits(lines))
        line_of_axes[0].set_ylabel(f"d = {dim}: time of one call", fontsize=9)
        if beyond:
            draw_extrapolated(line_of_axes[-1], lines)
    for axis in axes[-1]:
        axis.set_xlabel("tokens of the whole sequence", fontsize=9)
    all_lines = [line for lines in rows.values() for line in lines]
    handles = [Line2D([], [], color="#666666", marker="o", markersize=5, linestyle="none", label="measured")]
    if any(line["disturbed"] for line in all_lines):
        handles.append(Line2D([], [], color="#666666", marker="o", markersize=5, markerfacecolor="white",
                              linestyle="none", label="measured, the machine too busy to judge"))
    handles.append(Line2D([], [], color="#666666", linewidth=1.5, label="model, with the cores that are here"))
    if beyond:
        handles += [Line2D([], [], color=matplotlib.colormaps[colors](0.8), linestyle=BEYOND_DASHES[mechanism],
                           linewidth=1.5, label=f"{label}, extrapolated") for mechanism, label, colors in MECHANISMS]
    figure.legend(handles=handles, loc="lower center", ncol=len(handles), fontsize=8, frameon=False, handlelength=3.2)
    first = all_lines[0]
    figure.suptitle(f"Causal attention over ranks, {first['pass'].replace('_', ' ')}, {first['heads']} query heads on "
                    f"{first['kv_heads']} key heads", fontsize=11)
    figure.tight_layout(rect=(0, 0.35 / figure.get_figheight(), 1, 1))
    figure.savefig(path, dpi=150)


def main():
    if len(sys.argv) > 3 or "-h" in sys.argv or "--help" in sys.argv:
        print(__doc__.strip())
        return 0 if len(sys.argv) == 2 else 2
    source = sys.argv[1] if len(sys.argv) > 1 else "machines.csv"
    target = sys.argv[2] if len(sys.argv) > 2 else "machines.png"
    try:
        rows = read_rows(source)
        if not rows:
            raise ValueError("holds no time")
    except (OSError, KeyError, ValueError) as error:
        print(f"plot_machines.py: {source}: {error}", file=sys.stderr)
        return 2
    draw(rows, target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
