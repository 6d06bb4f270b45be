"""Nodes that were not told a partition: ranked by the server, for good."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ConfigRecord, Context, Error, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from fedstrategies.compressors import TopK
from fedstrategies.efbv import EFBV
from fedstrategies.engines import CohortGrid
from fedstrategies.flower import located
from fedstrategies.flower.nodes import NodeDirectory
from fedstrategies.flower.partition_query import Remembered, query_partitions
from fedstrategies.flower.private import identify
from fedstrategies.flower.rank import RANK, RANK_BYTES, RANK_OF_THIS_RUN, answer, remembered
from tests.flower.conftest import CLIENTS, Setting


class Untold(Grid):
    """An in-process grid whose nodes know no partition, as SuperNodes started without one.

    Node ids are those of the CohortGrid inside, read backwards, so that ranks and ids disagree.
    """

    def __init__(self, setting: Setting, directory: Path | None = None) -> None:
        self.inside = CohortGrid(setting.app, num_clients=CLIENTS, fast="never")
        self.inside.contexts = {
            node: Context(1, node, self._config(directory, node), RecordDict(), {})
            for node in self.inside.contexts
        }
        self.away: set[int] = set()

    @staticmethod
    def _config(directory: Path | None, node: int) -> dict[str, Any]:
        return {} if directory is None else {"state-dir": str(directory / f"node-{node}")}

    def renew(self, node: int, successor: int) -> None:
        """A SuperNode is started again: another node id, the same --node-config, no memory."""
        contexts = dict(self.inside.contexts)
        config = contexts.pop(node).node_config
        contexts[successor] = Context(1, successor, config, RecordDict(), {})
        self.inside.contexts = contexts
        self.inside.partitions[successor] = self.inside.partitions.pop(node)

    def get_node_ids(self) -> list[int]:
        return [node for node in self.inside.contexts if node not in self.away]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        return self.inside.send_and_receive(messages)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return self.inside.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return self.inside.pull_messages(message_ids)

    def create_message(self, *args: Any, **kwargs: Any) -> Any: ...

    def set_run(self, run: Any) -> None: ...

    @property
    def run(self) -> Any: ...


def strategy(setting: Setting) -> EFBV:
    return EFBV(
        compressor=TopK(k=3),
        smoothness=setting.smoothness,
        num_clients=CLIENTS,
        fraction_evaluate=0.0,
    )


def run(setting: Setting, grid: Any, rounds: int = 5) -> EFBV:
    found = strategy(setting)
    found.start(grid, setting.start, num_rounds=rounds)
    return found


@pytest.mark.parametrize("in_files", [False, True])
def test_a_run_without_partition_ids_is_the_run_with_them(
    setting: Setting, tmp_path: Path, in_files: bool
) -> None:
    told = run(setting, CohortGrid(setting.app, num_clients=CLIENTS, fast="never"))
    grid = Untold(setting, tmp_path if in_files else None)
    untold = run(setting, grid)
    assert torch.equal(untold.x, told.x)
    assert untold.bytes.uplink == told.bytes.uplink
    assert untold.bytes.downlink == told.bytes.downlink + 5 * CLIENTS * RANK_BYTES
    if in_files:  # everything a node keeps is there, its rank too, and nothing travels with it
        assert all(not context.state for context in grid.inside.contexts.values())
        assert sorted(
            remembered(context) or 0 for context in grid.inside.contexts.values()
        ) == list(range(CLIENTS))
        assert len(list(tmp_path.glob("node-*/run-1/partition-*/head.json"))) == CLIENTS


def test_evaluation_tells_the_rank_too(setting: Setting) -> None:
    found = EFBV(
        compressor=TopK(k=3),
        smoothness=setting.smoothness,
        num_clients=CLIENTS,
        fraction_evaluate=1.0,
    )
    result = found.start(Untold(setting), setting.start, num_rounds=1)
    assert result.evaluate_metrics_clientapp[1]["loss"]


def test_two_nodes_that_restart_at_once_are_who_they_were(setting: Setting, tmp_path: Path) -> None:
    """Their ids say nothing, and the order in which they come back says the opposite."""
    grid = Untold(setting, tmp_path)
    found = strategy(setting)
    found.start(grid, setting.start, num_rounds=3)
    first, second, *_ = sorted(grid.inside.contexts)
    ranks = [remembered(grid.inside.contexts[node]) for node in (first, second)]
    grid.renew(first, 10**6 + 1)
    grid.renew(second, 10**6)
    found.start(grid, found.arrays, num_rounds=2)
    now = [remembered(grid.inside.contexts[node]) for node in (10**6 + 1, 10**6)]
    assert now == ranks
    assert found.bytes.recovery == 0  # their memories were on disk
    whole = run(setting, CohortGrid(setting.app, num_clients=CLIENTS, fast="never"))
    assert torch.equal(found.x, whole.x)


def test_without_a_directory_a_restarted_node_takes_the_vacant_rank(setting: Setting) -> None:
    grid = Untold(setting)
    found = strategy(setting)
    found.start(grid, setting.start, num_rounds=3)
    (node, *_) = grid.inside.contexts
    grid.renew(node, 10**6)
    found.start(grid, found.arrays, num_rounds=60)
    assert found.bytes.recovery > 0
    assert found.participants == CLIENTS
    assert setting.gradient_norm(found.x) < setting.gradient_norm(torch.zeros(12).double())


def test_a_server_that_resumes_knows_its_nodes_again(setting: Setting, tmp_path: Path) -> None:
    """One node was replaced meanwhile by one with the highest id: the others would all move up."""
    grid = Untold(setting)
    first = strategy(setting)
    first.start(grid, setting.start, num_rounds=3, checkpoints=tmp_path, checkpoint_every=3)
    before = first.nodes.snapshot()
    lowest = min(before)
    grid.renew(lowest, 10**6)
    second = strategy(setting)
    second.start(grid, setting.start, num_rounds=5, resume=tmp_path)
    after = second.nodes.snapshot()
    assert after == {10**6 if node == lowest else node: rank for node, rank in before.items()}
    whole = run(setting, CohortGrid(setting.app, num_clients=CLIENTS, fast="never"))
    assert torch.equal(second.x, whole.x)


# ------------------------------------------------------------------ the directory alone


class Members:
    """A grid as far as the directory needs one."""

    def __init__(self, nodes: dict[int, Any]) -> None:
        self.nodes = nodes
        self.asked: list[list[int]] = []

    def get_node_ids(self) -> list[int]:
        return list(self.nodes)

    def query(self, grid: Any, nodes: list[int]) -> dict[int, Any]:
        self.asked.append(nodes)
        return {node: self.nodes[node] for node in nodes}


def directory(nodes: dict[int, Any], required: int) -> tuple[Any, NodeDirectory]:
    grid = Members(nodes)
    found = NodeDirectory(grid.query)
    found.wait(grid, required)  # type: ignore[arg-type]
    return grid, found


def test_remembered_ranks_come_first_and_only_those_that_exist() -> None:
    nodes = {5: None, 6: Remembered(2), 7: Remembered(2), 8: Remembered(9)}
    grid, found = directory(nodes, 4)
    assert found.refresh(grid) == {2: 6, 0: 7, 1: 8, 3: 5}
    assert found.rank_field(6) == {RANK: 2}


def test_a_node_that_knows_its_partition_is_not_told_one() -> None:
    grid, found = directory({5: 1, 6: None}, 2)
    assert found.refresh(grid) == {0: 6, 1: 5}
    assert found.rank_field(5) == {}


def test_a_newcomer_waits_for_a_vacancy_and_is_not_asked_again() -> None:
    grid, found = directory({5: None, 6: None}, 2)
    grid.nodes[7] = None
    for _ in range(3):
        assert found.refresh(grid) == {0: 5, 1: 6}
    del grid.nodes[5]
    assert found.refresh(grid) == {0: 7, 1: 6}
    assert grid.asked == [[5, 6], [7]]


def test_a_killed_node_s_successor_does_not_wait_until_it_is_found_dead() -> None:
    grid, found = directory({5: None, 6: None}, 2)
    grid.nodes[7] = Remembered(1, here=True)  # 6 was killed; the SuperLink does not know yet
    assert found.refresh(grid) == {0: 5, 1: 7}
    assert found.rank_field(7) == {RANK: 1}
    assert found.rank_field(6) == {}


def test_another_run_s_rank_displaces_nobody() -> None:
    grid, found = directory({5: None, 6: None}, 2)
    grid.nodes[7] = Remembered(0)
    assert found.refresh(grid) == {0: 5, 1: 6}
    del grid.nodes[5]
    assert found.refresh(grid) == {0: 7, 1: 6}


def test_who_was_displaced_and_lives_takes_what_is_left() -> None:
    """As with two nodes that were given one directory."""
    grid, found = directory({5: None, 6: None}, 2)
    grid.nodes[7] = Remembered(0, here=True)
    assert found.refresh(grid) == {0: 7, 1: 6}
    del grid.nodes[7]
    assert found.refresh(grid) == {0: 5, 1: 6}


def test_a_told_partition_is_not_taken_by_memory() -> None:
    grid, found = directory({5: 0, 6: 1}, 2)
    grid.nodes[7] = Remembered(1)
    assert found.refresh(grid) == {0: 5, 1: 6}


def test_who_leaves_before_the_start_leaves_its_rank() -> None:
    """Node 7 does not answer at first, and while it is waited for another one goes."""
    grid = Members({5: None, 6: None})
    members = iter([[5, 6, 7], [6, 7, 8], [6, 7, 8]])
    grid.get_node_ids = lambda: next(members)  # type: ignore[method-assign]
    silent = iter([{7}, set(), set()])

    def query(_: Any, nodes: list[int]) -> dict[int, Any]:
        return dict.fromkeys(set(nodes) - next(silent))

    found = NodeDirectory(query)
    found.wait(grid, 3)  # type: ignore[arg-type]
    assert found.snapshot() == {6: 1, 7: 0, 8: 2}


def test_a_resumed_server_gives_nodes_their_ranks_back() -> None:
    grid, before = directory({5: None, 6: None, 7: None, 8: 3}, 4)
    kept = before.snapshot()
    assert kept == {5: 0, 6: 1, 7: 2}
    grid, after = directory({4: None, 6: None, 7: None, 8: 3}, 4)
    assert after.snapshot() == {4: 0, 6: 1, 7: 2}
    after.resume({6: 0, 7: 1, 99: 2})
    assert after.refresh(grid) == {0: 6, 1: 7, 2: 4, 3: 8}
    assert after.rank_field(4) == {RANK: 2}


def test_who_has_gone_while_it_was_asked_is_not_ranked() -> None:
    """The SuperLink answers for it; a ClientApp that raises has only no handler."""

    class Half(Members):
        def send_and_receive(self, messages: Any, *, timeout: float) -> Any:
            for message in messages:
                identify(message)
                node = message.metadata.dst_node_id
                yield Message(Error(code=self.nodes[node], reason="no"), reply_to=message)

    assert query_partitions(Half({5: 2, 6: 5, 7: 3, 8: 8}), [5, 6, 7, 8]) == {5: None}  # type: ignore[arg-type]


# ------------------------------------------------------------------ the node


def test_what_is_not_a_rank_is_no_rank(tmp_path: Path) -> None:
    context = Context(1, 5, {"state-dir": str(tmp_path)}, RecordDict(), {})
    assert remembered(context) is None
    for text in ("", "-1\n", "two", "\N{SUPERSCRIPT TWO}", "9" * 5000, "1 2 3"):
        (tmp_path / "rank").write_text(text)
        assert remembered(context) is None
    for text, here in (("12\n", False), ("12 7\n", False), ("12 1\n", True)):
        (tmp_path / "rank").write_text(text)
        assert remembered(context) == 12
        query = Message(RecordDict(), dst_node_id=5, message_type="query")
        identify(query)
        told = answer(query, context)
        assert told.content["config"][RANK] == 12
        assert bool(told.content["config"][RANK_OF_THIS_RUN]) is here


def test_a_node_that_was_told_listens_to_nobody_else() -> None:
    request = Message(
        RecordDict({"config": ConfigRecord({RANK: 3})}), dst_node_id=5, message_type="train"
    )
    identify(request)
    told = Context(1, 5, {"partition-id": 1}, RecordDict(), {})
    assert located(request, told) is told
    untold = Context(1, 5, {"name": "x"}, RecordDict(), {})
    assert located(request, untold).node_config == {"name": "x", "partition-id": 3}
    assert located(request, untold).state is untold.state
    query = Message(RecordDict(), dst_node_id=5, message_type=MessageType.QUERY)
    assert located(query, untold) is untold
