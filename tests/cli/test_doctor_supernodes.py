"""What `fedstrategies doctor` says of SuperNodes on this machine."""

from __future__ import annotations

from pathlib import Path

from fedstrategies.experiment.doctor.finding import Finding
from fedstrategies.experiment.doctor.supernodes import (
    SuperNode,
    check_supernodes,
    running_supernodes,
)
from fedstrategies.experiment.families import config_from_mapping

CONFIG = config_from_mapping({"algorithm": "ef21", "clients": 2})


def node(pid: int, *, insecure: bool = False, **config: str) -> SuperNode:
    keys = {key.replace("_", "-"): value for key, value in config.items()}
    return SuperNode(pid, "127.0.0.1:8000", insecure, keys)


def said(*nodes: SuperNode) -> list[Finding]:
    return list(check_supernodes(CONFIG, nodes))


def test_command_lines_are_read_as_flower_reads_them(tmp_path: Path) -> None:
    lines = {
        7: "/usr/bin/python3\0/venv/bin/flower-supernode\0--insecure\0--superlink\0h:9\0"
        "--node-config\0partition-id=1 num-partitions=2 state-dir='/a b'\0--port\09094\0",
        8: "flower-supernode\0--superlink=h:9\0--root-certificates\0ca.crt\0",
        9: "flower-supernode\0--node-config\0name='half\0",
        10: "vi\0notes\0flower-supernode\0",
        11: "flower-superlink\0--insecure\0",
        12: "",
    }
    for pid, line in lines.items():
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "cmdline").write_text(line)
    (tmp_path / "13").mkdir()  # ended between the listing and the look
    config = {"partition-id": "1", "num-partitions": "2", "state-dir": "/a b"}
    assert running_supernodes(tmp_path) == [
        SuperNode(7, "h:9", True, config),
        SuperNode(8, "h:9", False, {}),
        SuperNode(9, "127.0.0.1:8000", False, {}),
    ]
    assert running_supernodes(tmp_path / "none") == []


def test_nothing_is_said_of_a_machine_without_supernodes() -> None:
    assert said() == []


def test_nodes_with_partitions_of_their_own_are_ok() -> None:
    (finding,) = said(node(1, partition_id="0", num_partitions="2"), node(2, partition_id="1"))
    assert finding.level == "ok"
    assert finding.text.startswith("2 on this machine")


def test_a_node_without_a_partition_is_warned_of() -> None:
    ranks, restart = said(node(5), node(6, partition_id="1"))
    assert (ranks.level, restart.level) == ("note", "note")
    assert "1 (process 5) of 2 here without a partition-id" in ranks.text
    assert "partition-id=I num-partitions=2" in ranks.advice
    assert "state-dir" in restart.advice
    (only,) = said(node(5, state_dir="/var/a"), node(6, partition_id="1"))
    assert only.text == ranks.text


def test_what_two_nodes_must_not_share() -> None:
    (twice,) = said(node(1, partition_id="1"), node(2, partition_id="1"))
    assert "2 claim partition 1 of 127.0.0.1:8000" in twice.text
    other = SuperNode(2, "elsewhere:8000", False, {"partition-id": "1"})
    assert said(node(1, partition_id="1"), other)[0].level == "ok"
    _, shared = said(node(1, state_dir="/var/a"), node(2, state_dir="/var/a"))
    assert "2 without partition-id share state-dir /var/a" in shared.text


def test_another_number_of_clients_and_no_tls() -> None:
    clients, bare = said(node(1, partition_id="0", num_partitions="20", insecure=True))
    assert "num-partitions=20, but --clients is 2" in clients.text
    assert "--clients 20" in clients.advice
    assert "without TLS" in bare.text
