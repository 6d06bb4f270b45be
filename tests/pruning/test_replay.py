"""Passes that begin behind a block: the same masks in fewer passes, and where that is not so."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedstrategies.pruning import SemiStructured, Unstructured, parse_method, prune_module
from tests.pruning.transformer import WIDTH, Block, Tower, token_batches

PATTERNS = (Unstructured(sparsity=0.5), SemiStructured())


class InPlace(Block):
    """Writes into what it is given."""

    def forward(self, x: Tensor) -> Tensor:
        return x.add_(self.down(torch.relu(self.up(x))))


class Pairs(Block):
    """Gives its output and something else, as layers of transformers do."""

    def forward(self, x: Any) -> Any:
        inner = x[0] if isinstance(x, tuple) else x
        return super().forward(inner), None


class Linked(Tower):
    """The last block also sees what the first one gave."""

    def forward(self, tokens: Tensor) -> Tensor:
        first = self.blocks[0](self.embedding(tokens))
        x = self.blocks[2](self.blocks[1](first) + first)
        logits: Tensor = self.head(x)
        return logits


class Broken(Tower):
    """Looks at what its first block gave, and does not get on without it."""

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        first = self.blocks[0](x)
        second = self.blocks[1](first[..., : WIDTH // 2].repeat(1, 1, 2))
        if first is second:
            raise RuntimeError("two blocks gave one tensor")
        logits: Tensor = self.head(self.blocks[2](second))
        return logits


class Twice(Tower):
    """Calls its first block two times."""

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.blocks[0](self.blocks[0](self.embedding(tokens)))
        logits: Tensor = self.head(self.blocks[2](self.blocks[1](x)))
        return logits


class Named(Block):
    """Gives a mapping, of which nothing is known."""

    def forward(self, x: Any) -> Any:
        return {"hidden": super().forward(x["hidden"] if isinstance(x, dict) else x)}


class Mapped(Tower):
    def forward(self, tokens: Tensor) -> Tensor:
        x: Any = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(x["hidden"])
        return logits


class Paired(Tower):
    def forward(self, tokens: Tensor) -> Tensor:
        x: Any = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(x[0])
        return logits


def made(kind: type[Tower], block: type[Block] = Block, count: int = 3) -> Tower:
    tower = kind()
    generator = torch.Generator().manual_seed(1)
    tower.blocks = nn.ModuleList(block() for _ in range(count)).double()
    with torch.no_grad():
        for parameter in tower.blocks.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return tower


def pruned(tower: Tower, pattern: Any, method: str = "r2-dsnot", **options: Any) -> Tower:
    tower = deepcopy(tower)
    prune_module(tower, token_batches(), method=parse_method(method), pattern=pattern, **options)
    return tower


def assert_equal(one: Tower, other: Tower) -> None:
    for (name, mine), theirs in zip(
        one.state_dict().items(), other.state_dict().values(), strict=True
    ):
        assert torch.equal(mine, theirs), name


CHAINS = [(Tower, Block), (Tower, InPlace), (Paired, Pairs)]
OTHERS = [
    (Linked, Block, "blocks.2 sees more than"),
    (Broken, Block, "at blocks.2: RuntimeError"),
    (Twice, Block, "not called once"),
    (Mapped, Named, "blocks.1 sees more than"),
]


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.spec)
@pytest.mark.parametrize(("kind", "block"), CHAINS)
def test_a_chain_is_pruned_to_the_same_bits(
    kind: type[Tower], block: type[Block], pattern: Any, caplog: pytest.LogCaptureFixture
) -> None:
    tower = made(kind, block)
    assert_equal(pruned(tower, pattern, keep_outputs=True), pruned(tower, pattern))
    assert not caplog.records


@pytest.mark.parametrize(("kind", "block", "why"), OTHERS)
def test_what_is_no_chain_is_told_apart_and_calibrated_anew(
    kind: type[Tower], block: type[Block], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    tower = made(kind, block)
    assert_equal(pruned(tower, PATTERNS[0], keep_outputs=True), pruned(tower, PATTERNS[0]))
    (record,) = caplog.records
    assert f"{kind.__name__}: its blocks are no chain (" in record.getMessage()
    assert why in record.getMessage()


def test_every_block_runs_twice_for_a_batch() -> None:
    def passes(keep_outputs: bool) -> int:
        tower, ran = made(Tower, count=8), []
        for block in tower.blocks:
            # Seen where it works, which a block that is stood in for does not.
            block.up.register_forward_hook(lambda *_: ran.append(1))  # type: ignore[union-attr]
        prune_module(
            tower,
            token_batches(50),
            method=parse_method("wanda"),
            pattern=PATTERNS[0],
            keep_outputs=keep_outputs,
        )
        return len(ran)

    tries = 8 + 8 + 8 * 9 // 2
    assert passes(True) <= 50 * (8 + 7) + tries
    assert passes(False) >= 50 * 8 * 9 // 2


def test_layers_that_stay_dense_run_as_they_are() -> None:
    tower = made(Tower, count=5)
    for skip in (["blocks.2.*"], ["blocks.0.*", "blocks.3.up"]):
        assert_equal(
            pruned(tower, PATTERNS[0], keep_outputs=True, skip=skip),
            pruned(tower, PATTERNS[0], skip=skip),
        )


def test_a_forward_that_somebody_replaced_is_put_back() -> None:
    tower = made(Tower)

    def doubled(x: Tensor) -> Tensor:
        return 2 * Block.forward(tower.blocks[0], x)  # type: ignore[arg-type]

    tower.blocks[0].forward = doubled  # type: ignore[method-assign]
    batches = token_batches()
    prune_module(
        tower, batches, method=parse_method("wanda"), pattern=PATTERNS[0], keep_outputs=True
    )
    assert tower.blocks[0].forward is doubled
    assert all("forward" not in vars(block) for block in tower.blocks[1:])  # type: ignore[index]
    assert not any(part._forward_hooks for part in tower.modules())


def test_a_sequence_of_layers_is_a_chain_too() -> None:
    def sequence() -> nn.Sequential:
        generator = torch.Generator().manual_seed(2)
        module = nn.Sequential(
            *(nn.Linear(WIDTH, 12), nn.ReLU(), nn.Linear(12, 12), nn.Tanh()),
            *(nn.LayerNorm(12), nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 4)),
        ).double()
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        return module

    draw = torch.Generator().manual_seed(3)
    batches = [torch.randn(6, WIDTH, dtype=torch.float64, generator=draw) for _ in range(3)]
    found = []
    for keep_outputs in (True, False):
        module = sequence()
        prune_module(
            module,
            batches,
            method=parse_method("ria"),
            pattern=PATTERNS[0],
            keep_outputs=keep_outputs,
        )
        found.append(module.state_dict())
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
