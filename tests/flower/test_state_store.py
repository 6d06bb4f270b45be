"""Client state in a directory: the same run, and the same promise after any fault."""

from __future__ import annotations

import io
import json
import logging
import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Message,
    MetricRecord,
    RecordDict,
)
from safetensors.torch import load_file

from fedstrategies.compressors import RandK, TopK, parse_compressor
from fedstrategies.efbv import EF21, EFBV, EFBVClient, GradientDescent
from fedstrategies.engines import CohortGrid
from fedstrategies.flower import (
    BaseStrategy,
    DirectoryStore,
    client_app,
    record_files,
    state_store,
)
from fedstrategies.flower.record_files import Record, checksum, pack, read
from fedstrategies.flower.records import load_memory, load_receipts
from fedstrategies.privacy import Privacy
from fedstrategies.sampling import NiceSampling
from fedstrategies.scafflix import Scafflix, ScafflixClient
from fedstrategies.wire import decode, encode_vector
from tests.flower.conftest import CLIENTS, DIMENSION, Setting
from tests.flower.faults import Faults, FaultyGrid
from tests.flower.private_setting import SIMULATED, efbv, one_round, server_releases

MIXED = Faults(
    lose_request=0.05,
    lose_reply=0.30,
    delay_reply=0.08,
    duplicate_reply=0.10,
    redeliver_request=0.10,
    corrupt_reply=0.05,
    crash_after_commit=0.05,
)


def state_of(grid: CohortGrid, store: DirectoryStore, partition: int) -> RecordDict:
    """What a node has kept."""
    with store.opened(list(grid.contexts.values())[partition]) as own:
        return RecordDict(dict(own.state))


def app_with(setting: Setting, store: DirectoryStore | None) -> Any:
    return client_app(setting.client, store=store)


def effective_memories(grid: CohortGrid, store: DirectoryStore, strategy: EFBV) -> torch.Tensor:
    """Kept memory of each client plus its pending upload if the server used it."""
    rows = []
    for index in range(CLIENTS):
        state = state_of(grid, store, index)
        receipts, stored = load_receipts(state), load_memory(state)
        row = torch.zeros(1, DIMENSION).double() if stored is None else stored["h"]
        accepted = strategy.ledger.accepted(index)
        if receipts.pending is not None and receipts.pending.tag == accepted:
            decode(receipts.pending.blob, dimension=DIMENSION).add_to_(
                row, receipts.pending.constants[0]
            )
        elif receipts.committed != accepted:
            assert strategy.memory is not None
            row = strategy.memory["h"][index : index + 1]  # what will be restored
        rows.append(row)
    return torch.cat(rows)


def drive(
    strategy: EFBV,
    grid: CohortGrid,
    store: DirectoryStore,
    arrays: ArrayRecord,
    rounds: int,
    between: Callable[[int], None] = lambda _: None,
) -> ArrayRecord:
    """Rounds over messages, with the invariant checked after every one."""
    for number in range(rounds):
        between(number)
        arrays = one_round(strategy, grid, arrays)
        memories = effective_memories(grid, store, strategy)
        assert (strategy.h - memories.mean(dim=0)).abs().max() < 1e-12, number
        assert strategy.memory is not None
        assert torch.equal(strategy.memory["h"], memories), number
    return arrays


METHODS: dict[str, Callable[[Setting], BaseStrategy]] = {
    "efbv": lambda s: EFBV(compressor=TopK(k=3), smoothness=s.smoothness),
    "efbv-5-of-8": lambda s: EFBV(
        compressor=RandK(k=3), smoothness=s.smoothness, sampling=NiceSampling(cohort_size=5)
    ),
    "gd": lambda s: GradientDescent(smoothness=s.smoothness),
    "scafflix": lambda s: Scafflix(alpha=0.5, smoothness=s.smoothness, p=0.4),
}


@pytest.mark.parametrize("name", METHODS)
def test_the_same_run_with_a_directory_and_nothing_left_to_travel(
    setting: Setting, tmp_path: Path, name: str
) -> None:
    def client(context: Context) -> EFBVClient | ScafflixClient:
        objective = setting.objectives[int(context.node_config["partition-id"])]
        kind = ScafflixClient if name == "scafflix" else EFBVClient
        return kind(context, objective=objective)

    def run(store: DirectoryStore | None) -> tuple[BaseStrategy, CohortGrid]:
        strategy = METHODS[name](setting)
        grid = CohortGrid(client_app(client, store=store), num_clients=CLIENTS, fast="never")
        strategy.start(grid, setting.start, num_rounds=8)
        return strategy, grid

    (there, grid), (here, _) = run(DirectoryStore(tmp_path, durable=True)), run(None)
    assert torch.equal(there.x, here.x)
    assert there.bytes == here.bytes
    assert there.bytes.recovery == 0
    assert not any(context.state for context in grid.contexts.values())
    assert len(list(tmp_path.glob("run-1/partition-*"))) == CLIENTS


@pytest.mark.parametrize(
    "compressor", ["top-k:k=3", "rand-k:k=3", "top-k:k=4+natural"], ids=["top", "rand", "natural"]
)
def test_mixed_faults_and_wiped_directories_never_desynchronise(
    setting: Setting, tmp_path: Path, compressor: str
) -> None:
    store = DirectoryStore(tmp_path)
    grid = FaultyGrid(app_with(setting, store), num_clients=CLIENTS, faults=MIXED, seed=3)
    strategy = EFBV(compressor=parse_compressor(compressor), smoothness=setting.smoothness)
    draw = np.random.default_rng(0)
    folders = [store.folder(context) for context in grid.contexts.values()]

    def wipe_some(number: int) -> None:
        for folder in folders:
            if draw.random() < 0.02:
                shutil.rmtree(folder, ignore_errors=True)

    arrays = drive(strategy, grid, store, setting.start, 50, wipe_some)
    assert strategy.bytes.recovery > 0
    assert all(count > 0 for name, count in grid.happened.items() if getattr(MIXED, name))
    grid.faults = Faults()
    drive(strategy, grid, store, arrays, 10)
    assert strategy.failures == ()


def test_a_process_that_dies_with_its_reply_has_only_lost_a_reply(
    setting: Setting, tmp_path: Path
) -> None:
    store = DirectoryStore(tmp_path)
    strategy = EF21(compressor=TopK(k=3), smoothness=setting.smoothness)
    grid = FaultyGrid(app_with(setting, store), num_clients=CLIENTS, faults=Faults())
    arrays = drive(strategy, grid, store, setting.start, 3)
    # Flower forgets the contexts of clients that raise; the files are written by then.
    grid.faults = Faults(crash_after_commit=0.5)
    arrays = drive(strategy, grid, store, arrays, 3)
    grid.faults = Faults()
    drive(strategy, grid, store, arrays, 3)
    assert strategy.failures == ()
    assert strategy.bytes.recovery == 0
    # Asked again for the same attempt, the node sends what it has kept, and does not compute.
    attempt = strategy.configure_train(1, arrays, ConfigRecord(), grid)
    message = next(iter(attempt))
    first = grid.execute(message, message.metadata.dst_node_id)
    kept = [path.read_bytes() for path in sorted(tmp_path.rglob("*.*"))]
    again = grid.execute(message, message.metadata.dst_node_id)
    assert first.content == again.content
    assert kept == [path.read_bytes() for path in sorted(tmp_path.rglob("*.*"))]


@pytest.mark.parametrize("fatal", ["fedstrategies.memory", "fedstrategies.", "head"])
def test_a_process_that_dies_before_the_head_is_replaced_has_changed_nothing(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fatal: str
) -> None:
    store = DirectoryStore(tmp_path)
    strategy = EFBV(compressor=TopK(k=3), smoothness=setting.smoothness)
    grid = FaultyGrid(app_with(setting, store), num_clients=CLIENTS, faults=Faults())
    arrays = drive(strategy, grid, store, setting.start, 4)
    write = DirectoryStore._write
    victim = store.folder(list(grid.contexts.values())[2])

    def dies(self: DirectoryStore, path: Path, parts: list[bytes], size: int) -> None:
        if path.parent == victim and path.name.lstrip(".").startswith(fatal):
            write(self, path, [part[: len(part) // 2] for part in parts], size)
            raise OSError("no space left on device")
        write(self, path, parts, size)

    monkeypatch.setattr(DirectoryStore, "_write", dies)
    arrays = drive(strategy, grid, store, arrays, 3)
    assert "no space left" in " ".join(strategy.failures)
    monkeypatch.setattr(DirectoryStore, "_write", write)
    drive(strategy, grid, store, arrays, 3)
    assert strategy.failures == ()
    assert strategy.bytes.recovery == 0


class RaisingClient(EFBVClient):
    """Changes its state, and then raises where told to."""

    raises = False

    def keep(self) -> None:
        self.context.state["mine"] = ConfigRecord({"traced": True})
        if self.raises:
            raise RuntimeError("out of luck")


def test_a_client_that_raises_leaves_no_trace(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = DirectoryStore(tmp_path)

    def client(context: Context) -> EFBVClient:
        index = int(context.node_config["partition-id"])
        kind = RaisingClient if index == 2 else EFBVClient
        return kind(context, objective=setting.objectives[index])

    grid = FaultyGrid(client_app(client, store=store), num_clients=CLIENTS, faults=Faults())
    strategy = EFBV(compressor=TopK(k=3), smoothness=setting.smoothness)
    monkeypatch.setattr(RaisingClient, "raises", True)
    arrays = drive(strategy, grid, store, setting.start, 3)
    assert "out of luck" in strategy.failures[0]
    assert not store.folder(list(grid.contexts.values())[2]).exists()
    monkeypatch.setattr(RaisingClient, "raises", False)
    drive(strategy, grid, store, arrays, 2)
    assert state_of(grid, store, 2)["mine"] == ConfigRecord({"traced": True})
    assert strategy.bytes.recovery == 0


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 8
    path.write_bytes(data)


def replace_by_text(path: Path) -> None:
    path.write_text("not what was written here", encoding="utf-8")


def in_force(folder: Path, key: str) -> Path:
    """The file that the head names."""
    head = json.loads((folder / "head.json").read_text(encoding="utf-8"))
    return folder / f"{key}.{head['records'][key]['side']}.safetensors"


@pytest.mark.parametrize("harm", [cut, flip, replace_by_text, os.unlink])
@pytest.mark.parametrize("key", ["fedstrategies", "fedstrategies.memory", "head"])
def test_what_is_not_the_file_that_was_written_is_refused_and_the_memory_restored(
    setting: Setting,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    harm: Callable[[Path], None],
    key: str,
) -> None:
    store = DirectoryStore(tmp_path)
    strategy = EFBV(compressor=TopK(k=3), smoothness=setting.smoothness)
    grid = FaultyGrid(app_with(setting, store), num_clients=CLIENTS, faults=Faults())
    arrays = drive(strategy, grid, store, setting.start, 5)
    folder = store.folder(list(grid.contexts.values())[2])
    path = folder / "head.json" if key == "head" else in_force(folder, key)
    harm(path)
    logging.getLogger("flwr").propagate = True
    caplog.clear()
    messages = list(strategy.configure_train(1, arrays, ConfigRecord(), grid))
    grid_replies = list(grid.send_and_receive(messages))
    told = [r.getMessage() for r in caplog.records if str(folder) in r.getMessage()]
    expected = 0 if key == "head" and harm is os.unlink else 1
    assert len(told) == expected
    assert all("\n" not in line and "lost" in line for line in told)
    arrays = strategy.aggregate_train(1, grid_replies)[0] or arrays
    assert "its memory is lost" in " ".join(strategy.failures)
    drive(strategy, grid, store, arrays, 3)
    assert strategy.failures == ()
    assert 8 * DIMENSION < strategy.bytes.recovery < 8 * DIMENSION + 24


OURS = b'{"format": "fedstrategies.state/1", "run": "run-1", "node": "partition-000002"'


@pytest.mark.parametrize(
    "wrong",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff\xfe",
        OURS + b"}",
        OURS + b', "records": {"mine": {"side": "/../../x", "size": 1, "checksum": 1}}}',
        OURS + b', "records": {"mine": {"side": 0, "size": "1", "checksum": 1}}}',
    ],
)
def test_a_foreign_head_is_no_state(setting: Setting, tmp_path: Path, wrong: bytes) -> None:
    store = DirectoryStore(tmp_path)
    grid = FaultyGrid(app_with(setting, store), num_clients=CLIENTS, faults=Faults())
    strategy = EFBV(compressor=TopK(k=3), smoothness=setting.smoothness)
    drive(strategy, grid, store, setting.start, 2)
    folder = store.folder(list(grid.contexts.values())[2])
    (folder / "head.json").write_bytes(wrong)
    assert not state_of(grid, store, 2)


def test_another_client_s_folder_is_refused(setting: Setting, tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    grid = FaultyGrid(app_with(setting, store), num_clients=CLIENTS, faults=Faults())
    strategy = EFBV(compressor=TopK(k=3), smoothness=setting.smoothness)
    drive(strategy, grid, store, setting.start, 3)
    one, two = (store.folder(context) for context in list(grid.contexts.values())[2:4])
    shutil.rmtree(two)
    shutil.copytree(one, two)
    assert state_of(grid, store, 2)
    assert not state_of(grid, store, 3)


def test_two_runs_in_one_directory_do_not_meet(setting: Setting, tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)

    def fresh(run: int) -> tuple[EFBV, FaultyGrid]:
        grid = FaultyGrid(app_with(setting, store), num_clients=CLIENTS, faults=Faults())
        for context in grid.contexts.values():
            context.run_id = run
        return EFBV(compressor=TopK(k=3), smoothness=setting.smoothness, seed=run), grid

    runs = [fresh(7), fresh(8)]
    arrays = [setting.start, setting.start]
    for _ in range(5):
        for index, (strategy, grid) in enumerate(runs):
            arrays[index] = drive(strategy, grid, store, arrays[index], 1)
            assert strategy.failures == ()
            assert strategy.bytes.recovery == 0
    store.forget(7)
    assert [path.name for path in tmp_path.iterdir()] == ["run-8"]
    store.forget(8)
    assert not tmp_path.exists()
    store.forget(9)


def test_a_node_without_partition_id_is_kept_by_its_own(tmp_path: Path) -> None:
    context = Context(run_id=5, node_id=77, node_config={}, state=RecordDict(), run_config={})
    store = DirectoryStore(tmp_path)
    with store.opened(context) as own:
        own.state["mine"] = MetricRecord({"n": 3})
    assert (tmp_path / "run-5" / "node-77" / "head.json").exists()
    with store.opened(context) as own:
        assert own.state["mine"] == MetricRecord({"n": 3})
        del own.state["mine"]
    with store.opened(context) as own:
        assert not own.state
    assert [path.name for path in (tmp_path / "run-5" / "node-77").iterdir()] == ["head.json"]


def test_what_is_changed_in_place_is_kept(tmp_path: Path) -> None:
    context = Context(run_id=5, node_id=7, node_config={}, state=RecordDict(), run_config={})
    store = DirectoryStore(tmp_path)
    with store.opened(context) as own:
        own.state["metrics"] = MetricRecord({"n": 1, "x": 2.0})
        own.state["config"] = ConfigRecord({"flag": 1, "all": [1, 2]})
        own.state["arrays"] = ArrayRecord({"a": Array(np.zeros(3))})

    def kept() -> dict[str, Any]:
        with store.opened(context) as own:
            return dict(own.state.items())

    def change(number: int, state: RecordDict) -> None:
        metrics, config = state.metric_records["metrics"], state.config_records["config"]
        match number:
            case 0:
                metrics["n"] += 1  # type: ignore[operator]
            case 1:
                config["all"].append(3)  # type: ignore[union-attr, arg-type]
            case 2:
                config["flag"] = True  # equal to what it was, and yet another value
            case 3:
                del metrics["x"]
            case 4:
                state.array_records["arrays"]["a"] = Array(np.ones(3))
            case 5:
                state.array_records["arrays"]["a"].data = Array(np.full(3, 2.0)).data

    for number in range(6):
        with store.opened(context) as own:
            change(number, own.state)
            expected = dict(own.state.items())
        found = kept()
        assert found == expected
        assert type(found["config"]["flag"]) is (bool if number >= 2 else int)
    assert found["metrics"] == MetricRecord({"n": 2})
    assert found["config"]["all"] == [1, 2, 3]
    assert found["arrays"]["a"].numpy().tolist() == [2.0] * 3


def test_what_is_not_changed_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = Context(run_id=5, node_id=7, node_config={}, state=RecordDict(), run_config={})
    store = DirectoryStore(tmp_path)
    with store.opened(context) as own:
        own.state["metrics"] = MetricRecord({"n": 1000, "all": [0.5, float("nan")]})
        own.state["arrays"] = ArrayRecord({"a": Array(np.zeros(3))})
    written = watched_writes(monkeypatch)
    with store.opened(context) as own:
        own.state["metrics"] = MetricRecord(dict(own.state.metric_records["metrics"]))
    assert written == []
    with store.opened(context) as own:
        own.state.metric_records["metrics"]["n"] = 1001
    assert [name.split(".")[0] for name in written] == ["metrics", ""]


def watched_writes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that a store writes from now on."""
    write, written = DirectoryStore._write, list[str]()

    def noted(self: DirectoryStore, path: Path, parts: list[bytes], size: int) -> None:
        written.append(path.name)
        write(self, path, parts, size)

    monkeypatch.setattr(DirectoryStore, "_write", noted)
    return written


def test_a_head_that_cannot_be_written_is_not_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = Context(run_id=5, node_id=7, node_config={}, state=RecordDict(), run_config={})
    store = DirectoryStore(tmp_path)
    with store.opened(context) as own:
        own.state["mine"] = MetricRecord({"n": 1})
    write = DirectoryStore._write

    def full(self: DirectoryStore, path: Path, parts: list[bytes], size: int) -> None:
        write(self, path, parts, size)
        if path.name.startswith(".head"):
            raise OSError("no space left on device")

    monkeypatch.setattr(DirectoryStore, "_write", full)
    with pytest.raises(OSError, match="no space"), store.opened(context) as own:
        own.state["mine"] = MetricRecord({"n": 2})
    assert not [path for path in store.folder(context).iterdir() if path.name[0] == "."]
    with store.opened(context) as own:
        assert own.state["mine"] == MetricRecord({"n": 1})


@pytest.mark.parametrize("durable", [True, False])
def test_the_names_of_new_folders_reach_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durable: bool
) -> None:
    context = Context(run_id=5, node_id=7, node_config={}, state=RecordDict(), run_config={})
    store = DirectoryStore(tmp_path / "new" / "states", durable=durable)
    synced: list[Path] = []
    monkeypatch.setattr(state_store, "sync", synced.append)
    for number in range(2):
        synced.clear()
        with store.opened(context) as own:
            own.state["mine"] = MetricRecord({"n": number})
        folder = store.folder(context)
        expected = [folder, *folder.parents][:5] if number == 0 else [folder]
        assert synced == (expected if durable else [])
    assert expected == [folder]


def test_a_folder_above_that_may_not_be_read_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = Context(run_id=5, node_id=7, node_config={}, state=RecordDict(), run_config={})
    store = DirectoryStore(tmp_path / "states", durable=True)
    sync = state_store.sync

    def guarded(folder: Path) -> None:
        if folder == tmp_path:
            raise PermissionError(folder)
        sync(folder)

    monkeypatch.setattr(state_store, "sync", guarded)
    with store.opened(context) as own:
        own.state["mine"] = MetricRecord({"n": 1})
    with store.opened(context) as own:
        assert own.state["mine"] == MetricRecord({"n": 1})


def test_a_release_is_charged_once_where_the_process_died_with_its_reply(
    setting: Setting, tmp_path: Path
) -> None:
    pytest.importorskip("opacus", reason="the extra 'privacy' is not installed")
    store = DirectoryStore(tmp_path)
    grid = FaultyGrid(
        client_app(private_client(setting, SIMULATED), store=store),
        num_clients=CLIENTS,
        faults=Faults(),
    )
    strategy = efbv(setting)
    arrays = one_round(strategy, grid, setting.start)
    messages: list[Message] = list(strategy.configure_train(1, arrays, ConfigRecord(), grid))
    for message in messages:  # computed and written; Flower loses replies and contexts
        grid.execute(message, message.metadata.dst_node_id)
    strategy.aggregate_train(1, grid.send_and_receive(messages))
    assert strategy.participants == CLIENTS
    assert server_releases(strategy) == [2] * CLIENTS


def private_client(setting: Setting, privacy: Privacy) -> Callable[[Context], EFBVClient]:
    def client(context: Context) -> EFBVClient:
        index = int(context.node_config["partition-id"])
        return EFBVClient(context, objective=setting.objectives[index], privacy=privacy)

    return client


def test_there_is_no_fast_path_beside_a_store(setting: Setting, tmp_path: Path) -> None:
    app = app_with(setting, DirectoryStore(tmp_path))
    grid = CohortGrid(app, num_clients=CLIENTS, fast="require")
    with pytest.raises(ValueError, match="in a store"):
        EF21(compressor=TopK(k=3), smoothness=setting.smoothness).start(
            grid, setting.start, num_rounds=1
        )


# ---------------------------------------------------------------- one file

RECORDS: dict[str, Record] = {
    "arrays": ArrayRecord(
        {
            "b": Array(np.arange(6.0).reshape(2, 3)),
            "a": Array(dtype="<f4", shape=(2,), stype="fedstrategies.raw", data=b"\0" * 8),
            "none": Array(dtype="uint8", shape=(0,), stype="fedstrategies.raw", data=b""),
        }
    ),
    "no-arrays": ArrayRecord(),
    "config": ConfigRecord({"k": 3, "x": [1.5, 2.5], "text": "é", "blob": b"\0\1", "yes": True}),
    "metrics": MetricRecord({"loss": 0.5, "n": [1, 2]}),
}


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_is_read_as_it_was_written(name: str) -> None:
    parts = pack(RECORDS[name])
    data = b"".join(parts)
    found = read(io.BytesIO(data), size=len(data), checked=checksum(parts))
    assert found == RECORDS[name]
    assert list(found) == list(RECORDS[name])
    for harmed in (data[:-1] + b"x", data[:9], data[:3], b"", data + b"x", b"\xff" * len(data)):
        with pytest.raises(ValueError, match=r"it is|its checksum|its header"):
            read(io.BytesIO(harmed), size=len(harmed), checked=checksum(parts))


class Short(io.BytesIO):
    """Gives less than it is asked for, as shared file systems may, and refuses large requests."""

    def read(self, size: int | None = -1, /) -> bytes:
        assert size is not None
        assert 0 <= size <= 1000
        return super().read(min(size, 300))


@pytest.mark.parametrize("numbers", [0, 30, 125, 400])
def test_short_reads_are_no_damage(monkeypatch: pytest.MonkeyPatch, numbers: int) -> None:
    monkeypatch.setattr(record_files, "_AT_ONCE", 1000)
    record = ArrayRecord({"h": Array(np.arange(float(numbers))), "g": Array(np.ones(3))})
    parts = pack(record)
    data = b"".join(parts)
    assert read(Short(data), size=len(data), checked=checksum(parts)) == record
    for harmed in (data[:-1], data[: len(data) // 2]):
        with pytest.raises(ValueError, match=r"it is|its checksum"):
            read(Short(harmed), size=len(data), checked=checksum(parts))


def test_a_kept_memory_is_a_safetensors_file(setting: Setting, tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    grid = FaultyGrid(app_with(setting, store), num_clients=CLIENTS, faults=Faults())
    strategy = EF21(compressor=TopK(k=3), smoothness=setting.smoothness)
    drive(strategy, grid, store, setting.start, 3)
    folder = store.folder(list(grid.contexts.values())[2])
    stored = load_memory(state_of(grid, store, 2))
    assert stored is not None
    memory = load_file(in_force(folder, "fedstrategies.memory"))
    assert torch.equal(memory["h"], stored["h"])
    assert memory["h"].any()


def test_the_checksum_sees_what_a_frame_says() -> None:
    frames = [encode_vector(torch.full((4,), float(value))) for value in range(20)]
    assert len({zlib.crc32(b"head" + frame) for frame in frames}) == 1
    assert len({checksum([b"head", frame]) for frame in frames}) == 20
