"""A `FedP3Rule` as it travels: numbers, and a short text.

constants   p_i, gamma, max_norm, then L_i in words of 32 groups, then K_i
spec        "fedp3/unstructured/uniform:q=0.5/all": how P_i keeps, Q, what is trained;
            with "/squares:C" behind it in a round of calibration
"""

from __future__ import annotations

from math import isfinite

from fedstrategies.fedp3.algorithm import FedP3Rule, LocalTraining, Trained
from fedstrategies.fedp3.frames import Downlink
from fedstrategies.pruning import LayerGroups, SquaredActivations, parse_local_pruning

__all__ = ["rule_of", "settings_of"]

_WORD = 32
_KEPT = {"unstructured": False, "ordered": True}
_SQUARES = "squares:"
_TRAINED: dict[str, Trained] = {"all": "all", "assigned": "assigned"}


def settings_of(rule: FedP3Rule) -> tuple[tuple[float, ...], str]:
    """Constants (all but K_i) and spec."""
    link, training = rule.downlink, rule.training
    bits = link.assigned
    words = (
        sum(bit << place for place, bit in enumerate(bits[start : start + _WORD]))
        for start in range(0, len(bits), _WORD)
    )
    constants = (link.keep, training.stepsize, training.max_norm, *map(float, words))
    kept = "ordered" if link.ordered else "unstructured"
    spec = f"fedp3/{kept}/{training.pruning.spec}/{rule.trained}"
    if rule.activations is not None:
        spec += f"/{_SQUARES}{rule.activations.max_norm!r}"
    return constants, spec


def rule_of(constants: tuple[float, ...], spec: str, groups: LayerGroups) -> FedP3Rule:
    """The rule of one client.

    Raises
    ------
    ValueError
        If the settings are none of FedP3's, or of a model with other layer groups.
    """
    parts, squares = spec.split("/"), None
    if len(parts) == 5 and parts[4].startswith(_SQUARES):
        norm = float(parts.pop().removeprefix(_SQUARES))
        squares = SquaredActivations(groups=groups, max_norm=norm)
    count = -(-len(groups) // _WORD)
    known = len(parts) == 4 and parts[0] == "fedp3" and parts[1] in _KEPT and parts[3] in _TRAINED
    if not known or len(constants) != 4 + count:
        raise ValueError(
            f"the server asks for {spec!r} with {len(constants)} constants; FedP3Client works with "
            f"the strategies FedP3 and LDPFedP3 of this version, on a model of {len(groups)} layer "
            "groups"
        )
    whole = [int(one) if isfinite(one) else -1 for one in constants[3:]]
    if min(whole) < 0 or whole[-1] < 1:
        raise ValueError(f"the server asks for layers {constants[3:-1]} and {constants[-1]} steps")
    words = whole[:-1]
    bits = [bool(words[place // _WORD] >> place % _WORD & 1) for place in range(len(groups))]
    return FedP3Rule(
        downlink=Downlink(
            groups=groups, assigned=tuple(bits), keep=constants[0], ordered=_KEPT[parts[1]]
        ),
        training=LocalTraining(
            stepsize=constants[1], max_norm=constants[2], pruning=parse_local_pruning(parts[2])
        ),
        local_steps=(whole[-1],),
        trained=_TRAINED[parts[3]],
        activations=squares,
    )
