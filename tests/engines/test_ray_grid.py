"""RayGrid on Ray itself: actors are processes, and one of them is really killed.

All of it shares one Ray and two actors; what can be said without processes is in
`test_ray_session`.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fedstrategies import EFBV, CohortGrid, NiceSampling, RandK, RayGrid
from tests.docstring_rules import example_faults
from tests.flower.conftest import CLIENTS, DIMENSION, Setting

ROOT = Path(__file__).parents[2]


def test_the_name_is_there_without_ray_and_ray_is_asked_for_clearly() -> None:
    code = """
import sys
from fedstrategies import RayGrid
assert "ray" not in sys.modules
sys.modules["ray"] = None
from fedstrategies import client_app
try:
    RayGrid(client_app(lambda context: None), num_clients=2)
except ImportError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == 'RayGrid needs Ray; pip install "fedstrategies[simulation]"'


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    found = pytest.importorskip("ray", reason="the extra 'simulation' is not installed")
    with pytest.MonkeyPatch.context() as patch:
        # Workers unpickle what is defined in the tests.
        patch.setenv("PYTHONPATH", str(ROOT), prepend=":")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        found.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        yield found
        found.shutdown()


class Killing:
    """Ends an actor after some rounds."""

    def __init__(self, ray: Any, grid: RayGrid, rounds: set[int]) -> None:
        self.ray, self.grid, self.rounds = ray, grid, rounds

    def on_start(self, x: torch.Tensor) -> None: ...

    def on_round(self, record: Any) -> None:
        if record.round in self.rounds:
            self.ray.kill(self.grid.shards[0]._actor)

    def on_end(self) -> None: ...


def strategy(setting: Setting) -> EFBV:
    return EFBV(
        compressor=RandK(k=2),
        smoothness=setting.smoothness,
        sampling=NiceSampling(cohort_size=6),
        shift_init="gradient",
    )


@pytest.mark.runtime
def test_actors_of_ray_give_the_same_bits_and_are_built_anew(ray: Any) -> None:
    setting = Setting()
    whole = strategy(setting)
    whole.start(CohortGrid(setting.app, num_clients=CLIENTS), setting.start, num_rounds=14)
    with RayGrid(setting.app, num_clients=CLIENTS, actors=2, fast="require") as grid:
        found = strategy(setting)
        killing = Killing(ray, grid, {4})
        arrays = found.start(grid, setting.start, num_rounds=8, callbacks=[killing]).arrays
        assert [shard.generation for shard in grid.shards] == [2, 1]
        restored = found.bytes.recovery
        assert 0 < restored <= CLIENTS // 2 * (8 * DIMENSION + 16)
        grid.fast = "never"
        arrays = found.start(grid, arrays, num_rounds=6).arrays
        assert torch.equal(found.x, whole.x)
        assert torch.equal(found.h, whole.h)
        assert found.bytes.uplink == whole.bytes.uplink
        assert found.bytes.downlink == whole.bytes.downlink
        assert found.bytes.recovery == restored
        # By messages a lost memory is noticed by its client, and restored by the next request.
        found.start(grid, arrays, num_rounds=6, callbacks=[Killing(ray, grid, {15})])
        assert grid.shards[0].generation == 3
        assert found.bytes.recovery > restored
        assert found.memory is not None
        assert (found.h - found.memory["h"].mean(dim=0)).abs().max() < 1e-12
    assert ray.is_initialized()


@pytest.mark.runtime
def test_its_examples_run(ray: Any) -> None:
    assert not list(example_faults(RayGrid))


@pytest.mark.runtime
def test_another_cluster_than_the_one_of_this_process_is_refused(ray: Any) -> None:
    with pytest.raises(ValueError, match=r"is connected to Ray at .* already"):
        RayGrid(Setting().app, num_clients=CLIENTS, address="10.0.0.1:6379")
