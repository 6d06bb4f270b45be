"""Without an extra: what needs it ends in one line that names it, and all else works."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]

EXTRAS = {
    "simulation": ("ray",),
    "data": ("sklearn", "scipy", "flwr_datasets", "datasets", "pandas"),
    "plots": ("matplotlib",),
    "privacy": ("opacus",),
    "tensorboard": ("tensorboard",),
}
PRIVATE = "--compressor identity --max-grad-norm 1 --clip-rows 1 --l2 0.001 --rounds 2"
STRATA = "--sampling stratified --cohort-size 2 --prox-stepsize 1 --inner-rounds 1 --rounds 2"
NETWORK = "--partition iid --model mlp --l2 0 --stepsize 0.1"

NEEDS = {
    "plot one -o picture.png": "plots",
    "run efbv --dataset digits --model mlp --stepsize 0.1": "data",
    "run efbv --dataset some.libsvm": "data",
    "run efbv --partition dirichlet:alpha=1": "data",
    "run efbv --partition classes:per_client=1": "data",
    "run efbv --partition features": "data",
    f"run sppm --clients 10 --strata features {STRATA}": "data",
    f"run efbv --epsilon 4 {PRIVATE}": "privacy",
    f"run efbv --noise-multiplier 1 {PRIVATE}": "privacy",
    f"run efbv {NETWORK} --noise-multiplier 1 --max-grad-norm 1 --compressor identity": "privacy",
    "run efbv --clients 4 --log tensorboard": "tensorboard",
    "run efbv --clients 4 --backend ray": "simulation",
    "run efbv --clients 4 --backend flower": "simulation",
}
WORKS = (
    "--version",
    "--help",
    "info",
    "info --model lenet",
    "doctor",
    "run efbv --rounds 3 --clients 4 --out one",
    "compare efbv ef21 --rounds 2 --clients 4 --out two",
    "report one -o report.html",
    "sweep efbv --rounds 2 --clients 4 --over seed=1,2 --out three",
    f"run fedavg {NETWORK} --rounds 2 --clients 4 --out four",
)

PROGRAM = """
import contextlib, io, json, sys
for module in json.loads(sys.argv[1]):
    sys.modules[module] = None
from fedstrategies.cli.main import main
for line in json.loads(sys.argv[2]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(line.split())
        except SystemExit as end:
            code = end.code
    print(json.dumps([line, code, out.getvalue(), err.getvalue()]))
"""


class Ended(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ended]:
    """How each command ends where no extra is installed; one process, as torch takes its time."""
    folder = tmp_path_factory.mktemp("bare")
    (folder / "some.libsvm").write_text("1 1:2\n", encoding="utf-8")
    missing = [module for modules in EXTRAS.values() for module in modules]
    arguments = json.dumps(missing), json.dumps([*WORKS, *NEEDS])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return {line: Ended(*rest) for line, *rest in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("line", WORKS)
def test_the_core_needs_no_extra(line: str, ended: dict[str, Ended]) -> None:
    assert ended[line].code == 0, ended[line].err
    assert ended[line].out


@pytest.mark.parametrize("line", NEEDS)
def test_a_missing_extra_is_one_line(line: str, ended: dict[str, Ended]) -> None:
    code, out, err = ended[line]
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert err.startswith("fedstrategies: ")
    assert err.endswith(f'; pip install "fedstrategies[{NEEDS[line]}]"\n')


@pytest.mark.parametrize("line", [line for line in WORKS if line.startswith(("run", "comp", "sw"))])
def test_a_picture_that_is_not_drawn_is_told(line: str, ended: dict[str, Ended]) -> None:
    assert ended[line].out.count('matplotlib is missing; pip install "fedstrategies[plots]"') == 1


def test_every_extra_is_missed_by_some_command() -> None:
    assert {*NEEDS.values()} == {*EXTRAS}


def test_the_extras_that_are_named_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = {
        extra
        for path in (ROOT / "fedstrategies").rglob("*.py")
        for extra in re.findall(r"install_hint\(['\"](\w+)", path.read_text(encoding="utf-8"))
    }
    assert {*EXTRAS} == named
    assert named <= {*project["optional-dependencies"]}
