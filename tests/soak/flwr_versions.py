"""The tests that touch Flower, with the oldest and the newest flwr that the package admits.

    python -m tests.soak.flwr_versions --output docs/reliability.md
    python -m tests.soak.flwr_versions 1.40.0

The index is asked which versions there are. From either end the first is taken that installs, and
those that do not are named with pip's reason. Each version gets an environment of its own, with
the versions of `constraints.txt` except where flwr itself asks for another. Versions that are
given are tried whether the package admits them or not.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tomllib
import venv
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from benchmarks.pages import replace_between

ROOT = Path(__file__).parents[2]
BEGIN, END = "<!-- begin flwr_versions -->", "<!-- end flwr_versions -->"

#: What imports Flower or builds its messages; the mathematics does not know which flwr there is.
TOUCHING_FLOWER = (
    "tests/flower",
    "tests/engines",
    "tests/efbv/test_downlink.py",
    "tests/fedp3/test_client_level.py",
    "tests/fedp3/test_ldp.py",
    "tests/fedp3/test_strategy.py",
    "tests/scafflix/test_strategy.py",
    "tests/sppm/test_strategy.py",
    "tests/experiment/test_flower_app.py",
    "tests/experiment/test_fedp3_app.py",
    "tests/experiment/test_scafflix_app.py",
    "tests/experiment/test_sppm_app.py",
    "tests/experiment/test_flower_backend.py",
    "tests/experiment/test_runner.py",
    "tests/cli/test_doctor.py",
    "tests/test_architecture.py",
    "tests/test_package.py",
    "tests/test_runtime.py",
)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one version.

    Parameters
    ----------
    version
        Of flwr.
    refused
        Why it does not install, in pip's words; empty if it does.
    passed, failed, skipped
        Numbers of tests.
    failures
        Names of those that failed.
    """

    version: str
    refused: str = ""
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    failures: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Installed, and every test that was not skipped passed."""
        return not self.refused and not self.failed and self.passed > 0


def project() -> dict[str, list[str]]:
    """Requirements by extra; those of the package itself under the empty name."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {"": table["dependencies"], **table["optional-dependencies"]}


def admitted() -> list[Version]:
    """Released versions of flwr within the package's bounds, oldest first."""
    (bounds,) = [
        found.specifier for found in map(Requirement, project()[""]) if found.name == "flwr"
    ]
    done = pip(sys.executable, "index", "versions", "flwr")
    if done.returncode:
        raise SystemExit(f"the index does not say which versions of flwr there are:\n{done.stderr}")
    (listed,) = re.findall(r"^Available versions: (.*)$", done.stdout, re.MULTILINE)
    return sorted(version for version in map(Version, listed.split(", ")) if version in bounds)


def pip(python: str | Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Pip of that interpreter."""
    return subprocess.run(
        [str(python), "-m", "pip", *arguments], capture_output=True, text=True, check=False
    )


def constraints(own: Iterable[str]) -> Iterator[str]:
    """The pinned versions of ``constraints.txt`` but for flwr and what it requires itself."""
    free = {"flwr", *(canonicalize_name(Requirement(entry).name) for entry in own)}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        name, pinned, _ = line.partition("==")
        if pinned and canonicalize_name(name) not in free:
            yield line


def install(version: str, folder: Path) -> str:
    """Make an environment with this flwr and the package; why that is not possible, or nothing."""
    python = folder / "bin" / "python"
    if (folder / ".installed").exists():
        return ""
    venv.create(folder, clear=True, with_pip=True)
    # Alone at first: what it asks for decides which pins can stay.
    done = pip(python, "install", "--quiet", "--no-deps", f"flwr=={version}")
    if done.returncode:
        return reason(done.stderr)
    ask = "import importlib.metadata as m, json; print(json.dumps(m.requires('flwr')))"
    own = json.loads(subprocess.check_output([python, "-c", ask], text=True))
    pins = folder / "constraints.txt"
    pins.write_text("\n".join([*constraints(own), f"flwr=={version}", ""]), encoding="utf-8")
    wanted = [
        re.sub(r"^(flwr(\[\w+\])?)[<>=].*", rf"\1=={version}", entry)
        for entries in project().values()
        for entry in entries
    ]
    done = pip(python, "install", "--quiet", "-c", str(pins), *wanted)
    # Without dependencies: a version beyond the bounds can then be tried too.
    if not done.returncode:
        done = pip(python, "install", "--quiet", "--no-deps", "-e", str(ROOT))
    if done.returncode:
        return reason(done.stderr)
    (folder / ".installed").touch()
    return ""


def reason(stderr: str) -> str:
    """The last error of pip that names what is missing, on one line."""
    lines = [line.removeprefix("ERROR: ") for line in stderr.splitlines() if "ERROR: " in line]
    telling = [line for line in lines if not line.startswith("ResolutionImpossible")]
    return (telling or lines or ["pip gave no reason"])[-1]


def tests(python: Path, folder: Path) -> tuple[int, int, int, tuple[str, ...]]:
    """Run them, with workers and then those that start runtimes; passed, failed, skipped, names."""
    passed = failed = skipped = 0
    names: list[str] = []
    for marked, options in (("not runtime", ("-n", "auto")), ("runtime", ())):
        report = folder / "report.xml"
        report.unlink(missing_ok=True)
        subprocess.run(
            [python, "-m", "pytest", *options, "-m", marked, f"--junitxml={report}"]
            + [path for path in TOUCHING_FLOWER if (ROOT / path).exists()],
            cwd=ROOT,
            env={**os.environ, "FLWR_HOME": str(folder / "flwr")},
            check=False,
        )
        if not report.exists():
            raise SystemExit(f"pytest ended without a report (-m {marked!r}, {folder})")
        for case in ElementTree.parse(report).iter("testcase"):
            if case.find("failure") is not None or case.find("error") is not None:
                failed += 1
                names.append(f"{case.get('classname')}::{case.get('name')}")
            elif case.find("skipped") is not None:
                skipped += 1
            else:
                passed += 1
    return passed, failed, skipped, tuple(names)


def examine(version: str, folder: Path) -> Outcome:
    """Install one version and run the tests with it."""
    print(f"flwr {version}: installing", flush=True)
    if refused := install(version, folder):
        print(f"flwr {version} does not install: {refused}", flush=True)
        return Outcome(version=version, refused=refused)
    passed, failed, skipped, failures = tests(folder / "bin" / "python", folder)
    return Outcome(
        version=version, passed=passed, failed=failed, skipped=skipped, failures=failures
    )


def ends(versions: list[str], folder: Path) -> Iterator[Outcome]:
    """Outcomes from the oldest on, and from the newest back, until one installs at each end."""
    seen: dict[str, Outcome] = {}
    for order in (versions, versions[::-1]):
        for version in order:
            if version not in seen:
                seen[version] = examine(version, folder / version)
                yield seen[version]
            if not seen[version].refused:
                break


def table(outcomes: Iterable[Outcome]) -> str:
    """Markdown, oldest first."""
    lines = ["| flwr | passed | failed | skipped |", "|---|---|---|---|"]
    for found in sorted(outcomes, key=lambda outcome: Version(outcome.version)):
        cells = f"{found.passed:,} | {found.failed:,} | {found.skipped:,}"
        lines.append(f"| {found.version} | {'does not install | | ' if found.refused else cells} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run and print; exit code 1 if a version that installs fails, or none installs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("versions", nargs="*", help="instead of the two ends of the bounds")
    parser.add_argument("--folder", type=Path, default=ROOT / ".venv-matrix")
    parser.add_argument("--output", type=Path, help="page to write the table into")
    parser.add_argument("--results", type=Path, help="JSON file for the outcomes")
    options = parser.parse_args()
    if options.output and BEGIN not in options.output.read_text(encoding="utf-8"):
        parser.error(f"{options.output} has no line {BEGIN}")
    folder = options.folder.resolve()
    if options.versions:
        outcomes = [examine(version, folder / version) for version in options.versions]
    else:
        outcomes = list(ends([str(version) for version in admitted()], folder))
    text = table(outcomes)
    print(text)
    for found in outcomes:
        for line in (found.refused, *found.failures):
            if line:
                print(f"{found.version}: {line}")
    if options.results:
        options.results.write_text(json.dumps([asdict(found) for found in outcomes], indent=2))
    if options.output:
        replace_between(options.output, BEGIN, END, f"\n{text}")
    installed = [found for found in outcomes if not found.refused]
    sys.exit(not installed or not all(found.holds for found in installed))


if __name__ == "__main__":
    main()
