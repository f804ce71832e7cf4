#!/usr/bin/env python3
"""Draws crossover.csv: time against sequence length, log-log, one panel a head size, crossovers marked, or that the
machine was too busy to tell.

    plot.py [crossover.csv [crossover.png]]      the ending chooses the format: .png, .svg, .pdf
"""

import csv
import math
import sys

try:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
except ImportError:
    print("plot.py: matplotlib is not installed, so no plot is drawn (apt-get install python3-matplotlib)")
    sys.exit(0)

CONTESTANTS = [
    ("softmax", "softmax", "#c44e52"),
    ("csq_direct", "CSQ direct", "#dd8452"),
    ("csq_factored", "CSQ factored", "#4c72b0"),
]


def read_rows(path):
    """{mask: {size: [lines by rising length]}}; a mask is (causal, query heads, key heads), a size (keys', values')."""
    rows = {}
    with open(path, newline="") as file:
        for line in csv.DictReader(file):
            mask = (line["causal"] == "1", int(line["heads"]), int(line["kv_heads"]))
            dims = rows.setdefault(mask, {})
            dims.setdefault((int(line["head_dim"]), int(line["value_dim"])), []).append(line)
    for dims in rows.values():
        for dim, lines in list(dims.items()):
            lines.sort(key=lambda line: int(line["tokens"]))
            if len(lines) < 2:  # one size draws no curve
                del dims[dim]
    rows = {mask: dims for mask, dims in rows.items() if dims}
    return dict(sorted(rows.items(), key=lambda item: (item[0][0], -item[0][2])))


def mask_name(mask):
    causal, heads, kv_heads = mask
    name = "causal" if causal else "full"
    return name if heads == kv_heads else f"{name}, {heads // kv_heads} query heads per key head"


def size_name(size):
    key_dim, value_dim = size
    return f"d = {key_dim}" if key_dim == value_dim else f"d = {key_dim}, dᵥ = {value_dim}"


def tokens_label(value, _):
    return f"{value / 1024:g}k" if value >= 1024 else f"{value:g}"


def time_label(value, _):
    return f"{value:g} ms" if value < 1000 else f"{value / 1000:g} s"


def draw_times(axis, lines):
    tokens = [int(line["tokens"]) for line in lines]
    for key, _, color in CONTESTANTS:
        median = [float(line[f"{key}_median_ms"]) for line in lines]
        lower = [float(line[f"{key}_lower_quartile_ms"]) for line in lines]
        upper = [float(line[f"{key}_upper_quartile_ms"]) for line in lines]
        axis.fill_between(tokens, lower, upper, color=color, alpha=0.25, linewidth=0)
        axis.plot(tokens, median, color=color, linewidth=1.6, zorder=3)
        for line, x, y in zip(lines, tokens, median):
            served = key == "csq_factored" and line["served_directly"] == "1"
            axis.plot(x, y, "x" if line.get("disturbed") else "o", color=color,
                      markerfacecolor="white" if served else color, markersize=4, zorder=4)


def mark_crossovers(axis, lines):
    notes = []
    for key, label, color in CONTESTANTS[:2]:
        crossover = lines[0][f"crossover_{key}"]
        if lines[0].get(f"verdict_{key}") == "too_busy":
            notes.append((f"{label}: too busy to judge", color))
        elif crossover:
            axis.axvline(float(crossover), color=color, linestyle="--", linewidth=1)
            notes.append((f"{label}: n = {int(float(crossover))}", color))
    for i, (note, color) in enumerate(reversed(notes)):
        axis.text(0.97, 0.04 + 0.075 * i, note, color=color, transform=axis.transAxes, ha="right", fontsize=8,
                  bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.9, "pad": 1}, zorder=5)


def draw(rows, path):
    dims = sorted({dim for panels in rows.values() for dim in panels})
    figure, axes = plt.subplots(len(rows), len(dims), figsize=(3.3 * len(dims) + 1.2, 2.8 * len(rows) + 1.3),
                                squeeze=False)
    for line_of_axes, (mask, panels) in zip(axes, rows.items()):
        for axis, dim in zip(line_of_axes, dims):
            if dim not in panels:
                axis.axis("off")
                continue
            axis.set_xscale("log", base=2)
            axis.set_yscale("log")
            name = size_name(dim) + (", " if len(size_name(dim)) < 8 else "\n") + mask_name(mask)
            axis.set_title(name, fontsize=9)
            draw_times(axis, panels[dim])
            mark_crossovers(axis, panels[dim])
            axis.xaxis.set_major_locator(LogLocator(base=2, numticks=7))
            axis.xaxis.set_major_formatter(FuncFormatter(tokens_label))
            axis.yaxis.set_major_formatter(FuncFormatter(time_label))
            axis.yaxis.set_minor_formatter(NullFormatter())
            axis.tick_params(labelsize=8)
            axis.grid(True, which="major", color="#dddddd", linewidth=0.6)
            axis.set_axisbelow(True)
    for axis in axes[-1]:
        axis.set_xlabel("tokens", fontsize=9)
    all_lines = [line for panels in rows.values() for lines in panels.values() for line in lines]
    backward = any(line.get("backward") == "1" for line in all_lines)
    handles = [Line2D([], [], color=color, marker="o", markersize=4, label=label) for _, label, color in CONTESTANTS]
    if not backward:  # which always reads
        handles.append(Line2D([], [], color=CONTESTANTS[2][2], marker="o", markersize=4, markerfacecolor="white",
                              linestyle="none", label="served directly: the summary is not read"))
    if any(line.get("disturbed") for line in all_lines):
        handles.append(Line2D([], [], color="#666666", marker="x", markersize=4, linestyle="none",
                              label="the machine was too busy to judge"))
    handles.append(Line2D([], [], color="#666666", linestyle="--", linewidth=1,
                          label="CSQ factored is faster from here"))
    columns = len(handles) if len(dims) > 3 else 1 + len(dims)
    figure.legend(handles=handles, loc="lower center", ncol=columns, fontsize=9, frameon=False)
    call = "forward and backward call" if backward else "attention call"
    dtype = all_lines[0].get("dtype") or "float"
    title = f"Time of one {call}, {dtype}, and the length from which O(n·d³) is faster than O(n²·d)"
    figure.suptitle(title if len(dims) > 2 else title.replace(", and ", ",\nand "), fontsize=11)
    legend_inches = 0.1 + 0.25 * math.ceil(len(handles) / columns)
    figure.tight_layout(rect=(0, legend_inches / figure.get_figheight(), 1, 1))
    figure.savefig(path, dpi=150)


def main():
    if len(sys.argv) > 3 or "-h" in sys.argv or "--help" in sys.argv:
        print(__doc__.strip())
        return 0 if len(sys.argv) == 2 else 2
    source = sys.argv[1] if len(sys.argv) > 1 else "crossover.csv"
    target = sys.argv[2] if len(sys.argv) > 2 else "crossover.png"
    try:
        rows = read_rows(source)
        if not rows:
            raise ValueError("holds no row with two sizes")
    except (OSError, KeyError, ValueError) as error:
        print(f"plot.py: {source}: {error}", file=sys.stderr)
        return 2
    draw(rows, target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
