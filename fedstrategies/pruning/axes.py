"""Along which axes of a weight ordered pruning cuts.

A leading block of a matrix is a narrower layer: its first outputs from its first inputs. Two axes
must stay whole for the narrower network to still be one: the inputs of the first layer are the
data's, the outputs of the classifier are the classes.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

__all__ = ["Role", "cut_axes"]

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_TABLES = (nn.Embedding, nn.EmbeddingBag)
_GATES = {
    nn.LSTM: 4,
    nn.LSTMCell: 4,
    nn.GRU: 3,
    nn.GRUCell: 3,
    nn.RNN: 1,
    nn.RNNCell: 1,
}

_QUERY_KEY_VALUE = 3


@dataclass(frozen=True, kw_only=True)
class Role:
    """Where in the network the owner of a weight stands.

    Attributes
    ----------
    is_first, is_final : bool
        Whether it reads the data, and whether it gives the scores.
    """

    is_first: bool
    is_final: bool


def cut_axes(
    module: nn.Module, leaf: str, shape: tuple[int, ...], role: Role
) -> tuple[tuple[int, int], ...]:
    """The axes of one weight that are cut, each with the number of parts stacked along it.

    The first two axes: outputs and inputs of ``Linear`` and ``Conv``, the other way round for
    ``Embedding`` and ``ConvTranspose``. The gates of an LSTM or GRU lie one after the other along
    the outputs, as queries, keys and values do in attention, and so do the two directions along
    the inputs of a deeper bidirectional layer; every part is cut alike.

    Parameters
    ----------
    module : torch.nn.Module
        Owner of the weight.
    leaf : str
        Name of the weight in its owner.
    shape : tuple of int
        Of the weight; at least two axes.
    role : Role
        An axis that is the network's input or output is left out.
    """
    output, input_ = (1, 0) if isinstance(module, (*_TRANSPOSED, *_TABLES)) else (0, 1)
    axes = []
    if not role.is_final:
        axes.append((output, _parts_of_outputs(module, leaf)))
    if not (role.is_first and _reads_the_layers_input(module, leaf)):
        axes.append((input_, _parts_of_inputs(module, leaf)))
    # Parts of unequal size are no parts.
    return tuple(sorted((axis, parts if shape[axis] % parts == 0 else 1) for axis, parts in axes))


def _parts_of_outputs(module: nn.Module, leaf: str) -> int:
    if leaf == "in_proj_weight":
        return _QUERY_KEY_VALUE
    if leaf.startswith("weight_hr"):
        return 1
    return next((gates for kind, gates in _GATES.items() if isinstance(module, kind)), 1)


def _parts_of_inputs(module: nn.Module, leaf: str) -> int:
    deeper = leaf.startswith("weight_ih") and "_l0" not in leaf
    return 2 if deeper and isinstance(module, nn.RNNBase) and module.bidirectional else 1


def _reads_the_layers_input(module: nn.Module, leaf: str) -> bool:
    """Whether a weight is applied to what its owner is given, not to a hidden state."""
    if isinstance(module, nn.RNNBase):
        return leaf.startswith("weight_ih_l0")
    return leaf != "weight_hh"
