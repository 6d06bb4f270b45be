"""The apps on a Ray cluster of two nodes, started by hand on this machine, and what kills cost.

    python -m tests.soak.ray_cluster --results runs/ray_cluster.json --output docs/reliability.md

Every app through Flower's runtime and through `RayGrid`, with its final model against that of one
process; workers killed while they compute, a whole node killed, with and without another one that
joins. The results file is read again: what is in it is not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from pathlib import Path
from tempfile import gettempdir

from benchmarks.machine import commit, packages, processor
from benchmarks.pages import replace_between
from tests.soak.ray_cluster_cases import CASES, Case, Found, perform, reference
from tests.soak.ray_cluster_nodes import RayCluster
from tests.soak.ray_cluster_runs import FLOWER, Run, end_superlink, start_superlink

BEGIN, END = "<!-- begin ray_cluster -->", "<!-- end ray_cluster -->"

_NAMES = {"run_simulation": "`--backend flower`", "flwr run": "`flwr run`", "RayGrid": "`RayGrid`"}


def main() -> None:
    """Run what is missing, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=Path, default=Path("runs/ray_cluster.json"))
    parser.add_argument("--output", type=Path, help="page to update (default: print the table)")
    parser.add_argument("--only", default="", help="cases whose names contain this")
    parser.add_argument("--folder", type=Path, default=Path(gettempdir()) / "ray-cluster")
    parser.add_argument("--port", type=int, default=19200, help="100 ports from here on")
    options = parser.parse_args()
    os.environ.update(FLOWER)
    known: dict[str, Found] = {}
    if options.results.exists():
        known = json.loads(options.results.read_text(encoding="utf-8"))
    missing = [case for case in CASES if case.name not in known and options.only in case.name]
    if missing:
        # What ends this program must also end the nodes.
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
        _perform(missing, known, options)
    if options.output is None:
        sys.stdout.write(report(known))
    else:
        replace_between(options.output, BEGIN, END, report(known))


def _perform(missing: list[Case], known: dict[str, Found], options: argparse.Namespace) -> None:
    """Run cases on a cluster, and write what is known after each of them."""
    outputs, alone = options.folder / "runs", dict[str, Run]()
    with RayCluster(options.folder / "ray", options.port) as cluster:
        cluster.start("head", cpus=1)
        if any(case.path == "flwr run" for case in missing):
            start_superlink(outputs, cluster.address, options.port + 95)
        try:
            for case in missing:
                if not any(node.process.poll() is None for node in cluster.nodes[1:]):
                    cluster.start(f"node{len(cluster.nodes)}", cpus=1)
                settings = json.dumps(case.settings)
                if settings not in alone:
                    alone[settings] = reference(case, outputs)
                found = perform(case, alone[settings], cluster, outputs, options.port + 95)
                known[case.name] = found
                print(f"{case.name}: {json.dumps(found)}", flush=True)
                options.results.parent.mkdir(parents=True, exist_ok=True)
                options.results.write_text(json.dumps(known, indent=1), encoding="utf-8")
        finally:
            end_superlink(outputs)


def report(found: dict[str, Found]) -> str:
    """The tables between the markers."""
    rows = [found[case.name] for case in CASES if case.name in found]
    lines = [
        "| app | run by | clients | rounds | head | second node | largest difference |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in (row for row in rows if row["fault"] == "none"):
        head, others = _divided(row["where"])
        lines.append(
            f"| {row['app']} | {_NAMES[row['path']]} | {row['clients']} | {row['rounds']} | "
            f"{head} | {others} | {_difference(row)} |"
        )
    columns = ["killed", "app", "run by", "in round", "rounds", "client-rounds lost"]
    columns += ["recovery bytes", "largest difference", "end"]
    lines += ["", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for row in (row for row in rows if row["fault"] != "none"):
        lost = f"{sum(row['failures'].values())} in {len(row['failures'])} rounds"
        lines.append(
            f"| {row['fault']} | {row['app']} | {_NAMES[row['path']]} | {row['struck in round']} | "
            f"{row['rounds']} of {row['planned rounds']} | {lost} | "
            f"{row['recovery bytes']:,.0f} | {_difference(row)} | {_end(row)} |"
        )
    versions = ", ".join(f"{name} {number}" for name, number in packages(["flwr", "ray"]).items())
    lines += ["", f"Measured on {processor()}; {versions}; commit {commit()}."]
    return "\n" + "\n".join(lines) + "\n"


def _divided(where: dict[str, int]) -> tuple[int, int]:
    """What ran on the head, and on all other nodes."""
    head = where.get("head", 0)
    return head, sum(where.values()) - head


def _difference(row: Found) -> str:
    if row["difference"] is None or row["status"] != "done":
        return "not run to the end"
    return "0 (the same bits)" if row["difference"] == 0.0 else f"{row['difference']:.1e}"


def _end(row: Found) -> str:
    if not row["ended by itself"]:
        return "none: killed by the test"
    if row["status"] == "done":
        return "done"
    return f"{row['status']}: {row['error']}"


if __name__ == "__main__":
    main()
