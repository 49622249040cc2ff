"""Draw the figures of the experiments from their tables, whenever the documentation is built."""

from pathlib import Path

import matplotlib
import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
TABLES, OUT = ROOT / "explanation" / "experiments", ROOT / "_generated"
BEST = "RF balanced, neighbourhood, whitened"
WORDS = {"recall_of_present": 'recall of "present"', "macro_recall": "macro recall", "pr_auc": "PR-AUC", "macro_f1": "macro F1"}
COLOURS = ("#9fb8c8", "#1f4e66")
FORESTS = {
    "RF-11": "minus the forest on the pixel (RF-11)",
    BEST: "minus the best baseline (balanced forest, pixel and neighbourhood, whitened)",
}
NAMED = {
    "rf-neighbourhood": "minus the forest on the pixel and its neighbourhood (rf-neighbourhood)",
    "vote-neighbourhood": "minus the best baseline, its teacher (vote-neighbourhood)",
}


def differences(
    table: str, one: str, panels: list[tuple[str, str, str]], title: str, path: Path, others: dict[str, str] = FORESTS
) -> None:
    """Draw what a model scores more than two baselines: a panel for each task and kind of folds, with two standard errors."""
    from matplotlib import pyplot

    names = {"ours": "one", "model": "other", "lead": "difference", "lead_error": "standard_error"}
    found = pd.read_csv(TABLES / table).rename(columns=names)
    found = found[found["one"] == one]
    rows = len(panels) // 2
    canvas, axes = pyplot.subplots(rows, 2, figsize=(8, 1 + 2.5 * rows), sharey=True, layout="constrained", squeeze=False)
    for axis, (task, folds, words) in zip(axes.flat, panels, strict=True):
        mine = found[(found["task"] == task) & (found["folds"] == folds)]
        metrics = [metric for metric in WORDS if metric in set(mine["metric"])]
        for shift, colour, (other, label) in zip((-0.12, 0.12), COLOURS, others.items(), strict=True):
            drawn = mine[mine["other"] == other].set_index("metric").reindex(metrics)
            places = [at + shift for at in range(len(metrics))]
            axis.errorbar(places, drawn["difference"], 2 * drawn["standard_error"], fmt="o", color=colour, capsize=3, label=label)
        axis.axhline(0, color="#555", linewidth=0.8)
        axis.set_xticks(range(len(metrics)), [WORDS[metric] for metric in metrics], fontsize=8)
        axis.set_title(words, fontsize=9)
        axis.set_ylabel("difference in score", fontsize=8)
    canvas.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", fontsize=8, frameon=False)
    canvas.suptitle(f"{title}: {one} minus two baselines, ± two standard errors", fontsize=10)
    canvas.savefig(path, metadata={"Date": None})
    pyplot.close(canvas)


def setup(app):
    """Draw when a build begins."""

    def draw(_):
        matplotlib.use("Agg")
        matplotlib.rcParams["svg.hashsalt"] = "misoxr"
        OUT.mkdir(exist_ok=True)
        panels = [(task, folds, f"{task}, {folds}") for task in ("permafrost", "taxonomy") for folds in ("10 km", "remote")]
        simulated = ("simulated-8-landscapes-differences.csv", "MISO with contrast", panels, "SIMULATED, 8 landscapes")
        differences(*simulated, OUT / "simulated.svg")
        differences("landscapes-21-28.csv", "miso-nano", panels, "SIMULATED, landscapes 21 to 28", OUT / "landscapes.svg", NAMED)
        kinds = [("landcover", folds, f"land cover, {folds} folds") for folds in ("spatial", "random")]
        differences("real-differences.csv", "MISO, 3 averaged", kinds, "Real imagery and labels", OUT / "real.svg")

    app.connect("builder-inited", draw)
    return {"parallel_read_safe": True}
