"""The plots of RESULTS.md as SVG, by matplotlib; a plot that lacks its runs is not drawn."""

import math

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from claims import capacity as recall
from claims import cost as timing
from claims import depth as stacks
from claims import swap, sweeps
from claims.results import Missing, NoNumber
from claims.spread import Spread

# The same file from the same numbers.
matplotlib.rcParams["svg.hashsalt"] = "csq"
matplotlib.rcParams["font.size"] = 9

COLORS = {
    "softmax": "#c44e52",
    "csq": "#4c72b0",
    "squared": "#dd8452",
    "shifted": "#8172b3",
    "linear": "#55a868",
    "linear_equal_state": "#937860",
    "chain": "#333333",
}
PAPER = {"color": "#999999", "linestyle": "--", "marker": "s", "markersize": 4, "linewidth": 1}


def finish(figure, folder, name, below=0):
    """Saves it, with `below` inches left for a legend."""
    for axis in figure.axes:
        axis.grid(True, which="major", color="#dddddd", linewidth=0.6)
        axis.set_axisbelow(True)
    figure.tight_layout(rect=(0, below / figure.get_figheight(), 1, 1))
    figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
    plt.close(figure)


def band(axis, x, spreads, **style):
    """Median and, where there are several seeds, the range."""
    axis.plot(x, [spread.median for spread in spreads], marker="o", markersize=4, linewidth=1.5, **style)
    if any(spread.count > 1 for spread in spreads):
        low, high = [spread.low for spread in spreads], [spread.high for spread in spreads]
        axis.fill_between(x, low, high, color=style["color"], alpha=0.2, linewidth=0)


def run_weights(results, penalty):
    """Those of the weights that have been run."""
    found = []
    for weight in sweeps.WEIGHTS[penalty]:
        try:
            sweeps.sweep(results, "accuracy", penalty, weight)
            found.append(weight)
        except Missing:
            pass
    if len(found) < 3:
        raise Missing(penalty)
    return found


def sweep_figure(results, folder, name, penalty, panels):
    weights, run = sweeps.WEIGHTS[penalty], run_weights(results, penalty)
    figure, axes = plt.subplots(1, len(panels), figsize=(3.6 * len(panels), 3))
    for axis, (column, label, paper, scale) in zip(axes, panels):
        spreads = [sweeps.sweep(results, column, penalty, weight) for weight in run]
        axis.set_xscale("symlog", linthresh=weights[1])
        axis.set_xlim(0, 1.5 * weights[-1])
        axis.set_xticks([0, *(weight for weight in weights if weight and math.log10(weight) % 1 == 0)])
        axis.set_yscale(scale)
        if column == "accuracy":
            axis.set_ylim(0, 1.05)
        if paper:
            axis.plot(weights, paper, label="the paper", **PAPER)
        band(axis, run, spreads, color=COLORS["csq"], label="here")
        axis.set_xlabel("λ")
        axis.set_title(label, fontsize=9)
        axis.legend(fontsize=8, frameon=False)
    finish(figure, folder, name)


def figure1(results, folder):
    panels = (
        ("max_abs_z", "max|Z|", [*sweeps.PAPER_BOUND.values()], "linear"),
        ("overflow", "Pr(|Z| > 4)", None, "linear"),
        ("accuracy", "accuracy", None, "linear"),
    )
    sweep_figure(results, folder, "figure1", "bound_penalty", panels)


def figure2(results, folder):
    sizes, queries, keys = zip(*sweeps.PAPER_RANK.values())
    panels = (
        ("max_abs_z", "max|Z|", sizes, "log"),
        ("stable_rank_q", "stable rank of Qc", queries, "linear"),
        ("stable_rank_k", "stable rank of Kc", keys, "linear"),
        ("accuracy", "accuracy", None, "linear"),
    )
    sweep_figure(results, folder, "figure2", "rank_penalty", panels)


def table2(results, folder):
    figure, axis = plt.subplots(figsize=(4.2, 3))
    spreads = [
        swap.swapped(results, f"polynomial_{degree}", "before", "max_logit_deviation") for degree in swap.DEGREES
    ]
    band(axis, swap.DEGREES, spreads, color=COLORS["csq"], label="here")
    axis.plot(list(swap.PAPER_SWAP), [deviation for deviation, _ in swap.PAPER_SWAP.values()], label="the paper", **PAPER)
    axis.set_yscale("log")
    axis.set_xticks(swap.DEGREES)
    axis.set_xlabel("degree of the polynomial")
    axis.set_title("largest deviation of a logit after the swap", fontsize=9)
    axis.legend(fontsize=8, frameon=False)
    finish(figure, folder, "table2")


def tokens_axis(axis):
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.xaxis.set_major_formatter(lambda n, _: f"{n / 1024:g}k" if n >= 1024 else f"{n:g}")
    axis.set_xlabel("tokens")


def cost(results, folder):
    panels = [(causal, step) for step in timing.STEPS for causal in (0, 1)]
    figure, axes = plt.subplots(2, 2, figsize=(8.5, 6.5), sharex=True)
    for axis, (causal, step) in zip(axes.flat, panels):
        for part, line in (("softmax", "--"), ("csq", "-")):
            heads = timing.head_times(results, part, step)
            times = {dim: at for (dim, mask), at in heads.items() if mask == causal}
            for shade, (dim, at) in enumerate(sorted(times.items())):
                tokens = sorted(at)
                axis.plot(
                    tokens,
                    [1000 * at[n].milliseconds / n for n in tokens],
                    line,
                    color=COLORS[part],
                    alpha=0.35 + 0.65 * (shade + 1) / len(times),
                    label=f"{'CSQ' if part == 'csq' else part}, d = {dim}",
                )
        tokens_axis(axis)
        axis.set_title(f"{'causal' if causal else 'full'}, {step.replace('+', ' and ')}: µs a token", fontsize=9)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="lower center", ncol=4, fontsize=8, frameon=False)
    finish(figure, folder, "cost", below=0.5)


def layer(results, folder):
    budget = timing.layer_budget(results)
    tokens = sorted(budget)
    figure, axis = plt.subplots(figsize=(4.6, 3.4))
    dense = [sum(budget[n][part].milliseconds for part in ("projections", "feed_forward")) / n for n in tokens]
    axis.plot(tokens, dense, color="#777777", label="projections and feed forward")
    for part, name in (("softmax", "softmax, 32 heads"), ("csq", "CSQ, 32 heads")):
        times = [budget[n][part].milliseconds / n for n in tokens]
        axis.plot(tokens, times, color=COLORS[part], label=name)
        for n, time in zip(tokens, times):
            face = COLORS[part] if budget[n][part].measured else "white"
            axis.plot(n, time, "o", color=COLORS[part], markerfacecolor=face, markersize=4)
    tokens_axis(axis)
    axis.set_title("d_model = 4096: ms a token (hollow: scaled)", fontsize=9)
    axis.legend(fontsize=8, frameon=False)
    finish(figure, folder, "layer")


def capacity(results, folder):
    figure, axes = plt.subplots(1, len(recall.DIMS), figsize=(10.5, 3.2), sharey=True)
    for axis, dim in zip(axes, recall.DIMS):
        for name in recall.MECHANISMS:
            spreads = [recall.recall(results, name, dim, ratio) for ratio in recall.RATIOS]
            band(axis, recall.RATIOS, spreads, color=COLORS[name], label=name.replace("_", ", "))
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter(lambda ratio, _: f"{ratio:g}")
        axis.set_xlabel("pairs/D")
        axis.set_title(f"d = {dim}, D = {(dim + 1) * (dim + 2) // 2}: accuracy", fontsize=9)
    axes[0].legend(fontsize=7, frameon=False)
    finish(figure, folder, "capacity")


def depth(results, folder):
    figure, axes = plt.subplots(1, 2, figsize=(7.5, 3.2), sharey=True)
    for axis, (power, needed) in zip(axes, stacks.LOG2.items()):
        for name in ("chain", "squared", "shifted", "csq", "softmax"):
            spreads = [stacks.depth_error(results, power, count, name) for count in stacks.DEPTHS]
            # The chain built by hand reaches rounding: below what the axis shows.
            spreads = [Spread(*(max(value, 1e-5) for value in spread[:3]), spread.count) for spread in spreads]
            label = "by hand" if name == "chain" else name
            band(axis, stacks.DEPTHS, spreads, color=COLORS[name], label=label)
        axis.axvline(needed, color="#999999", linestyle=":", linewidth=1)
        axis.axhline(stacks.SOLVED_ERROR, color="#999999", linestyle="--", linewidth=1)
        axis.set_yscale("log")
        axis.set_xticks(stacks.DEPTHS)
        axis.set_xlabel("layers")
        axis.set_title(f"p = {power}: relative error (dotted: log₂ p, dashed: solved)", fontsize=9)
    axes[0].legend(fontsize=7, frameon=False)
    finish(figure, folder, "depth")


def draw(results, folder):
    missing = []
    for plot in (figure1, figure2, table2, cost, layer, capacity, depth):
        try:
            plot(results, folder)
        except NoNumber as lack:
            plt.close("all")
            (folder / f"{plot.__name__}.svg").unlink(missing_ok=True)  # of other runs
            missing.append(f"{plot.__name__} ({lack})")
    if missing:
        print(f"plots.py: not drawn: {', '.join(missing)}")
