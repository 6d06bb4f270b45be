"""The apps on a real deployment: SuperLink and four SuperNodes, each a process of its own.

    python -m tests.soak.deployment [--results FILE] [--output docs/reliability.md]

Needs no network and no GPU. Cases that the results file has already are not repeated; `--again
CASE` repeats one. Logs, results and the nodes' directories stay under the folder.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from benchmarks.machine import packages, processor
from benchmarks.pages import replace_between
from tests.soak.deployment_cases import CASES, Case
from tests.soak.deployment_common import Outcome, Skipped

BEGIN, END = "<!-- begin deployment -->", "<!-- end deployment -->"
FIRST_PORT = 19100


def execute(case: Case, folder: Path, port: int) -> Outcome:
    """One case in a folder of its own; what Flower could not do is its failure."""
    place = folder / case.name
    if place.exists():
        shutil.rmtree(place)
    place.mkdir(parents=True)
    began = time.monotonic()
    try:
        outcome = case.body(place, port)
    except Skipped as reason:
        outcome = Outcome(passed=None, result=str(reason))
    except Exception as error:  # it is this case's failure; the others are run all the same
        traceback.print_exc()
        outcome = Outcome(passed=False, result=f"{type(error).__name__}: {error}")
    outcome.facts["seconds"] = round(time.monotonic() - began, 1)
    return outcome


def table(results: dict[str, dict[str, object]]) -> str:
    """What stands between the markers."""
    lines = ["| case | what is shown | result | seconds |", "|---|---|---|---|"]
    words = {True: "held", False: "**missed**", None: "skipped"}
    for case in CASES:
        found = results.get(case.name)
        if found is None:
            lines.append(f"| {case.name} | {case.shows} | not run | |")
            continue
        text = f"{words[found['passed']]}: {found['result']}"  # type: ignore[index]
        lines.append(f"| {case.name} | {case.shows} | {text} | {found['facts']['seconds']:.0f} |")  # type: ignore[index]
    versions = ", ".join(f"{n} {v}" for n, v in packages(["flwr", "torch", "numpy"]).items())
    lines += ["", f"Measured on {processor()}; {versions}."]
    return "\n" + "\n".join(lines) + "\n"


def main() -> int:
    """Run the cases and write the table; 1 if a promise was missed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=Path, default=Path("runs/soak/deployment.json"))
    parser.add_argument("--folder", type=Path, help="default: a temporary one, which stays")
    parser.add_argument("--output", type=Path, help="page to update (default: print the table)")
    parser.add_argument("--port", type=int, default=FIRST_PORT, help="first of the ports used")
    parser.add_argument("--only", action="append", metavar="CASE", help="repeatable")
    parser.add_argument("--again", action="append", default=[], metavar="CASE", help="repeatable")
    options = parser.parse_args()
    # Ended from outside, the processes of Flower are ended too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = options.folder or Path(tempfile.mkdtemp(prefix="fedstrategies-deployment-"))
    results: dict[str, dict[str, object]] = {}
    if options.results.exists():
        results = json.loads(options.results.read_text(encoding="utf-8"))
    options.results.parent.mkdir(parents=True, exist_ok=True)
    say: Callable[[str], None] = lambda text: print(text, flush=True)  # noqa: E731
    for number, case in enumerate(CASES):
        wanted = options.only is None or case.name in options.only
        if not wanted or (case.name in results and case.name not in options.again):
            continue
        say(f"{case.name}: {case.shows} ({folder / case.name})")
        outcome = execute(case, folder.absolute(), options.port + 8 * number)
        results[case.name] = vars(outcome)
        options.results.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        say(f"  {outcome.passed} in {outcome.facts['seconds']} s: {outcome.result}")
    if options.output is None:
        say(table(results))
    else:
        replace_between(options.output, BEGIN, END, table(results))
    return int(any(found["passed"] is False for found in results.values()))


if __name__ == "__main__":
    sys.exit(main())
