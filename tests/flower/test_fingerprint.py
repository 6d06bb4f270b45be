"""What two strategies differ in, as a resumed run is told."""

from __future__ import annotations

from fedstrategies.flower.fingerprint import difference

KEPT: dict[str, str | float] = {"strategy": "FedP3", "step size": 0.1}


def test_a_setting_that_an_earlier_version_did_not_know_is_no_difference_while_it_is_off() -> None:
    assert difference(KEPT, {**KEPT, "calibration": "None"}) is None
    told = difference(KEPT, {**KEPT, "calibration": "Calibration(every=1, max_norm=inf)"})
    assert told is not None
    assert "calibration = None, this one has Calibration(every=1" in told


def test_a_setting_that_was_on_and_is_off_is_one() -> None:
    kept = {**KEPT, "calibration": "Calibration(every=1, max_norm=inf)"}
    told = difference(kept, {**KEPT, "calibration": "None"})
    assert told is not None
    assert "calibration = Calibration(every=1" in told
    assert difference({**KEPT, "calibration": "None"}, KEPT) is not None
