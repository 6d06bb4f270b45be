"""Layers and losses that are known to draw no random numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor, nn

__all__ = ["layers_draw_nothing", "loss_draws_nothing"]

# By exact type: what a subclass, a parametrised layer or a layer of the user's own does, nobody
# knows. Alone the layers that draw are not here: RReLU, FractionalMaxPool, attention, dropout.
_LAYERS: frozenset[type[nn.Module]] = frozenset(
    {
        *(nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict),
        *(nn.Identity, nn.Flatten, nn.Unflatten, nn.Linear, nn.Bilinear),
        *(nn.Embedding, nn.EmbeddingBag, nn.RNNCell, nn.LSTMCell, nn.GRUCell),
        *(nn.Conv1d, nn.Conv2d, nn.Conv3d),
        *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
        *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
        *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
        *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
        *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm, nn.LayerNorm),
        *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d, nn.LocalResponseNorm),
        *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU),
        *(nn.Mish, nn.GLU, nn.Tanh, nn.Sigmoid, nn.LogSigmoid, nn.Hardtanh, nn.Hardsigmoid),
        *(nn.Hardswish, nn.Softplus, nn.Softsign, nn.Softmax, nn.LogSoftmax, nn.Tanhshrink),
        *(nn.ZeroPad2d, nn.ConstantPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d),
        *(nn.Upsample, nn.PixelShuffle, nn.PixelUnshuffle),
    }
)
_DROPOUTS: frozenset[type[nn.Module]] = frozenset(
    {nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout}
)
_RECURRENT = (nn.RNN, nn.LSTM, nn.GRU)
_LOSSES: frozenset[type[nn.Module]] = frozenset(
    {
        *(nn.CrossEntropyLoss, nn.NLLLoss, nn.BCELoss, nn.BCEWithLogitsLoss, nn.MSELoss),
        *(nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.PoissonNLLLoss, nn.KLDivLoss),
    }
)
_FUNCTIONS = (
    *(nn.functional.cross_entropy, nn.functional.nll_loss, nn.functional.mse_loss),
    *(nn.functional.binary_cross_entropy, nn.functional.binary_cross_entropy_with_logits),
    *(nn.functional.l1_loss, nn.functional.smooth_l1_loss, nn.functional.huber_loss),
)


def layers_draw_nothing(layers: Iterable[nn.Module]) -> bool:
    """Whether all layers are known, in their present modes, not to draw."""
    return all(map(_draws_nothing, layers))


def loss_draws_nothing(loss: Callable[[Tensor, Tensor], Tensor]) -> bool:
    """Whether the loss is known not to draw."""
    if isinstance(loss, nn.Module):
        return type(loss) in _LOSSES and _is_itself(loss)
    return any(loss is function for function in _FUNCTIONS)


def _draws_nothing(layer: nn.Module) -> bool:
    kind = type(layer)
    if not _is_itself(layer):
        return False
    if kind in _RECURRENT:
        return not layer.training or vars(layer)["dropout"] == 0
    return kind in _LAYERS or (kind in _DROPOUTS and not layer.training)


def _is_itself(layer: nn.Module) -> bool:
    """Whether nobody listens to the layer, nor has replaced its forward pass."""
    return not (layer._forward_hooks or layer._forward_pre_hooks or "forward" in vars(layer))
