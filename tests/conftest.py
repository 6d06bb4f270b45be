"""What every test module runs under."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from fedstrategies.experiment import session
from fedstrategies.threads import single_threaded

_draw = session.draw_picture


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """As the engines work: a sum computed beside them has the same bits on any machine."""
    with single_threaded():
        yield


@pytest.fixture(autouse=True, scope="session")
def _few_pictures() -> Iterator[None]:
    """A run's picture costs five times what the run does; a test of it asks for ``pictures``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "draw_picture", lambda directory: None)
        yield


@pytest.fixture(autouse=True)
def _flowers_log() -> Iterator[None]:
    """Commands and tests turn Flower's log down or up; the next test finds it as it was."""
    logger = logging.getLogger("flwr")
    before = logger.level, logger.propagate
    yield
    logger.setLevel(before[0])
    logger.propagate = before[1]


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs draw theirs, as they do for a user."""
    monkeypatch.setattr(session, "draw_picture", _draw)
