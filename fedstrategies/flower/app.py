"""The ClientApp of this suite's clients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import Mod

from fedstrategies.flower.client import BaseClient
from fedstrategies.flower.rank import STATE_DIR, answer, located
from fedstrategies.flower.state_store import DirectoryStore, StateStore

__all__ = ["ClientFn", "FedApp", "client_app"]

ClientFn = Callable[[Context], BaseClient]


class FedApp(ClientApp):
    """A ClientApp that engines can look into: what builds its clients, and which mods it has.

    Parameters
    ----------
    client_fn : callable
        Context -> client. Keep it importable and load data lazily: Ray ships the app with every
        task, and what a closure holds travels along.
    mods : sequence of Mod
        Flower mods, the first outermost. They see our messages: one opaque blob per direction.
    store : StateStore or None
        Where clients keep their state, e.g. `DirectoryStore`. None: in the directory that the
        node's ``state-dir`` names, if its ``--node-config`` has one, else in ``context.state``,
        which Flower's runtime sends along with every message.
    """

    def __init__(
        self, client_fn: ClientFn, *, mods: Sequence[Mod] = (), store: StateStore | None = None
    ) -> None:
        super().__init__(mods=list(mods))
        self.client_fn = client_fn
        self.mods = tuple(mods)
        self.store = store

        @self.train()
        def train(message: Message, context: Context) -> Message:
            with _opened(message, context, store) as own:
                return client_fn(own).train(message, own)

        @self.evaluate()
        def evaluate(message: Message, context: Context) -> Message:
            with _opened(message, context, store) as own:
                return client_fn(own).evaluate(message, own)

        @self.query()
        def query(message: Message, context: Context) -> Message:
            return answer(message, context)  # no client is built: that may mean loading data


def _opened(
    message: Message, context: Context, store: StateStore | None
) -> AbstractContextManager[Context]:
    """The context to work on: with the node's partition, and its kept state."""
    placed = located(message, context)
    if store is None and STATE_DIR in context.node_config:
        store = DirectoryStore(str(context.node_config[STATE_DIR]))
    return nullcontext(placed) if store is None else store.opened(placed)


def client_app(
    client_fn: ClientFn, *, mods: Sequence[Mod] = (), store: StateStore | None = None
) -> FedApp:
    """Make a ClientApp that serves train, evaluate and query with the clients of ``client_fn``.

    Parameters are those of `FedApp`.

    Examples
    --------
    After the example of `LogisticRegression`:

    >>> from fedstrategies import CohortGrid, EFBVClient, client_app
    >>> def client_fn(context):
    ...     return EFBVClient(context, objective=f[context.node_config["partition-id"]])
    >>> app = client_app(client_fn)
    >>> len(list(CohortGrid(app, num_clients=2).get_node_ids()))
    2
    """
    return FedApp(client_fn, mods=mods, store=store)
