"""Dense networks of many clients in one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from fedstrategies.objectives.autograd import AutogradClient
from fedstrategies.objectives.dense_client import DenseClient, dense_gradients, dense_values
from fedstrategies.objectives.dense_network import dense_network
from fedstrategies.objectives.dense_watch import watch_of
from fedstrategies.objectives.looped import LoopedObjectives

if TYPE_CHECKING:
    from fedstrategies.objectives.torch_objective import TorchObjective

__all__ = ["DenseObjectives", "dense_client_of"]


def dense_client_of(client: AutogradClient) -> DenseClient | None:
    """The same client for the dense kernels; None if its module and examples are not for them.

    Examples are views of the user's tensors: contiguous ones, in main memory.
    """
    tensors, passes = client.examples.tensors, client.passes
    if tensors is None or passes.device.type != "cpu":
        return None
    features, targets = tensors
    if features.device.type != "cpu" or not features.is_contiguous():
        return None
    network = dense_network(
        passes.module, client.loss, passes.layout, features=features, targets=targets.cpu()
    )
    if network is None:
        return None
    # Detached: the count of writes is the user's, and tensors of inference mode have one.
    labels = targets.detach()
    return DenseClient(
        network=network,
        features=features.detach().view(len(features), -1).numpy(),
        targets=labels.cpu().numpy(),
        batch_size=client.batch_size,
        chunk_size=client.chunk_size,
        l2=client.l2,
        watch=watch_of(passes.module, client.loss),
        labels=labels,
        version=labels._version,
    )


class DenseObjectives(LoopedObjectives):
    """The f_i of n clients with dense networks of one kind; see `TorchObjective`.

    A client's value and gradient have the same bits alone, in any batch and in any subset, with a
    fixed number of BLAS threads (`fedstrategies.threads`).

    Parameters
    ----------
    objectives : sequence of TorchObjective
        One per client, with networks of equal `DenseNetwork.kind`.

    Raises
    ------
    ValueError
        If there is none, or they differ in dimension or dtype.
    """

    def __init__(self, objectives: Sequence[TorchObjective]) -> None:
        super().__init__(objectives)
        self._members = tuple(objectives)
        self._clients = tuple(one.dense for one in objectives)

    @property
    def looped(self) -> bool:
        """False: one product a client, but one call."""
        return False

    def value_and_gradient(
        self, x: Tensor, *, clients: Tensor | None = None, keys: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Values (C',) and gradients (C', d); see `BatchedObjective.value_and_gradient`."""
        chosen = self._chosen(x, clients)
        if chosen is None:
            return super().value_and_gradient(x, clients=clients, keys=keys)
        return dense_gradients(chosen, x, keys)

    def values(self, x: Tensor, *, clients: Tensor | None = None) -> Tensor:
        """f_i(x) of the selected clients: shape (C',)."""
        chosen = self._chosen(x, clients)
        return super().values(x, clients=clients) if chosen is None else dense_values(chosen, x)

    def _chosen(self, x: Tensor, clients: Tensor | None) -> list[DenseClient] | None:
        """The selected clients; None if x or one of them is not what was stacked."""
        chosen: list[DenseClient] = []
        watch = None
        for row in self.rows_for(x, clients):
            client = self._clients[row]
            if client is None or client is not self._members[row].dense or not client.fits(x):
                return None
            # Clients of one module and one loss have one watch.
            if client.watch is not watch:
                watch = client.watch
                if not watch.unchanged():
                    return None
            chosen.append(client)
        return chosen
