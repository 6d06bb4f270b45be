"""The archives as a user gets them: built, looked into, installed with the core dependencies alone.

    python -m tests.soak.wheel

Needs `build` and `twine` (the extra `release`) and a package index; takes minutes. The source
archive is built from this folder, the wheel from the source archive. The tests of the package, the
documentation and the architecture run from the unpacked source archive. The wheel is installed into
an environment of its own, where the commands of `tests/test_extras.py` must end as they say.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path

from tests.test_extras import NEEDS, WORKS

ROOT = Path(__file__).parents[2]
FROM_THE_ARCHIVE = (
    "tests/test_architecture.py",
    "tests/test_benchmarks.py",
    "tests/test_docs.py",
    "tests/test_package.py",
    "tests/test_packaging.py",
)
UNPACKED = {"__pycache__", ".mypy_cache", ".pytest_cache"}


class Failed(Exception):
    """What is wrong with the archives."""


def run(
    *words: str | Path, cwd: Path, code: int = 0, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command, whose exit code must be ``code``."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, words)),
        cwd=cwd,
        env={**inherited, **environment},
        capture_output=True,
        text=True,
    )
    if done.returncode != code:
        line = " ".join(map(str, words))
        raise Failed(f"{line}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done


def sources(root: Path, *folders: str) -> set[str]:
    """Files of these folders, without what tools leave there."""
    return {
        path.relative_to(root).as_posix()
        for folder in folders
        for path in (root / folder).rglob("*")
        if path.is_file() and not UNPACKED & {*path.parts} and path.suffix != ".pyc"
    }


def check_wheel(wheel: Path) -> None:
    """The package whole, with its data and types; nothing else; the entry point."""
    with zipfile.ZipFile(wheel) as archive:
        names = {*archive.namelist()}
        (entry,) = [name for name in names if name.endswith(".dist-info/entry_points.txt")]
        points = archive.read(entry).decode()
    about = {name for name in names if ".dist-info/" in name}
    wanted = sources(ROOT, "fedstrategies")
    if names - about != wanted:
        raise Failed(f"{wheel.name} differs from the folder: {sorted((names - about) ^ wanted)}")
    if not {"fedstrategies/py.typed", "fedstrategies/data/mushrooms.xz"} <= names:
        raise Failed(f"{wheel.name} lacks py.typed or the bundled data")
    if not any(name.endswith("/LICENSE") for name in about):
        raise Failed(f"{wheel.name} lacks the licence")
    if "fedstrategies = fedstrategies.cli.main:main" not in points:
        raise Failed(f"{wheel.name}: entry points are {points!r}")


def check_source(archive: Path, scratch: Path) -> None:
    """All that the tests need is there, and some of them run from it."""
    with tarfile.open(archive) as packed:
        packed.extractall(scratch, filter="data")
    root = scratch / archive.name.removesuffix(".tar.gz")
    folders = ("fedstrategies", "tests", "simulations", "benchmarks", "docs", ".github")
    if missing := sources(ROOT, *folders) - sources(root, *folders):
        raise Failed(f"{archive.name} lacks {sorted(missing)}")
    run(sys.executable, "-m", "pytest", *FROM_THE_ARCHIVE, cwd=root, PYTHONPATH=str(root))


def check_installed(wheel: Path, scratch: Path) -> None:
    """Each command ends as it must where there are the core dependencies alone."""
    environment, folder = scratch / "venv", scratch / "work"
    folder.mkdir()
    (folder / "some.libsvm").write_text("1 1:2\n", encoding="utf-8")
    venv.create(environment, with_pip=True)
    scripts = environment / "bin"
    constraints = ROOT / "constraints.txt"
    (torch,) = re.findall(r"^torch==\S+$", constraints.read_text(encoding="utf-8"), re.MULTILINE)
    pip = (scripts / "python", "-m", "pip")
    run(*pip, "install", "--quiet", "-c", constraints, torch, wheel, cwd=folder)
    run(*pip, "check", cwd=folder)
    found = run(
        scripts / "python", "-c", "import fedstrategies; print(fedstrategies.__file__)", cwd=folder
    )
    if not found.stdout.startswith(str(environment)):
        raise Failed(f"the package imported is {found.stdout}")
    for line in WORKS:
        run(scripts / "fedstrategies", *line.split(), cwd=folder)
        print(f"  works: fedstrategies {line}", flush=True)
    for line, extra in NEEDS.items():
        done = run(scripts / "fedstrategies", *line.split(), cwd=folder, code=2)
        last = f'; pip install "fedstrategies[{extra}]"\n'
        if done.stdout or done.stderr.count("\n") != 1 or not done.stderr.endswith(last):
            raise Failed(f"fedstrategies {line}: {done.stdout}{done.stderr}")
        print(f"  one line: {done.stderr.strip()}", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Build the archives in a scratch folder and check them."""
    argparse.ArgumentParser(description=__doc__).parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        built = scratch / "dist"
        run(sys.executable, "-m", "build", "--outdir", built, ROOT, cwd=scratch)
        (wheel,), (source,) = built.glob("*.whl"), built.glob("*.tar.gz")
        print(f"built {source.name} and {wheel.name}", flush=True)
        run(sys.executable, "-m", "twine", "check", "--strict", wheel, source, cwd=scratch)
        check_wheel(wheel)
        print("twine and the wheel's content: as they should be", flush=True)
        check_source(source, scratch)
        print("tests from the unpacked source archive: passed", flush=True)
        check_installed(wheel, scratch)


if __name__ == "__main__":
    try:
        main()
    except Failed as error:
        sys.exit(f"wheel: {error}")
