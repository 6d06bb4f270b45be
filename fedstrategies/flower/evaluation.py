"""Evaluation of the model on the clients."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid

from fedstrategies.flower.control import pack_constants
from fedstrategies.flower.metrics import aggregate_metrics
from fedstrategies.flower.rank import RANK_BYTES
from fedstrategies.flower.records import CONTROL, raw_array
from fedstrategies.sampling import NiceSampling
from fedstrategies.wire import encode_vector

if TYPE_CHECKING:
    from fedstrategies.flower.strategy import BaseStrategy

__all__ = ["evaluation_messages", "evaluation_metrics"]

logger = logging.getLogger("flwr")


def evaluation_messages(
    strategy: BaseStrategy, server_round: int, config: ConfigRecord, grid: Grid
) -> list[Message]:
    """Messages to a seeded sample of the nodes; none if ``fraction_evaluate`` is 0."""
    if strategy.fraction_evaluate == 0.0:
        return []
    nodes = strategy.nodes.refresh(grid)
    wanted = max(int(len(nodes) * strategy.fraction_evaluate), strategy.min_evaluate_nodes)
    size = min(wanted, len(nodes))
    if size == 0:
        return []
    # Rounds of training are positive: the draw shares no stream with theirs.
    law = NiceSampling(cohort_size=size)
    chosen = law.draw(len(nodes), seed=strategy.seed, round=-server_round)
    frame = encode_vector(strategy.x)
    model = ArrayRecord({"0": raw_array(frame)})
    user = {**config, "server-round": server_round}
    present = sorted(nodes)
    strategy.evaluating = set()
    messages = []
    for partition in (present[i] for i in chosen.tolist()):
        control = pack_constants(strategy.evaluation_constants(partition))
        node = nodes[partition]
        rank = strategy.nodes.rank_field(node)
        content = RecordDict(
            {
                strategy.arrayrecord_key: model,
                strategy.configrecord_key: ConfigRecord({**user, CONTROL: control, **rank}),
            }
        )
        strategy.evaluating.add(node)
        strategy.bytes.downlink += len(frame) + len(control) + RANK_BYTES * len(rank)
        messages.append(Message(content, dst_node_id=node, message_type=MessageType.EVALUATE))
    return messages


def evaluation_metrics(strategy: BaseStrategy, replies: Iterable[Message]) -> MetricRecord | None:
    """The aggregated metrics, in partition order; failed replies are named and left out."""
    contents = []
    for reply in sorted(replies, key=strategy.nodes.index_of):
        if reply.metadata.src_node_id not in strategy.evaluating:
            continue  # nobody asked this node, or it has answered already
        strategy.evaluating.discard(reply.metadata.src_node_id)
        if reply.has_error():
            logger.warning(
                "evaluation on node %d failed: %s",
                reply.metadata.src_node_id,
                reply.error.reason,
            )
        else:
            contents.append(reply.content)
    if not contents:
        return None
    return aggregate_metrics(contents, strategy.evaluate_metrics_aggr_fn, strategy.weighted_by_key)
