"""The partition of a node that was not told one.

A SuperNode started without ``partition-id`` gets a rank from the server, by order of contact
(`nodes.NodeDirectory`). The rank travels with every request, so that a node needs no memory to be
right; what the user's client function reads is ``node_config["partition-id"]`` as ever. A node
that has a directory of its own (``state-dir`` in its ``--node-config``) writes the rank down there
and tells it when it is asked the next time, in this run or another. In this run it may have the
rank back from whoever has it by then; of another run's rank others may be using the number.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, RecordDict

from fedstrategies.flower.records import records_of

__all__ = [
    "RANK",
    "RANK_BYTES",
    "RANK_OF_THIS_RUN",
    "STATE_DIR",
    "answer",
    "located",
    "partition_of",
    "remembered",
]

RANK = "fedstrategies.rank"
"""Key of a node's rank, in requests beside the control fields, and in answers to queries."""

RANK_OF_THIS_RUN = "fedstrategies.rank-of-this-run"
"""Key beside a remembered rank: whether the node had it in this run."""

RANK_BYTES = 8
"""What it counts for in the byte counters."""

STATE_DIR = "state-dir"
"""Key of a node's ``--node-config``: a directory that is this node's own."""

_PARTITION = "partition-id"
_FILE = "rank"
_CONTENT = re.compile(r"(\d{1,18})(?: (\d{1,20}))?", re.ASCII)


def located(message: Message, context: Context) -> Context:
    """The context with ``partition-id`` in its ``node_config``, from the request if it must be.

    For handlers of your own, before the client is built; `client_app` does it for you. The state
    is that of ``context`` itself.

    Parameters
    ----------
    message : Message
        The request, whose configuration may hold the node's rank.
    context : Context
        The node's own.

    Raises
    ------
    OSError
        If the node has a ``state-dir`` that cannot be written.
    """
    if _PARTITION in context.node_config or not message.has_content():
        return context
    ranks = [config[RANK] for config in records_of(message.content, ConfigRecord) if RANK in config]
    if not ranks or not isinstance(ranks[0], int):
        return context
    _remember(context, ranks[0])
    return Context(
        run_id=context.run_id,
        node_id=context.node_id,
        node_config={**context.node_config, _PARTITION: ranks[0]},
        state=context.state,
        run_config=context.run_config,
    )


def answer(message: Message, context: Context) -> Message:
    """What a node answers to a query: its partition, else the rank it remembers, if any."""
    fields = partition_of(context)
    if _PARTITION not in fields and (known := _recall(context)) is not None:
        fields[RANK], run = known
        fields[RANK_OF_THIS_RUN] = run == context.run_id
    return Message(RecordDict({"config": ConfigRecord({**fields})}), reply_to=message)


def partition_of(context: Context) -> dict[str, int]:
    """What a node was told: ``partition-id`` and ``num-partitions``, as far as it was."""
    known = (_PARTITION, "num-partitions")
    return {key: int(context.node_config[key]) for key in known if key in context.node_config}


def remembered(context: Context) -> int | None:
    """The rank that a node's directory holds; None without one."""
    known = _recall(context)
    return None if known is None else known[0]


def _recall(context: Context) -> tuple[int, int | None] | None:
    """Rank and the run it was given in, as far as the node's directory says so."""
    path = _path(context)
    if path is None or not path.is_file():
        return None
    # What is not a number says nothing: the node is ranked anew, which is always right.
    found = _CONTENT.fullmatch(path.read_text(encoding="ascii", errors="replace").strip())
    return None if found is None else (int(found[1]), int(found[2]) if found[2] else None)


def _remember(context: Context, rank: int) -> None:
    path = _path(context)
    if path is None or _recall(context) == (rank, context.run_id):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{_FILE}.{os.getpid()}")
    partial.write_text(f"{rank} {context.run_id}\n", encoding="ascii")
    os.replace(partial, path)


def _path(context: Context) -> Path | None:
    directory = context.node_config.get(STATE_DIR)
    return None if directory is None else Path(str(directory)).expanduser() / _FILE
