"""`fedstrategies doctor --app`: what is read off the files of a Flower app."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedstrategies.experiment.doctor.finding import Finding
from fedstrategies.experiment.doctor.flower_app import check_flower_app

ROOT = Path(__file__).parents[2]
PROJECT = """
[tool.flwr.app.components]
serverapp = "mine.server:app"
clientapp = "mine.client:app"
"""
SERVER = """
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
app = ServerApp()
strategy = FedAvg(fraction_evaluate=0.0)
"""
CLIENT = """
from flwr.clientapp import ClientApp
app = ClientApp()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine").mkdir()
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    (tmp_path / "mine" / "__init__.py").write_text("")
    (tmp_path / "mine" / "server.py").write_text(SERVER)
    (tmp_path / "mine" / "client.py").write_text(CLIENT)
    return tmp_path


def found(folder: Path) -> dict[str, Finding]:
    return {finding.subject: finding for finding in check_flower_app(folder)}


def test_a_sound_app_has_one_note(folder: Path) -> None:
    findings = found(folder)
    assert [one.level for one in findings.values()] == ["ok", "ok", "note"]
    assert "ends with 0" in findings["exit code"].text


@pytest.mark.parametrize("name", ["efbv", "scafflix", "sppm", "fedp3"])
def test_our_own_apps_are_sound(name: str) -> None:
    findings = found(ROOT / "simulations" / name)
    assert {one.level for one in findings.values()} == {"ok", "note"}
    assert set(findings) == {"serverapp", "clientapp", "exit code"}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ('"mine.servre:app"', "no module mine.servre"),
        ('"mine.server:application"', "defines no application"),
        ('"mine.server"', "does not name"),
        ("3", "does not name"),
    ],
)
def test_components_that_are_not_there(folder: Path, value: str, said: str) -> None:
    (folder / "pyproject.toml").write_text(PROJECT.replace('"mine.server:app"', value))
    finding = found(folder)["serverapp"]
    assert (finding.level, said in finding.text) == ("problem", True)
    assert "[tool.flwr.app.components]" in finding.advice


@pytest.mark.parametrize("text", [None, "[project]\n", "[tool.flwr.app]\ncomponents = 3\n", "= 1"])
def test_no_app(folder: Path, text: str | None) -> None:
    if text is None:
        (folder / "pyproject.toml").unlink()
    else:
        (folder / "pyproject.toml").write_text(text)
    assert [finding.level for finding in check_flower_app(folder)] == ["problem"]


@pytest.mark.parametrize(
    ("code", "subject"),
    [
        ("import random\nrandom.seed(0)\n", "seed"),
        ("import numpy as np\nnp.random.seed(0)\n", "seed"),
        ("from fedstrategies import EFBV\nEFBV(compressor=None)\n", "evaluation"),
        ("import flwr.serverapp.strategy as s\ns.FedAdam()\n", "evaluation"),
        ("run_simulation(server_app=s, client_app=c)\nc = client_app(f)\n", "pickled"),
        ("def broken(:\n", "app"),
    ],
)
def test_habits(folder: Path, code: str, subject: str) -> None:
    assert subject not in found(folder)
    (folder / "mine" / "more.py").write_text(code)
    finding = found(folder)[subject]
    assert "more.py" in finding.text
    assert finding.level == ("problem" if subject == "app" else "note")


@pytest.mark.parametrize(
    "code",
    [
        "from fedstrategies import EFBV\nEFBV(compressor=None, **settings)\n",
        "from fedstrategies import Compressed\nCompressed(strategy)\n",
        "import numpy as np\nnp.random.default_rng(0)\n",
    ],
)
def test_what_is_no_such_habit(folder: Path, code: str) -> None:
    (folder / "mine" / "more.py").write_text(code)
    assert set(found(folder)) == {"serverapp", "clientapp", "exit code"}


def test_the_command(fedstrategies, problem, folder: Path) -> None:
    (folder / "mine" / "server.py").unlink()
    code, out, err = fedstrategies("doctor", "ef21", *problem, "--app", folder)
    assert (code, err) == (1, "")
    assert "no module mine.server" in out
    assert out.splitlines()[-1] == "1 problem"
