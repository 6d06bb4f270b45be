"""Going on in the middle of a chain of blocks, from what came out of the block before.

To calibrate block i of a transformer its inputs are needed, which are the outputs of block i - 1.
Where these are kept for every batch, the blocks before need not run again: the module is called
as ever, but each of them is stood in for and gives what is kept. So masks, rotations and whatever
else the module's own ``forward`` hands to its blocks are the module's, for every architecture.

That is right for a chain: each block is called once a batch, in order, and nobody but the next
block looks at what it gives. Whether a module is one is tried out on the first batch, with all its
blocks, and a module that is none (U-nets, say, or blocks that are called twice) is told apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from fedstrategies.pruning.calibration import Enough

__all__ = ["Forward", "Replay"]

Forward = Callable[[nn.Module, Any], object]
"""``forward(module, batch)``."""


class Replay:
    """The outputs of one block for every batch, and passes that begin behind it.

    Parameters
    ----------
    module : torch.nn.Module
        In evaluation mode.
    blocks : sequence of str
        Names of its blocks in the order of their calls.
    forward : callable
        ``forward(module, batch)``.
    """

    def __init__(self, module: nn.Module, blocks: Sequence[str], forward: Forward) -> None:
        self._module, self._forward = module, forward
        self._names = tuple(blocks)
        self._kept: dict[int, Any] = {}

    def calibrating(self, place: int) -> Forward:
        """A forward pass for calibrating a block, to be used for each block in turn.

        Blocks before the last one are stood in for by what is kept; of the last one, which was
        pruned since, the output is kept in its place.

        Parameters
        ----------
        place : int
            Of the block in ``blocks``.

        Returns
        -------
        callable
            ``forward(module, (number, batch))``, with the batch's number among all of them.
        """

        def run(module: nn.Module, numbered: tuple[int, Any]) -> object:
            number, batch = numbered
            if place == 0:
                return self._forward(module, batch)
            before = self._kept.get(number)
            with (
                self._standing_in(self._names[: place - 1], before),
                self._noting(self._names[place - 1], lambda found: self._keep(number, found)),
            ):
                return self._forward(module, batch)

        return run

    def reason_against(self, batch: Any) -> str | None:
        """Why passes that begin behind a block do not give what whole passes give; None: they do.

        Parameters
        ----------
        batch : object
            What every block is tried on; costs about two passes.
        """
        found: list[tuple[str, Any]] = []
        with (
            torch.no_grad(),
            self._noting_all(lambda name, output: found.append((name, _copied(output)))),
        ):
            self._forward(self._module, batch)
        if tuple(name for name, _ in found) != self._names:
            return "a block is not called once, or not in its turn"
        outputs = [output for _, output in found]
        for place in range(1, len(self._names)):
            try:
                again = self._alone(place, outputs[place - 1], batch)
            except Exception as error:
                # The whole pass was sound: what breaks here breaks by the stand-ins.
                return f"at {self._names[place]}: {type(error).__name__}: {error}"
            if not _same(again, outputs[place]):
                return f"{self._names[place]} sees more than what the block before it gave"
        return None

    def _alone(self, place: int, before: Any, batch: Any) -> Any:
        """What a block gives when all blocks before it are stood in for."""
        found: list[Any] = []

        def note(output: Any) -> None:
            found.append(output)
            raise Enough

        with (
            torch.no_grad(),
            self._standing_in(self._names[:place], before),
            self._noting(self._names[place], note),
            suppress(Enough),
        ):
            self._forward(self._module, batch)
        return found[0]

    def _keep(self, number: int, output: Any) -> None:
        self._kept[number] = _copied(output)

    @contextmanager
    def _standing_in(self, names: Sequence[str], output: Any) -> Iterator[None]:
        parts = [self._module.get_submodule(name) for name in names]
        own = [part.__dict__.get("forward") for part in parts]  # where somebody replaced it
        try:
            for part in parts:
                part.__dict__["forward"] = lambda *_, **__: output
            yield
        finally:
            for part, before in zip(parts, own, strict=True):
                if before is None:
                    part.__dict__.pop("forward", None)
                else:
                    part.__dict__["forward"] = before

    @contextmanager
    def _noting(self, name: str, note: Callable[[Any], None]) -> Iterator[None]:
        part = self._module.get_submodule(name)
        handle = part.register_forward_hook(lambda _, __, output: note(output))
        try:
            yield
        finally:
            handle.remove()

    @contextmanager
    def _noting_all(self, note: Callable[[str, Any], None]) -> Iterator[None]:
        def noted(name: str) -> Callable[..., None]:
            return lambda _, __, output: note(name, output)

        handles = [
            self._module.get_submodule(name).register_forward_hook(noted(name))
            for name in self._names
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _copied(output: Any) -> Any:
    """The next block may write into what it is given."""
    if isinstance(output, Tensor):
        return output.clone()
    if type(output) in (tuple, list):
        return type(output)(_copied(one) for one in output)
    return output


def _same(one: Any, other: Any) -> bool:
    """Whether two outputs of a block are equal to the bit; no if they are of any unusual kind."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)
    if type(one) in (tuple, list) and type(one) is type(other):
        return len(one) == len(other) and all(map(_same, one, other))
    return one is None and other is None
