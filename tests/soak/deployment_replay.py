"""The same experiment in one process: whole, or without the uploads that a deployed run lacked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid

from fedstrategies.engines import CohortGrid
from fedstrategies.experiment import read_history, run
from fedstrategies.experiment.clients import client_fn_of
from fedstrategies.experiment.config import ExperimentConfig
from fedstrategies.experiment.families import config_from_mapping
from fedstrategies.experiment.preparation import prepare
from fedstrategies.experiment.session import Session
from fedstrategies.flower import client_app

__all__ = ["History", "Missing", "Requests", "configuration", "history", "replay", "simulate"]

History = list[dict[str, Any]]
Missing = Mapping[int, set[int]]
"""Round -> partitions whose uploads were not used."""


def configuration(settings: Mapping[str, object], out: Path) -> ExperimentConfig:
    """A run configuration as the app reads it, with another folder for its results."""
    return config_from_mapping({**settings, "output-dir": str(out), "quiet": True}, app=True)


def history(folder: Path) -> History:
    """The records of a run."""
    return [dict(record) for record in read_history(folder / "history.jsonl")]


def simulate(settings: Mapping[str, object], out: Path) -> History:
    """The in-process simulation, on its fast path where it has one."""
    run(configuration(settings, out), picture=False)
    return history(out)


@dataclass
class Requests:
    """Train messages of a run, and the frames in them."""

    messages: int = 0
    frames: int = 0


def replay(settings: Mapping[str, object], out: Path, missing: Missing) -> tuple[History, Requests]:
    """A simulation in which those uploads get lost on their way, and no memory ever does."""
    config = replace(configuration(settings, out), fast="never")
    inside = CohortGrid(client_app(client_fn_of(config)), num_clients=config.clients, fast="never")
    session = Session(prepare(config), (), picture=False)
    lossy = _Lossy(inside, missing)
    session.guarded(lambda: session.run_on(lossy))
    return history(out), lossy.requests


class _Lossy(Grid):
    """A grid that loses the replies it is told to lose."""

    fixed_membership = True

    def __init__(self, inside: CohortGrid, missing: Missing) -> None:
        self._inside, self._missing = inside, missing
        self.requests = Requests()
        self.partitions = inside.partitions

    def get_node_ids(self) -> Iterable[int]:
        return self._inside.get_node_ids()

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        messages = list(messages)
        self.requests.messages += len(messages)
        self.requests.frames += sum(
            len(record)
            for message in messages
            for record in message.content.values()
            if isinstance(record, ArrayRecord)
        )
        rounds = {
            record["server-round"]
            for message in messages
            for record in message.content.values()
            if isinstance(record, ConfigRecord)
        }
        gone = {partition for t in rounds for partition in self._missing.get(t, set())}
        return [
            reply
            for reply in self._inside.send_and_receive(messages)
            if self.partitions[reply.metadata.src_node_id] not in gone
        ]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        raise NotImplementedError("strategies of this suite send and receive at once")

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        raise NotImplementedError("strategies of this suite send and receive at once")

    def create_message(self, *arguments: Any, **options: Any) -> Message:
        raise NotImplementedError("deprecated by Flower")

    def set_run(self, run: Any) -> None:
        self._inside.set_run(run)

    @property
    def run(self) -> Any:
        return self._inside.run
