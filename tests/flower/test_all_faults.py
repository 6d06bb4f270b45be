"""Every family of algorithms through every kind of fault; the long version is tests.soak.faults."""

from __future__ import annotations

import pytest

from tests.soak.faults_cases import CASES
from tests.soak.faults_run import schedule, survive

QUICK = (
    "diana-downlink",
    "scafflix-2-of-8",
    "sppm-gd-nice",
    "fedp3-opr2-attention",
    "private-sppm",
)


@pytest.mark.parametrize("name", QUICK)
def test_mixed_faults_leave_the_invariants_and_the_optimum_alone(name: str) -> None:
    if name.startswith("private"):
        pytest.importorskip("opacus", reason="the extra 'privacy' is not installed")
    case = CASES[name]()
    faults = schedule(case, rate=0.035, kills=0.08)
    found = survive(case, rounds=60, faults=faults, checkpoint_every=2, seed=3, share=0.05)
    assert found.rounds == 60
    assert found.distance <= found.limit
    # Whether a whole cohort fails at once is up to chance; all else must have happened.
    never = [kind for kind, count in found.faults.items() if not count and kind != "all_failed"]
    assert not never
