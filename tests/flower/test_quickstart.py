"""Flower's quickstart app, as it is and with compressed updates: the diff, and that both run."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from tests.soak.quickstart_apps import NODES, difference, run


def test_the_diff_has_at_most_ten_lines() -> None:
    changed = difference()
    assert 0 < len(changed) <= 10, "\n".join(changed)
    assert any("CompressionMod(" in line for line in changed)
    assert any("Compressed(" in line for line in changed)


def test_both_run_and_what_goes_up_is_fifty_times_smaller(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    labels = np.arange(40) % 10
    images = draw.integers(0, 256, (40, 3, 32, 32)).astype(np.uint8)
    np.savez(
        tmp_path / "images.npz",
        train_images=images,
        train_labels=labels,
        test_images=images[:10],
        test_labels=labels[:10],
    )
    small_run = {
        "num-server-rounds": 1,
        "fraction-train": 0.2,
        "images": str(tmp_path / "images.npz"),
    }
    logger = logging.getLogger("flwr")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        plain = run("before", **{**small_run, "output": str(tmp_path / "a")})
        small = run("after", **{**small_run, "output": str(tmp_path / "b")})
    finally:
        logger.setLevel(before)
    assert len(plain.replies) == NODES // 5
    assert len(small.replies) == NODES // 5
    assert min(plain.replies) > 50 * max(small.replies)
    assert (tmp_path / "a").read_text() != (tmp_path / "b").read_text()
