"""The page of results, rewritten from the runs that are there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fedstrategies.experiment import Summary, read_history
from simulations.reproduce.scafflix import convex, networks
from simulations.reproduce.scafflix.figures import draw_accuracies, draw_gaps

__all__ = ["MARKERS", "write_report"]

MARKERS = ("<!-- results: convex -->", "<!-- results: networks -->", "<!-- results: end -->")
"""What stands between them on the page is rewritten; the rest is prose."""

_NAMES = {"fashion-mnist": "Fashion-MNIST, 30 clients", "shakespeare": "Shakespeare, 20 roles"}
_SHOWN = (10, 20, 50)


def write_report(runs: Path, page: Path) -> None:
    """Rewrite tables and pictures of ``page`` from the folders below ``runs``.

    Raises
    ------
    ValueError
        If the page has lost its markers.
    """
    text = page.read_text(encoding="utf-8")
    if not all(marker in text for marker in MARKERS):
        raise ValueError(f"{page}: the markers {', '.join(MARKERS)} are needed")
    pictures = page.parent / "scafflix"
    head, rest = text.split(MARKERS[0])
    middle, rest = rest.split(MARKERS[1])
    _, tail = rest.split(MARKERS[2])
    if (runs / "convex").exists():
        middle = f"\n\n{_convex(runs, pictures)}\n\n"
    page.write_text(
        head
        + MARKERS[0]
        + middle
        + MARKERS[1]
        + f"\n\n{_networks(runs, pictures)}\n\n"
        + MARKERS[2]
        + tail,
        encoding="utf-8",
    )


def _convex(runs: Path, pictures: Path) -> str:
    parts = [_authors(runs)]
    for dataset in convex.DATASETS:
        panels = {
            f"alpha = {alpha:g}": {
                method: convex.gaps(runs, dataset, alpha, method)
                for method in ("scafflix", "scafflix-fixed", "flix")
            }
            for alpha in convex.ALPHAS
        }
        title = f"{dataset}, 8 clients: median of {len(convex.SEEDS)} seeds where K is drawn"
        draw_gaps(panels, pictures / f"{dataset}.png", title=title)
        rows = []
        for caption, curves in panels.items():
            slow, fast, fixed = curves["flix"], curves["scafflix"], curves["scafflix-fixed"]
            for t in _SHOWN:
                quotient = "" if fast[t] <= 1e-15 else f"{slow[t] / fast[t]:,.0f}"
                cells = (f"{slow[t]:.2e}", _gap(fast[t]), _gap(fixed[t]), quotient)
                rows.append((caption.removeprefix("alpha = "), str(t), *cells))
        heads = ("alpha", "round", "FLIX", "Scafflix, K drawn", "Scafflix, K fixed", "FLIX / drawn")
        parts.append(
            f"### {dataset}\n\n![Gap over rounds on {dataset} for five weights]"
            f"(scafflix/{dataset}.png)\n\n{_table(heads, rows)}"
        )
    return "\n\n".join(parts)


def _gap(value: float) -> str:
    return f"{value:.2e}" if value > 1e-15 else "below 1e-15"


def _authors(runs: Path) -> str:
    found = convex.authors(runs)
    rows = []
    for alpha, published in convex.PUBLISHED.items():
        for method, name in (("flix", "gradient descent"), ("scafflix", "Scafflix")):
            ours = found[f"{method} {alpha:g}"]
            cells = [f"{a:.3g} / {b:.3g}" for a, b in zip(ours, published[method], strict=True)]
            rows.append((f"{alpha:g}", name, *cells))
    heads = ("alpha", "method", "start", "10 rounds", "20 rounds")
    return (
        f"### The authors' set-up on mushrooms\n\nGap, measured / published; p = "
        f"{found['p'][0]:.4f} (published 0.1688).\n\n{_table(heads, rows)}"
    )


def _networks(runs: Path, pictures: Path) -> str:
    return "\n\n".join(
        _network(runs, pictures, dataset)
        for dataset in networks.DATASETS
        if (runs / dataset).exists()
    )


def _network(runs: Path, pictures: Path, dataset: str) -> str:
    steps = networks.tuned(dataset, runs)
    done: dict[tuple[str, float | None], list[Path]] = {}
    for job in networks.jobs(dataset, steps):
        out = runs / dataset / job.name
        if (out / "summary.json").exists():
            done.setdefault((job.method, job.alpha), []).append(out)
    rows = []
    for (method, alpha), outs in sorted(done.items(), key=lambda item: (item[0][1] or 1, item[0])):
        last = [Summary.read(out).last for out in outs]
        weight = "none" if alpha is None else f"{alpha:g}"
        rows.append(
            (
                weight,
                method,
                str(len(outs)),
                *(
                    _spread([float(record.get(key, 0.0)) for record in last])
                    for key in ("accuracy_personal", "accuracy_personal_worst_decile", "accuracy")
                ),
                f"{np.mean([float(record['uplink_bytes']) for record in last]) / 1e6:.1f} MB",
            )
        )
    panels = {}
    for alpha in networks.ALPHAS:
        chosen = {m: done.get((m, None if m == "fedavg" else alpha), []) for m in networks.METHODS}
        if all(chosen.values()):
            panels[f"alpha = {alpha:g}"] = {m: _accuracies(o) for m, o in chosen.items()}
    picture = ""
    if panels:
        draw_accuracies(
            panels,
            pictures / f"{dataset}.png",
            title=f"{_NAMES[dataset]}: mean and range over the seeds",
        )
        picture = (
            f"![Personal accuracy over rounds on {dataset}, a panel for each weight]"
            f"(scafflix/{dataset}.png)\n\n"
        )
    tuning = ", ".join(f"{method} {step:g}" for method, step in steps.items())
    heads = ("alpha", "method", "seeds", "personal", "worst tenth", "server's model", "uplink")
    return f"### {_NAMES[dataset]}\n\n{picture}Step sizes as tuned: {tuning}.\n\n" + _table(
        heads, rows
    )


def _accuracies(outs: Sequence[Path]) -> tuple[list[int], np.ndarray]:
    curves = [
        [r for r in read_history(out / "history.jsonl") if "accuracy_personal" in r] for out in outs
    ]
    rounds = [int(record["round"]) for record in curves[0]]
    return rounds, np.array([[r["accuracy_personal"] for r in curve] for curve in curves])


def _spread(values: Sequence[float]) -> str:
    return f"{100 * np.mean(values):.1f} ({100 * min(values):.1f} to {100 * max(values):.1f}) %"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
