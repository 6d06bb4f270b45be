"""Every algorithm of the suite, by name; a case is built when it is asked for."""

from __future__ import annotations

from collections.abc import Callable

from tests.soak.faults_case import Case
from tests.soak.faults_cases_memory import EFBV_CASES, SCAFFLIX_CASES
from tests.soak.faults_cases_memoryless import FEDP3_CASES, SPPM_CASES
from tests.soak.faults_cases_private import PRIVATE_CASES

__all__ = ["ALGORITHMS", "CASES"]

CASES: dict[str, Callable[[], Case]] = {
    **EFBV_CASES,
    **SCAFFLIX_CASES,
    **SPPM_CASES,
    **FEDP3_CASES,
    **PRIVATE_CASES,
}

# One of each method, two with client memories of them under privacy; the other cases are further
# settings of these.
ALGORITHMS = (
    "efbv",
    "ef21",
    "diana",
    "gd",
    "scafflix",
    "i-scaffnew",
    "scaffnew",
    "flix",
    "fedavg",
    "sppm-gd",
    "sppm-gd-nice",
    "local-gd",
    "fedprox",
    "fedp3-opu2-pruned",
    "ldp-fedp3",
    "private-efbv",
    "private-scafflix",
)
