"""The clients of Flower's older API as the part of a `Grid` that strategies look at."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common import GetPropertiesIns
from flwr.server.client_proxy import ClientProxy

from fedstrategies.flower.private import client_error

__all__ = ["LegacyNodes"]


class LegacyNodes:
    """The connected clients; each has a node id."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}
        self._proxies: dict[int, ClientProxy] = {}

    def meet(self, connected: Mapping[str, ClientProxy]) -> None:
        """These are there now. Ids are those of Flower where they are numbers, as its own are."""
        for cid in connected:
            if cid not in self._ids:
                taken = set(self._ids.values())
                self._ids[cid] = int(cid) if cid.isdecimal() else max(taken, default=0) + 1
        self._proxies = {self._ids[cid]: proxy for cid, proxy in connected.items()}

    def id(self, proxy: ClientProxy) -> int:
        """The node id of a client."""
        return self._ids[proxy.cid]

    def proxy(self, node: int) -> ClientProxy:
        """The client with a node id."""
        return self._proxies[node]

    def get_node_ids(self) -> Iterable[int]:
        """All that are there."""
        return list(self._proxies)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Answers to queries, by the clients' properties; nothing else is sent this way."""
        return [self._properties(message, timeout) for message in messages]

    def _properties(self, message: Message, timeout: float | None) -> Message:
        proxy = self._proxies[message.metadata.dst_node_id]
        try:
            found = proxy.get_properties(GetPropertiesIns({}), timeout=timeout, group_id=None)
        except Exception as error:  # whatever the client or the connection raises is its answer
            return client_error(str(error), message)
        known = {k: v for k, v in found.properties.items() if isinstance(v, int)}
        return Message(RecordDict({"config": ConfigRecord({**known})}), reply_to=message)
