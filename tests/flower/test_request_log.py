"""What a killed server's clients released after its last checkpoint is charged all the same."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from flwr.clientapp import ClientApp

from fedstrategies.checkpoint import CheckpointError, Checkpoints
from fedstrategies.efbv import EFBV
from fedstrategies.engines import CohortGrid
from fedstrategies.flower import client_app
from fedstrategies.flower.request_log import RequestLog
from fedstrategies.privacy import PrivateObjective
from tests.flower.conftest import CLIENTS, Setting
from tests.flower.private_setting import DELTA, DEPLOYED, SIMULATED, app_of, efbv, releases

ROUNDS = 8


class Killed(Exception):
    """The server is ended after a round, before anything is kept of it."""


class Killer:
    def __init__(self, round: int) -> None:
        self.round = round

    def on_start(self, x: Any) -> None: ...

    def on_round(self, record: Any) -> None:
        if record.round == self.round:
            raise Killed

    def on_end(self) -> None: ...


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Counter[bytes]:
    """Releases that clients really made, by the secret of their noise."""
    counted: Counter[bytes] = Counter()
    charge = PrivateObjective.charge

    def charged(self: PrivateObjective) -> int:
        counted[self.secret.key] += 1
        return charge(self)

    monkeypatch.setattr(PrivateObjective, "charge", charged)
    return counted


def process(
    setting: Setting, folder: Path, *, privacy: Any, killed: int | None, **more: Any
) -> EFBV:
    """One server's life, with nodes of its own, as a run of Flower's has them."""
    fast = more.pop("fast", "never")
    grid = CohortGrid(app_of(setting, privacy), num_clients=CLIENTS, fast=fast)
    strategy = efbv(setting)
    going_on = {"resume": folder} if Checkpoints(folder).found() else {}
    with suppress(Killed):
        strategy.start(
            grid,
            setting.start,
            num_rounds=ROUNDS,
            checkpoints=folder,
            callbacks=[] if killed is None else [Killer(killed)],
            **{"checkpoint_every": 3, **going_on, **more},
        )
    return strategy


@pytest.mark.parametrize("fast", ["never", "require"])
@pytest.mark.parametrize("kills", [(2,), (5,), (2, 4, 8)], ids=str)
def test_a_real_secret_s_releases_are_all_charged(
    setting: Setting, tmp_path: Path, made: Counter[bytes], kills: tuple[int, ...], fast: str
) -> None:
    for killed in (*kills, None):
        # The nodes' record of a killed server is paid for by messages, whatever was asked for.
        way = fast if killed == kills[0] else "auto"
        last = process(setting, tmp_path, privacy=DEPLOYED, killed=killed, fast=way)
    in_all = sum(made.values())
    told = [last.accounts.ledger(partition).releases for partition in range(CLIENTS)]
    assert sum(told) == in_all > ROUNDS * CLIENTS
    assert last.accounts.largest(DELTA) == pytest.approx(releases(told[0]).epsilon(DELTA))
    assert sum(last.accounts.unanswered(partition) for partition in range(CLIENTS)) == 0


def test_requests_are_charged_wherever_the_run_goes_on(setting: Setting, tmp_path: Path) -> None:
    """Into another folder, or without one; and a log of another run is refused."""
    old, new = tmp_path / "old", tmp_path / "new"
    process(setting, old, privacy=DEPLOYED, killed=5)
    for more in ({}, {"checkpoints": new, "checkpoint_every": 3}):
        strategy = efbv(setting)
        grid = CohortGrid(app_of(setting, DEPLOYED), num_clients=CLIENTS, fast="never")
        strategy.start(grid, setting.start, num_rounds=ROUNDS, resume=old, **more)
        assert strategy.accounts.ledger(0) == releases(ROUNDS + 2)
    RequestLog(tmp_path).append({CLIENTS: 1})
    with pytest.raises(CheckpointError, match=r"partition 8 .* this run has 8 clients"):
        process(setting, tmp_path, privacy=DEPLOYED, killed=None)


def test_simulated_noise_is_repeated_and_charged_once(setting: Setting, tmp_path: Path) -> None:
    for killed in (2, 5, None):
        last = process(setting, tmp_path, privacy=SIMULATED, killed=killed)
    assert [last.accounts.ledger(p) for p in range(CLIENTS)] == [releases(ROUNDS)] * CLIENTS
    assert not list(tmp_path.glob("asked-*"))


def test_nothing_is_written_for_clients_that_are_not_private(
    setting: Setting, tmp_path: Path
) -> None:
    grid = CohortGrid(setting.app, num_clients=CLIENTS, fast="never")
    grid.repeats_releases = False  # as on Flower's grid, of which nothing is known
    strategy = efbv(setting)
    settings = {"checkpoints": tmp_path, "checkpoint_every": ROUNDS, "callbacks": [Killer(5)]}
    with pytest.raises(Killed):
        strategy.start(grid, setting.start, num_rounds=ROUNDS, **settings)
    (path,) = tmp_path.glob("asked-*")
    assert path.read_bytes().count(b"\n") == 1  # the first round's: nobody had answered yet


def test_requests_of_a_course_that_was_left_are_kept_until_they_are_covered(tmp_path: Path) -> None:
    log = RequestLog(tmp_path / "new")
    log.append({})
    assert not log.directory.exists()
    log.append({0: 1})
    log.checkpointed(3, oldest=3)
    log.append({0: 2, 1: 5})
    log.append({1: 5})
    log.checkpointed(6, oldest=3)
    log.append({0: 3})
    assert log.work(6) == {0: 3}
    # The newest checkpoint is damaged: the one before it knows less.
    again = RequestLog(log.directory)
    again.go_on(3)
    assert again.work(3) == {0: 5, 1: 10}
    again.append({0: 1})
    again.checkpointed(5, oldest=3)
    assert again.work(5) == {}
    assert again.work(3) == {0: 6, 1: 10}
    again.checkpointed(7, oldest=5)
    assert not list(log.directory.iterdir())


def test_a_line_that_is_cut_was_never_sent_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    log = RequestLog(tmp_path)
    log.append({0: 1})
    path = tmp_path / "asked-000000000"
    with path.open("ab") as file:
        file.write(b"[[0, 1], [1")
    log = RequestLog(tmp_path)
    assert log.work(0) == {0: 1}
    log.go_on(0)
    log.append({1: 1})
    assert log.work(0) == {0: 1, 1: 1}
    for damage in (b"[[0, -1]]\n", b"[[0]]\n", b"7\n", b"\xff\n", b'[["a", 1]]\n'):
        path.write_bytes(damage)
        with pytest.raises(CheckpointError, match="epsilon would be understated without it"):
            RequestLog(tmp_path).work(0)


def test_only_what_is_known_to_repeat_itself_is_not_written_down(setting: Setting) -> None:
    def broken(context: Any) -> Any:
        raise RuntimeError("its own")

    cases: dict[bool, list[Any]] = {
        True: [setting.app, app_of(setting, SIMULATED)],
        False: [app_of(setting, DEPLOYED), client_app(broken), ClientApp()],
    }
    for repeats, apps in cases.items():
        for app in apps:
            assert CohortGrid(app, num_clients=CLIENTS).repeats_releases is repeats
