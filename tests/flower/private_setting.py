"""Private clients of a small problem, on grids with and without faults."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, RecordDict

from fedstrategies.compressors import Identity
from fedstrategies.efbv import EFBV, EFBVClient
from fedstrategies.engines import CohortGrid
from fedstrategies.flower import BaseClient, BaseStrategy, RoundRecord, client_app
from fedstrategies.flower.spending import load_spending
from fedstrategies.privacy import Budget, Privacy
from fedstrategies.privacy import Ledger as PrivacyLedger
from tests.flower.conftest import CLIENTS, Setting

DELTA = 1e-5
SIMULATED = Privacy(max_grad_norm=1.0, noise_multiplier=3.0, simulated_seed=0)
DEPLOYED = replace(SIMULATED, simulated_seed=None)


def releases(steps: int, *, noise_multiplier: float = 3.0) -> PrivacyLedger:
    """The ledger of a number of full-batch releases."""
    return PrivacyLedger().charge(noise_multiplier=noise_multiplier, sample_rate=1.0, steps=steps)


def lasting(privacy: Privacy, steps: int) -> Privacy:
    """The same with a budget for exactly so many releases."""
    spent = releases(steps, noise_multiplier=privacy.noise_multiplier)
    return replace(privacy, budget=Budget(epsilon=spent.epsilon(DELTA), delta=DELTA))


def app_of(
    setting: Setting,
    privacy: Privacy | Callable[[int], Privacy | None],
    kind: type[BaseClient] = EFBVClient,
) -> Any:
    """The app whose client i has ``privacy``, or ``privacy(i)``."""

    def client(context: Context) -> BaseClient:
        index = int(context.node_config["partition-id"])
        own = privacy if isinstance(privacy, Privacy) else privacy(index)
        return kind(context, objective=setting.objectives[index], privacy=own)

    return client_app(client)


def efbv(setting: Setting, **settings: Any) -> EFBV:
    return EFBV(
        **{
            "compressor": Identity(),
            "smoothness": setting.smoothness,
            "fraction_evaluate": 0.0,
            **settings,
        }
    )


class Follow:
    """A callback that keeps every record, and every ledger the server knows of."""

    def __init__(self, strategy: BaseStrategy) -> None:
        self.strategy = strategy
        self.records: list[tuple[object, ...]] = []
        self.points: list[torch.Tensor] = []

    def on_start(self, x: torch.Tensor) -> None:
        self.points.append(x.clone())

    def on_round(self, record: RoundRecord) -> None:
        self.points.append(record.x.clone())
        self.records.append(
            (
                record.round,
                record.participants,
                record.failures,
                record.uplink_bytes,
                record.downlink_bytes,
                record.recovery_bytes,
                self.strategy.accounts.to_bytes(),
            )
        )

    def on_end(self) -> None:
        """Nothing."""


def follow(strategy: BaseStrategy, grid: CohortGrid, start: ArrayRecord, rounds: int) -> Follow:
    found = Follow(strategy)
    strategy.start(grid, start, num_rounds=rounds, callbacks=[found])
    return found


def one_round(strategy: BaseStrategy, grid: CohortGrid, arrays: ArrayRecord) -> ArrayRecord:
    """One attempt over messages; the model after it."""
    messages = strategy.configure_train(1, arrays, ConfigRecord(), grid)
    found, _ = strategy.aggregate_train(1, grid.send_and_receive(messages))
    return arrays if found is None else found


def wipe(grid: CohortGrid, partition: int) -> None:
    list(grid.contexts.values())[partition].state = RecordDict()


def node_ledger(grid: CohortGrid, partition: int) -> PrivacyLedger:
    """What a node's own record holds."""
    known = load_spending(list(grid.contexts.values())[partition].state)
    return PrivacyLedger() if known is None else known[1]


def node_releases(grid: CohortGrid) -> list[int]:
    return [node_ledger(grid, partition).releases for partition in range(CLIENTS)]


def server_releases(strategy: BaseStrategy) -> list[int]:
    return [strategy.accounts.ledger(partition).releases for partition in range(CLIENTS)]
