"""The table of cohorts and batches: what this suite draws by its keys.

This suite draws a client's batch from (seed, round, client, step) while it trains, and nothing
else about it can be chosen. To make the arithmetic the same everywhere, the other systems are
given the same rows as a table, read before their clocks start: this suite pays for drawing, they
do not. Everybody gathers the rows of each batch.
"""

from __future__ import annotations

import numpy as np

from benchmarks.simulation.task import BATCH, CLIENTS, COHORT, EXAMPLES, STEPS, Schedule
from fedstrategies import NiceSampling
from fedstrategies.random import Purpose, client_keys, derived_keys, sample_without_replacement

__all__ = ["SEED", "draw_schedule"]

SEED = 0


def draw_schedule(rounds: int) -> Schedule:
    """Cohorts and batches of rounds 1 to ``rounds`` of this suite's ``FedAvg`` with `SEED`."""
    law = NiceSampling(cohort_size=COHORT)
    cohorts = np.empty((rounds, COHORT), dtype=np.int64)
    rows = np.empty((rounds, COHORT, STEPS, BATCH), dtype=np.int64)
    for position in range(rounds):
        cohort = law.draw(CLIENTS, seed=SEED, round=position + 1)
        keys = client_keys(SEED, position + 1, cohort, Purpose.CLIENT)
        draws = derived_keys(keys, Purpose.MINIBATCH)
        cohorts[position] = cohort.numpy()
        for step in range(STEPS):
            batch = sample_without_replacement(derived_keys(draws, step), EXAMPLES, BATCH)
            rows[position, :, step] = batch.numpy()
    return Schedule(cohorts=cohorts, rows=rows)
