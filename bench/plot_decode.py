#!/usr/bin/env python3
"""Draws decode.csv: time of a token against the context, log-log, one panel a head size and number of key heads, the
contexts marked from which CSQ is faster than softmax over its whole cache, or that the machine was too busy to tell.

    plot_decode.py [decode.csv [decode.png]]      the ending chooses the format: .png, .svg, .pdf
"""

import csv
import sys

try:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator
except ImportError:
    print("plot_decode.py: matplotlib is not installed, so no plot is drawn (apt-get install python3-matplotlib)")
    sys.exit(0)

CACHE_COLOR = "#c44e52"
# Streams whose cost does not depend on the context: column, label, colour, line.
FLAT = [
    ("softmax_window", "softmax, window 1024", "#dd8452", "-"),
    ("csq", "CSQ", "#4c72b0", "-"),
    ("gated_csq", "gated CSQ", "#55a868", (0, (4, 2))),
]


def read_rows(path):
    """{key heads of all: {head size: [lines by rising context]}}; the first is (query heads, key heads)."""
    rows = {}
    with open(path, newline="") as file:
        for line in csv.DictReader(file):
            heads = (int(line["heads"]), int(line["kv_heads"]))
            rows.setdefault(heads, {}).setdefault(int(line["head_dim"]), []).append(line)
    for dims in rows.values():
        for lines in dims.values():
            lines.sort(key=lambda line: int(line["context"]))
    return dict(sorted(rows.items(), key=lambda item: -item[0][1]))


def context_label(value, _):
    if value >= 1 << 20:
        return f"{value / (1 << 20):g}M"
    return f"{value / 1024:g}k" if value >= 1024 else f"{value:g}"


def time_label(value, _):
    return f"{value:g} µs" if value < 1000 else f"{value / 1000:g} ms" if value < 1e6 else f"{value / 1e6:g} s"


def median(line, series):
    return float(line[f"{series}_median_us"])


def draw_flat(axis, lines, series, color, style):
    there = [line for line in lines if line[f"{series}_median_us"]]
    if not there:
        return
    contexts = [int(line["context"]) for line in there]
    axis.plot(contexts, [median(line, series) for line in there], color=color, linestyle=style, linewidth=1.8, zorder=3)


def draw_cache(axis, lines):
    """Steps of a stream where there are any, beyond them calls, which are hollow."""
    for series, hollow in (("softmax_stream", False), ("softmax_call", True)):
        for line in lines:
            if line[f"{series}_median_us"] and not (hollow and line["softmax_stream_median_us"]):
                axis.plot(int(line["context"]), median(line, series),
                          "x" if line[f"{series}_disturbed"] else "o", color=CACHE_COLOR,
                          markerfacecolor="white" if hollow else CACHE_COLOR, markersize=4.5, zorder=4)
    contexts = [int(line["context"]) for line in lines]
    cache = [median(line, "softmax_stream" if line["softmax_stream_median_us"] else "softmax_call") for line in lines]
    axis.plot(contexts, cache, color=CACHE_COLOR, linewidth=1.8, zorder=3)


def mark_crossovers(axis, lines):
    notes = []
    for series, label, color, _ in FLAT[1:]:
        crossover, verdict = lines[0][f"crossover_{series}"], lines[0][f"verdict_{series}"]
        if verdict == "too_busy":
            notes.append((f"{label}: too busy to judge", color))
        elif crossover:
            axis.axvline(float(crossover), color=color, linestyle=":", linewidth=1.2, zorder=2)
            notes.append((f"{label}: from {int(float(crossover)):,} tokens", color))
        elif verdict == "at_or_below":
            notes.append((f"{label}: at every context", color))
        else:
            notes.append((f"{label}: at none", color))
    notes.append((f"by bytes: {int(float(lines[0]['predicted_crossover'])):,}", "#666666"))
    for i, (note, color) in enumerate(notes):
        axis.text(0.03, 0.94 - 0.085 * i, note, color=color, transform=axis.transAxes, ha="left", va="center",
                  fontsize=8, bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1}, zorder=5)


def draw(rows, path):
    dims = sorted({dim for panels in rows.values() for dim in panels})
    figure, axes = plt.subplots(len(rows), len(dims), figsize=(3.5 * len(dims) + 1.2, 2.9 * len(rows) + 1.3),
                                squeeze=False, sharex=True)
    for line_of_axes, (heads, panels) in zip(axes, rows.items()):
        for axis, dim in zip(line_of_axes, dims):
            if dim not in panels:
                axis.axis("off")
                continue
            lines = panels[dim]
            axis.set_xscale("log", base=2)
            axis.set_yscale("log")
            axis.set_title(f"d = {dim}, {heads[0]} query heads on {heads[1]} key heads", fontsize=9)
            draw_cache(axis, lines)
            for series, _, color, style in FLAT:
                draw_flat(axis, lines, series, color, style)
            mark_crossovers(axis, lines)
            axis.xaxis.set_major_locator(LogLocator(base=4, numticks=12))
            axis.xaxis.set_major_formatter(FuncFormatter(context_label))
            axis.xaxis.set_minor_locator(NullLocator())
            axis.yaxis.set_major_formatter(FuncFormatter(time_label))
            axis.yaxis.set_minor_formatter(NullFormatter())
            axis.tick_params(labelsize=8, labelbottom=True)
            axis.grid(True, which="major", color="#dddddd", linewidth=0.6)
            axis.set_axisbelow(True)
    for axis in axes[-1]:
        axis.set_xlabel("context, tokens", fontsize=9)
    for line_of_axes in axes:
        line_of_axes[0].set_ylabel("time of one token", fontsize=9)

    all_lines = [line for panels in rows.values() for lines in panels.values() for line in lines]
    dtype = all_lines[0].get("dtype") or "float"
    handles = [Line2D([], [], color=CACHE_COLOR, marker="o", markersize=4.5, label=f"softmax, {dtype} cache")]
    if any(not line["softmax_stream_median_us"] for line in all_lines):
        handles.append(Line2D([], [], color=CACHE_COLOR, marker="o", markersize=4.5, markerfacecolor="white",
                              linestyle="none", label="the same, as one call"))
    handles += [Line2D([], [], color=color, linestyle=style, linewidth=1.8, label=label)
                for _, label, color, style in FLAT]
    if any(line["softmax_stream_disturbed"] or line["softmax_call_disturbed"] for line in all_lines):
        handles.append(Line2D([], [], color="#666666", marker="x", markersize=4, linestyle="none",
                              label="the machine was too busy to judge"))
    handles.append(Line2D([], [], color="#666666", linestyle=":", linewidth=1.2, label="faster from here"))
    columns = len(handles) if len(dims) > 2 else 1 + len(dims)
    figure.legend(handles=handles, loc="lower center", ncol=columns, fontsize=9, frameon=False)
    figure.suptitle("Decoding: time of one token against the context" if len(dims) < 3 else
                    "Decoding: time of one token against the context, and from where on a constant state is faster",
                    fontsize=11)
    legend_inches = 0.1 + 0.25 * -(-len(handles) // columns)
    figure.tight_layout(rect=(0, legend_inches / figure.get_figheight(), 1, 1))
    figure.savefig(path, dpi=150)


def main():
    if len(sys.argv) > 3 or "-h" in sys.argv or "--help" in sys.argv:
        print(__doc__.strip())
        return 0 if len(sys.argv) == 2 else 2
    source = sys.argv[1] if len(sys.argv) > 1 else "decode.csv"
    target = sys.argv[2] if len(sys.argv) > 2 else "decode.png"
    try:
        rows = read_rows(source)
        if not rows:
            raise ValueError("holds no context")
    except (OSError, KeyError, ValueError) as error:
        print(f"plot_decode.py: {source}: {error}", file=sys.stderr)
        return 2
    draw(rows, target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
