"""The ClientApp of this suite's clients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import Mod

from fedstrategies.flower.client import BaseClient
from fedstrategies.flower.state_store import StateStore

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
        Where clients keep their state, e.g. `DirectoryStore`; None: in ``context.state``, which
        Flower's runtime sends along with every message.
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
            with nullcontext(context) if store is None else store.opened(context) as own:
                return client_fn(own).train(message, own)

        @self.evaluate()
        def evaluate(message: Message, context: Context) -> Message:
            with nullcontext(context) if store is None else store.opened(context) as own:
                return client_fn(own).evaluate(message, own)

        @self.query()
        def query(message: Message, context: Context) -> Message:
            return client_fn(context).query(message, context)


def client_app(
    client_fn: ClientFn, *, mods: Sequence[Mod] = (), store: StateStore | None = None
) -> FedApp:
    """Make a ClientApp that serves train, evaluate and query with the clients of ``client_fn``.

    Parameters are those of `FedApp`.

    Examples
    --------
    >>> app = client_app(lambda context: EFBVClient(context, objective=load(context)))
    ... # doctest: +SKIP
    """
    return FedApp(client_fn, mods=mods, store=store)
