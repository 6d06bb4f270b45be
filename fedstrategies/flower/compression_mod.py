"""A Flower mod that compresses what any ClientApp returns.

    u_i = y_i - x                     what training has made of the model x that was sent
    c_i = C(u_i - g_i)                what travels
    g_i <- g_i + lambda c_i           once the server has used it
    x + g_i                           what the strategy on the server gets (the new g_i)

This is EF21's memory around an update in place of a gradient: what C leaves out stays in u_i - g_i
and is sent later. lambda is 1 where C is a contraction, else EF-BV's lambda*, as in
`fedstrategies.EF21`. Without memory g_i = 0 and lambda = 0: the strategy gets x + C(u_i).

The memory is kept by the receipts of docs/reliability.md: it moves when the server has used c_i.

Source: Richtarik, Sokolov, Fatkhullin, "EF21" (2021); Condat, Yi, Richtarik, "EF-BV" (2022).
"""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from math import nan

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.clientapp.typing import ClientAppCallable
from torch import Tensor

from fedstrategies.compressors import Compressor, Constants
from fedstrategies.flower.compressed_reply import (
    answer,
    forget_reply,
    keep_reply,
    refuse,
    resend,
)
from fedstrategies.flower.control import MemoryCommand, Request, Status
from fedstrategies.flower.flat_update import FlatModel, only_arrays
from fedstrategies.flower.receipts import Decision, Receipts
from fedstrategies.flower.records import (
    CONTROL,
    MEMORY,
    blob_of,
    bytes_under,
    load_memory,
    load_receipts,
    records_of,
    save_state,
)
from fedstrategies.random import Purpose, derived_keys
from fedstrategies.wire import decode, decode_vector, encode

__all__ = ["CompressionMod", "memory_step"]

CLIPPING_NORM = "clipping_norm"
"""Key by which Flower's wrappers for client-side clipping tell their bound."""

_G = "g"


def memory_step(constants: Constants) -> float:
    """lambda: 1 if C is a contraction, else ``(1-eta) / ((1-eta)^2 + omega)``.

    For an unbiased operator the latter is ``1/(1+omega)``.
    """
    if constants.error < 1.0:
        return 1.0
    return (1.0 - constants.eta) / ((1.0 - constants.eta) ** 2 + constants.omega)


class CompressionMod:
    """Compress the updates of a ClientApp that knows nothing of it; the first of its mods.

    The strategy on the server is wrapped in `Compressed`. Train messages alone are touched.
    Metrics and all other records pass, and so do integer arrays and batch normalisation's
    statistics; the other arrays are compressed together, as one vector.

    Parameters
    ----------
    compressor : Compressor
        C.
    memory : bool
        Whether the client keeps g_i, d numbers in ``context.state``. Needed by biased operators
        such as top-k. An unbiased one may do without, at the price of its variance.

    Raises
    ------
    ValueError
        If ``compressor`` is none; while training, what the module's text and the guide on
        existing setups name.

    References
    ----------
    Richtarik, Sokolov, Fatkhullin, "EF21" (2021); Condat, Yi, Richtarik, "EF-BV" (2022).

    Examples
    --------
    >>> from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
    >>> from flwr.clientapp import ClientApp
    >>> from fedstrategies import CompressionMod, TopK
    >>> app = ClientApp(mods=[CompressionMod(TopK(fraction=0.02))])
    >>> @app.train()
    ... def train(message, context):
    ...     (x,) = message.content["arrays"].to_numpy_ndarrays()
    ...     arrays, metrics = ArrayRecord([x + 1]), MetricRecord({"num-examples": 1})
    ...     return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)
    """

    def __init__(self, compressor: Compressor, *, memory: bool = True) -> None:
        if not isinstance(compressor, Compressor):
            raise ValueError(
                f"compressor = {compressor!r} is no Compressor; write TopK(fraction=0.02), or "
                "parse_compressor('top-k:fraction=0.02')"
            )
        self.compressor = compressor
        self.memory = memory

    def __call__(self, message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        """Train, and send the compressed difference; anything but a train message passes."""
        if message.metadata.message_type.split(".")[0] != MessageType.TRAIN:
            return call_next(message, context)
        request = _request_in(message.content)
        receipts = load_receipts(context.state)
        decision = receipts.decide(request)
        if decision is Decision.RESEND:
            return resend(message, request, receipts, context.state)
        if decision is Decision.STALE:
            return refuse(message, request, Status.STALE)
        if decision is Decision.LOST:
            save_state(context.state, receipts.after_lost(request), None)
            return refuse(message, request, Status.LOST)

        inner = copy(message)
        inner.content = RecordDict(
            {k: v for k, v in message.content.items() if k not in (CONTROL, MEMORY)}
        )
        model = FlatModel.of(only_arrays(inner.content, "the train message")[1])
        self._require_sound(inner.content, len(model.x))
        g = _settled(decision, receipts, request, message.content, context.state, model)
        reply = call_next(inner, context)
        if reply.has_error():
            return reply
        return self._compressed(reply, request, receipts, context.state, model, g)

    def _require_sound(self, content: RecordDict, dimension: int) -> None:
        """Refuse what voids the bound that a wrapper for client-side clipping counts on.

        Raises
        ------
        ValueError
            If the message carries such a bound, and what is sent may be longer than it.
        """
        if not any(CLIPPING_NORM in config for config in records_of(content, ConfigRecord)):
            return
        if self.memory:
            why = "a memory adds to an update what was left out of earlier ones"
        elif not self.compressor.constants(dimension).selects:
            why = f"{self.compressor.spec} can make a vector longer"
        else:
            return
        raise ValueError(
            "client-side clipping counts on updates that are no longer than its norm, but "
            f"{why}. Use DifferentialPrivacyServerSideFixedClipping or ...AdaptiveClipping, which "
            "clip what arrives, or a compressor that only drops entries (top-k, scaled-rand-k) "
            "with memory=False"
        )

    def _compressed(
        self,
        reply: Message,
        request: Request,
        receipts: Receipts,
        state: RecordDict,
        model: FlatModel,
        g: Tensor,
    ) -> Message:
        """The reply with ``C(u - g)`` in place of the arrays; receipts and memory are kept."""
        name, returned = only_arrays(reply.content, "the reply of the ClientApp")
        update, rest = model.update_in(returned)
        keys = derived_keys(torch.tensor([request.key]), Purpose.COMPRESSOR)
        payload = self.compressor.compress(
            (update - g[0])[None] if self.memory else update[None], keys
        )
        if not payload.is_finite():
            raise ValueError("training returned numbers that are not finite; nothing is sent")
        blob = encode(payload)
        step = memory_step(self.compressor.constants(len(update))) if self.memory else 0.0
        told = replace(request, constants=(step,), spec=self.compressor.spec)
        after = receipts.after_upload(told, blob, nan)
        rest_of_reply = {**reply.content, name: ArrayRecord(rest)}
        if self.memory:
            save_state(state, after, {_G: g})
            keep_reply(state, rest_of_reply)
        else:
            save_state(state, after.without_blob(), None)
            forget_reply(state)
        return answer(reply, request, after, rest_of_reply)


def _request_in(content: RecordDict) -> Request:
    record = content.get(CONTROL)
    control = record.get(CONTROL) if isinstance(record, ConfigRecord) else None
    if not isinstance(control, bytes):
        raise ValueError(
            "CompressionMod: the message carries no fedstrategies control fields; wrap the "
            "strategy on the server: Compressed(strategy)"
        )
    return Request.from_bytes(control)


def _settled(
    decision: Decision,
    receipts: Receipts,
    request: Request,
    content: RecordDict,
    state: RecordDict,
    model: FlatModel,
) -> Tensor:
    """g_i up to the upload that the server used last: shape (1, d), owned by the caller."""
    dimension = len(model.x)
    if decision is Decision.REPLACE:
        if request.memory is MemoryCommand.ZERO:
            return torch.zeros_like(model.x)[None]
        sent = content[MEMORY]
        assert isinstance(sent, ArrayRecord)
        (array,) = sent.values()
        return decode_vector(bytes_under(blob_of(array)), dimension=dimension, name="memory")[None]
    stored = load_memory(state)
    g = torch.zeros_like(model.x)[None] if stored is None else stored[_G]
    if g.shape != (1, dimension) or g.dtype != model.x.dtype:
        raise ValueError(
            f"the model has {dimension} numbers of {model.x.dtype}, the memory {g.shape[1]} of "
            f"{g.dtype}: a run keeps to one model"
        )
    pending = receipts.pending
    if decision is Decision.COMMIT and pending is not None and pending.constants[0]:
        payload = decode(pending.blob, dimension=dimension, name="pending upload")
        payload.add_to_(g, pending.constants[0])
    return g
