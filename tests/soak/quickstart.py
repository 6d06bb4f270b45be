"""Flower's quickstart app for PyTorch as it is, and with its updates compressed.

    python -m tests.soak.quickstart [--data cifar-10-folder] [--output docs/reliability.md]

The two versions of simulations/quickstart, ten nodes of which half are drawn a round, three seeds
each, on scikit-learn's digits (or, with --data, on part of CIFAR-10). Uplink is the size of all
replies as Flower serialises them, metrics and headers included.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.pages import replace_between
from tests.soak.quickstart_apps import difference, run

BEGIN, END = "<!-- begin quickstart -->", "<!-- end quickstart -->"
SEEDS = (0, 1, 2)
LAST = 5
"""Accuracy is the mean over so many last rounds: single rounds jump."""
TARGET = 50.0


def images_from(folder: Path, examples: int, file: Path) -> str:
    """Part of CIFAR-10 as the file that the app reads."""
    from fedstrategies.data import load_dataset

    data = load_dataset(str(folder))
    assert data.test is not None
    np.savez(
        file,
        train_images=_pixels(data.features[:examples]),
        train_labels=data.labels[:examples].numpy().astype(np.int64),
        test_images=_pixels(data.test[0][:2000]),
        test_labels=data.test[1][:2000].numpy().astype(np.int64),
    )
    return str(file)


def _pixels(features: Any) -> Any:
    values = features.numpy().reshape(-1, 3, 32, 32)
    return np.rint(255 * values).astype(np.uint8)


def measure(version: Any, seed: int, rounds: int, rate: float, images: str) -> dict[str, Any]:
    """One run: the test accuracy after every round, and what was sent."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "curve.json"
        grid = run(
            version,
            seed=seed,
            images=images,
            output=str(output),
            **{"num-server-rounds": rounds, "learning-rate": rate},
        )
        curve = json.loads(output.read_text(encoding="utf-8"))
    return {
        "accuracy": [point["accuracy"] for point in curve],
        "loss": [point["loss"] for point in curve],
        "uplink": grid.uplink,
        "replies": len(grid.replies),
    }


def final(result: dict[str, Any]) -> float:
    """Accuracy in per cent."""
    return 100 * statistics.mean(result["accuracy"][-LAST:])


def report(found: dict[str, Any], rounds: int, what: str) -> str:
    """The table between the markers."""
    lines = [
        f"| version, {what}, {rounds} rounds | accuracy, 3 seeds | mean | uplink | a reply |",
        "|---|---|---|---|---|",
    ]
    means, uplinks = {}, {}
    for version in ("before", "after"):
        runs = [found[f"{version}-{seed}"] for seed in SEEDS]
        values = [final(one) for one in runs]
        means[version] = statistics.mean(values)
        uplinks[version] = statistics.mean(one["uplink"] for one in runs)
        size = uplinks[version] / runs[0]["replies"]
        lines.append(
            f"| {version} | {', '.join(f'{value:.2f}' for value in values)} % "
            f"| {means[version]:.2f} % | {uplinks[version] / 1e6:.3f} MB | {size:,.0f} B |"
        )
    spread = max(
        statistics.stdev(final(found[f"{version}-{seed}"]) for seed in SEEDS)
        for version in ("before", "after")
    )
    gap = means["before"] - means["after"]
    verdict = "within" if abs(gap) <= 2 * spread else "outside"
    ratio = uplinks["before"] / uplinks["after"]
    verdict_line = (
        f"The diff has {len(difference())} lines. Uplink {ratio:.1f} times smaller (target "
        f"{TARGET:.0f}: {'met' if ratio >= TARGET else 'missed'}). Accuracy differs by {-gap:+.2f} "
        f"points, {verdict} twice the larger standard deviation over seeds ({spread:.2f})."
    )
    lines += ["", verdict_line]
    return "\n" + "\n".join(lines) + "\n"


def main() -> None:
    """Run what is not in the results yet, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=Path, default=Path("quickstart.json"))
    parser.add_argument("--output", type=Path, help="page to update (default: print the table)")
    parser.add_argument("--data", type=Path, help="folder with CIFAR-10's binary batches")
    parser.add_argument("--examples", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--learning-rate", type=float, default=0.05)
    given = parser.parse_args()
    logging.getLogger("flwr").setLevel(logging.ERROR)
    key = f"{given.data.name if given.data else 'digits'}-{given.rounds}-{given.learning_rate}"
    everything = json.loads(given.results.read_text()) if given.results.exists() else {}
    found = everything.setdefault(key, {})
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "images.npz"
        images = images_from(given.data, given.examples, file) if given.data else ""
        for seed in SEEDS:
            for version in ("before", "after"):
                name = f"{version}-{seed}"
                if name not in found:
                    found[name] = measure(version, seed, given.rounds, given.learning_rate, images)
                    given.results.write_text(json.dumps(everything), encoding="utf-8")
                one = found[name]
                print(f"{name}: {final(one):.2f} %, {one['uplink']:,} bytes up", flush=True)
    text = report(found, given.rounds, given.data.name if given.data else "digits")
    if given.output is None:
        print(text)
    else:
        replace_between(given.output, BEGIN, END, text)


if __name__ == "__main__":
    main()
