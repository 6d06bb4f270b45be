"""Rules 1 to 5 of `fedstrategies.pruning.grouping`: from a module to its groups in the making."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from torch import nn

__all__ = ["Blocks", "Named", "Piece", "join", "named_parameters", "pieces_of", "untie"]

Blocks = Sequence[str] | Callable[[str, nn.Module], bool]
"""Class names or globs over submodule names; or a predicate of a submodule's name and itself."""

_NORMALISATIONS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Named:
    """A parameter under one of its names; a tied one has several.

    Attributes
    ----------
    name, leaf : str
        As the whole model and as its owner call it.
    owner : str
        Name of the submodule it belongs to; empty for the model itself.
    module : torch.nn.Module
        That submodule.
    parameter : torch.nn.Parameter
        Itself.
    """

    name: str
    leaf: str
    owner: str
    module: nn.Module
    parameter: nn.Parameter

    @property
    def is_weight(self) -> bool:
        """Whether it may be pruned."""
        return self.parameter.ndim >= 2 and not isinstance(self.module, _NORMALISATIONS)


@dataclass(kw_only=True, eq=False)
class Piece:
    """A group in the making.

    Attributes
    ----------
    name : str
        Of the group.
    is_block : bool
        Whether `Blocks` named it.
    members : list of Named
        Its parameters.
    """

    name: str
    is_block: bool = False
    members: list[Named] = field(default_factory=list)

    @property
    def weights(self) -> list[Named]:
        """Those that may be pruned."""
        return [member for member in self.members if member.is_weight]


def named_parameters(module: nn.Module) -> Iterable[Named]:
    """The parameters of a module under all their names, in the order of registration."""
    for name, parameter in module.named_parameters(remove_duplicate=False):
        path = name.split(".")
        # Weight normalisation and its like move a parameter to <layer>.parametrizations.<leaf>.
        inside = path.index("parametrizations") if "parametrizations" in path else len(path) - 1
        owner = ".".join(path[:inside])
        leaf = path[inside] if inside == len(path) - 1 else path[inside + 1]
        yield Named(
            name=name,
            leaf=leaf,
            owner=owner,
            module=module.get_submodule(owner),
            parameter=parameter,
        )


def pieces_of(module: nn.Module, members: Sequence[Named], blocks: Blocks) -> list[Piece]:
    """Rules 1 and 2: one piece per block and per module that owns parameters."""
    found: dict[str, Piece] = {}
    for member in members:
        block = _block_of(module, member.owner, blocks)
        key = member.owner if block is None else block
        # The root has no name; what it owns itself goes by its first parameter.
        piece = found.setdefault(key, Piece(name=key or member.name, is_block=block is not None))
        piece.members.append(member)
    return list(found.values())


def _block_of(module: nn.Module, owner: str, blocks: Blocks) -> str | None:
    path = owner.split(".") if owner else []
    for depth in range(1, len(path) + 1):
        name = ".".join(path[:depth])
        if _is_block(name, module.get_submodule(name), blocks):
            return name
    return None


def _is_block(name: str, module: nn.Module, blocks: Blocks) -> bool:
    if callable(blocks):
        return blocks(name, module)
    classes = {kind.__name__ for kind in type(module).__mro__}
    return any(text in classes or fnmatchcase(name, text) for text in blocks)


def join(pieces: Sequence[Piece]) -> list[Piece]:
    """Rules 3 and 4: attach what has no weight; make one stem of all before the first block."""
    first_block = next((k for k, piece in enumerate(pieces) if piece.is_block), 0)
    joined: list[Piece] = []
    waiting: list[Named] = []
    for position, piece in enumerate(pieces):
        stands_alone = piece.is_block or bool(piece.weights)
        if joined and (not stands_alone or position < first_block):
            joined[-1].members += piece.members
        elif stands_alone:
            piece.members[:0] = waiting
            waiting = []
            joined.append(piece)
        else:
            waiting += piece.members
    if waiting:
        joined.append(Piece(name=pieces[0].name, members=waiting))
    return joined


def untie(pieces: Sequence[Piece]) -> list[Piece]:
    """Rule 5: pieces that share a parameter become one, under the name of the first."""
    joined: list[Piece] = []
    for piece in pieces:
        own = {id(member.parameter) for member in piece.members}
        tied = [
            other for other in joined if own & {id(member.parameter) for member in other.members}
        ]
        if not tied:
            joined.append(Piece(name=piece.name, members=list(piece.members)))
            continue
        for other in (*tied[1:], piece):
            tied[0].members += other.members
        joined = [other for other in joined if other not in tied[1:]]
    return joined
