"""The same experiment on every backend: in-process, Ray actors, Flower's runtime, `flwr run`.

These start real processes: seconds each, so all of them share few runs.
"""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fedstrategies import experiment
from fedstrategies.experiment import EFBVConfig, read_history, run

pytestmark = pytest.mark.runtime
pytest.importorskip("ray", reason="the extra 'simulation' is not installed")

ROOT = Path(__file__).parents[1]
SETTINGS = {
    "algorithm": "efbv",
    "clients": 6,
    "compressor": "rand-k:k=5",
    "shift_init": "gradient",
    "rounds": 4,
    "participation": 4,
    "quiet": True,
}


def without_seconds(folder: Path) -> list[dict[str, object]]:
    records = [dict(record) for record in read_history(folder / "history.jsonl")]
    for record in records:
        del record["seconds"]
    return records


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, object]]:
    folder = tmp_path_factory.mktemp("cohort") / "out"
    run(EFBVConfig(**SETTINGS, out=str(folder), fast="require"))  # type: ignore[arg-type]
    return without_seconds(folder)


def assert_same(records: list[dict[str, object]], reference: list[dict[str, object]]) -> None:
    """Bytes and counts equal exactly, measured reals to 1e-9."""
    assert len(records) == len(reference) == 5
    for ours, theirs in zip(records, reference, strict=True):
        assert ours.keys() == theirs.keys()
        for key, value in theirs.items():
            if isinstance(value, float):
                assert ours[key] == pytest.approx(value, rel=1e-9), key
            else:
                assert ours[key] == value, key


def test_message_path_gives_the_same_history(
    reference: list[dict[str, object]], tmp_path: Path
) -> None:
    config = EFBVConfig(**SETTINGS, out=str(tmp_path / "out"), fast="never")  # type: ignore[arg-type]
    run(config)
    assert without_seconds(tmp_path / "out") == reference


ONE_ACTOR = float(max(2, os.cpu_count() or 2))

# Configuration, settings, and what the runtime is asked for. EF-BV with its clients' state in
# files; Scafflix, which settles; SPPM-AS with local solvers and strata, so point and anchor travel
# and cohorts differ; FedP3 with private layers: models in two frames, uploads of several lengths,
# secrets and ledgers in the nodes' state. One actor serves SPPM-AS alone, whose clients remember
# nothing: elsewhere it could remember what the state of its nodes has lost.
CASES: dict[str, tuple[str, dict[str, object], dict[str, object]]] = {
    "efbv": ("EFBVConfig", SETTINGS, {"cpus_per_client": 1.0}),
    "scafflix": (
        "ScafflixConfig",
        {
            "clients": 6,
            "alpha": "0.2,0.4,1,0.6,0,0.3",
            "rounds": 4,
            "participation": 3,
            "quiet": True,
        },
        {},
    ),
    "sppm": (
        "SPPMConfig",
        {
            "clients": 6,
            "sampling": "stratified",
            "cohort_size": 2,
            "solver": "local-gd:steps=2",
            "inner_rounds": 2,
            "rounds": 4,
            "quiet": True,
        },
        {"cpus_per_client": ONE_ACTOR},
    ),
    "fedp3": (
        "FedP3Config",
        {
            "clients": 6,
            "dataset": "digits",
            "model": "mlp",
            "width": 8,
            "l2": 0.0,
            "stepsize": 0.2,
            "layers": "capacity:3000",
            "keep": 0.5,
            "local_steps": 2,
            "batch_size": 50,
            "participation": 3,
            "rounds": 4,
            "epsilon": 8.0,
            "max_grad_norm": 1.0,
            "quiet": True,
        },
        {},
    ),
}


def installed(name: str) -> bool:
    return name != "fedp3" or importlib.util.find_spec("opacus") is not None


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the runs of all cases, one after another in two processes of their own.

    Ray's workers and Flower's threads must not outlive the tests; and nothing of a run may be
    left to the next: each has a Ray of its own, as where it is the only one. Two, as a run waits
    for processes to start most of its time.
    """
    folder = tmp_path_factory.mktemp("elsewhere")
    cases = {name: case for name, case in CASES.items() if installed(name)}
    begin = """
import ray
from fedstrategies import experiment
"""
    actors = f"""
for fast in ("require", "never"):
    experiment.run(experiment.EFBVConfig(
        **{SETTINGS!r}, out="actors-" + fast, fast=fast, backend="ray", actors=2,
        cpus_per_client=0.5))
    assert not ray.is_initialized()
"""
    flower = f"""
for name, (kind, settings, resources) in {cases!r}.items():
    states = {str(folder / "states")!r} if name == "efbv" else None
    experiment.run(getattr(experiment, kind)(
        **settings, **resources, out=name, backend="flower", state_dir=states))
    assert not ray.is_initialized()
"""
    running = [
        subprocess.Popen(
            [sys.executable, "-c", begin + code],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
        )
        for code in (actors, flower)
    ]
    with ThreadPoolExecutor() as threads:  # a full pipe would stop them
        said = list(threads.map(lambda process: process.communicate(timeout=900)[1], running))
    for process, stderr in zip(running, said, strict=True):
        assert process.returncode == 0, stderr[-4000:]
    return folder


@pytest.mark.parametrize("fast", ["require", "never"])
def test_actors_that_keep_their_clients_give_the_same_history(
    reference: list[dict[str, object]], elsewhere: Path, fast: str
) -> None:
    """Whole cohorts and one message a client; losses and gradients too, bit for bit."""
    assert without_seconds(elsewhere / f"actors-{fast}") == reference
    summary = json.loads((elsewhere / f"actors-{fast}" / "summary.json").read_text())
    assert summary["backend"] == "ray"


@pytest.mark.parametrize("name", CASES)
def test_flowers_runtime_gives_the_history_of_one_process(
    elsewhere: Path, tmp_path: Path, name: str
) -> None:
    if not installed(name):
        pytest.skip("the extra 'privacy' is not installed")
    kind, settings, _ = CASES[name]
    run(getattr(experiment, kind)(**settings, out=str(tmp_path / "here")))
    here = without_seconds(tmp_path / "here")
    assert_same(without_seconds(elsewhere / name), here)
    if name == "fedp3":
        assert 0.0 < here[-1]["epsilon_max"] <= 8.0  # type: ignore[operator]


def test_the_files_of_clients_states_go_with_the_run(elsewhere: Path) -> None:
    assert not (elsewhere / "states").exists()


@pytest.fixture
def flower_home(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An environment for `flwr run` of its own; ends the SuperLink that it starts."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "FLWR_HOME": str(tmp_path / "flwr"),
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(port),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }
    yield environment
    for pid in _processes_with(f"FLWR_HOME={tmp_path / 'flwr'}"):
        os.kill(pid, 15)


def _processes_with(variable: str) -> list[int]:
    """Processes that carry this variable, which no other test or user sets to this value."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            environment = (entry / "environ").read_bytes()
        except OSError:
            continue  # it ended meanwhile, or is not ours
        if variable.encode() in environment and int(entry.name) != os.getpid():
            found.append(int(entry.name))
    return found


def test_flwr_run_gives_the_same_history(
    reference: list[dict[str, object]], tmp_path: Path, flower_home: dict[str, str]
) -> None:
    out = tmp_path / "out"
    overrides = " ".join(
        f"{key.replace('_', '-')}={json.dumps(value)}" for key, value in SETTINGS.items()
    )
    done = subprocess.run(
        [
            "flwr",
            "run",
            str(ROOT / "simulations" / "efbv"),
            "--stream",
            "--run-config",
            f'{overrides} output-dir="{out}"',
            "--federation-config",
            "num-supernodes=6 client-resources-num-cpus=1 init-args-num-cpus=2",
        ],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env=flower_home,
        cwd=tmp_path,
    )
    # The exit code is 0 even if the app raised: the files tell.
    output = done.stdout[-4000:] + done.stderr[-4000:]
    assert (out / "summary.json").exists(), output
    summary = json.loads((out / "summary.json").read_text())
    assert summary["status"] == "done", output
    assert summary["backend"] == "flower"
    assert_same(without_seconds(out), reference)
