"""What every test module runs under."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fedstrategies.threads import single_threaded


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """As the engines work: a sum computed beside them has the same bits on any machine."""
    with single_threaded():
        yield
