"""The models of ``--model``: how rows and labels become the f_i, and what is known of these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fedstrategies.data import (
    SHAKESPEARE_ALPHABET,
    DataError,
    Dataset,
    binary_labels,
    class_indices,
    class_values,
)
from fedstrategies.experiment.devices import device_of
from fedstrategies.experiment.model import Model
from fedstrategies.experiment.networks import build_module
from fedstrategies.experiment.options import ConfigError
from fedstrategies.experiment.problem_config import ProblemConfig
from fedstrategies.objectives import (
    LogisticRegression,
    Objective,
    Smoothness,
    Solution,
    SquaredL2,
    TorchObjective,
    logistic_smoothness,
    minimise,
    minimise_softmax,
    softmax_smoothness,
)
from fedstrategies.objectives.batch_norm import layers_using_the_batch
from fedstrategies.privacy import clipped_logistic_smoothness, clipped_softmax_smoothness

if TYPE_CHECKING:
    from fedstrategies.experiment.problem import Problem

__all__ = ["Linear", "LogReg", "Network", "NextCharacter", "model_of"]


@dataclass(frozen=True, kw_only=True)
class LogReg(Model):
    """Binary logistic regression in closed form, labels in {-1, +1}."""

    config: ProblemConfig

    def targets(self, labels: Tensor, *, name: str) -> Tensor:
        """-1 and +1, in the precision of the features."""
        classes = len(torch.unique(labels))
        if classes > 2:
            raise DataError(
                f"{name} has {classes} classes and model logreg is for two; "
                "use --model linear or mlp"
            )
        return binary_labels(labels, name=name).to(_dtype(self.config))

    def objective(
        self, features: Tensor, targets: Tensor, *, training: Objective | None = None
    ) -> LogisticRegression:
        """Regularised logistic regression on these rows."""
        return LogisticRegression(
            features=features,
            labels=targets,
            l2=self.config.l2,
            batch_size=self.config.batch_size,
        )

    def smoothness(self, problem: Problem) -> Smoothness:
        """See `logistic_smoothness`; of clipped rows `clipped_logistic_smoothness`."""
        config = self.config
        if config.clip_rows is None:
            return logistic_smoothness(problem.objectives)
        return clipped_logistic_smoothness(
            config.clients, max_row_norm=config.clip_rows, l2=config.l2
        )

    def solution(self, problem: Problem) -> Solution:
        """See `minimise`: of the same rows in float64, as float32 cannot reach its tolerance."""
        clients = [
            LogisticRegression(
                features=problem.features[shard].double(),
                labels=problem.labels[shard].double(),
                l2=self.config.l2,
            )
            for shard in problem.shards
        ]
        return minimise(LogisticRegression.stack(clients), problem.prox)

    def accuracy(
        self, x: Tensor, features: Tensor, targets: Tensor, *, training: Objective | None = None
    ) -> float:
        """Share of rows whose label is the sign of <a, x> (0 counts as -1)."""
        correct = ((features @ x) > 0) == (targets > 0)
        return float(correct.sum()) / len(targets)


class _Classifier(Model):
    """A torch module with the cross-entropy, labels 0..K-1.

    Parameters
    ----------
    config : ProblemConfig
        l2, batch size, precision.
    module : torch.nn.Module
        Rows (B, d) -> scores (B, K).
    values : Tensor
        The labels of the K classes, ascending.
    """

    def __init__(self, *, config: ProblemConfig, module: nn.Module, values: Tensor) -> None:
        self.config, self.module, self.values = config, module, values

    @property
    def normalises_by_batch(self) -> bool:
        """Whether there is batch normalisation in the module."""
        return bool(layers_using_the_batch(self.module))

    def targets(self, labels: Tensor, *, name: str) -> Tensor:
        """Positions among the classes of the training rows: int64."""
        return class_indices(labels, self.values, name=name)

    def objective(
        self, features: Tensor, targets: Tensor, *, training: Objective | None = None
    ) -> TorchObjective:
        """Mean cross-entropy plus ``(l2/2) ||x||^2``, on the configured device with its rows."""
        device = device_of(self.config.device)
        return TorchObjective(
            module=self.module,
            loss=nn.CrossEntropyLoss(),
            data=(features.to(device), targets.to(device)),
            device=device,
            l2=self.config.l2,
            batch_size=self.config.batch_size,
            chunk_size=self.config.facts.chunk,
            statistics_from=training if isinstance(training, TorchObjective) else None,
        )


class Linear(_Classifier):
    """Softmax regression with a bias."""

    def smoothness(self, problem: Problem) -> Smoothness:
        """See `softmax_smoothness`; of clipped rows `clipped_softmax_smoothness`."""
        if self.config.clip_rows is not None:
            return clipped_softmax_smoothness(
                self.config.clients, max_row_norm=self.config.clip_rows, l2=self.config.l2
            )
        rows = [problem.features[shard] for shard in problem.shards]
        return softmax_smoothness(rows, l2=self.config.l2)

    def solution(self, problem: Problem) -> Solution:
        """See `minimise_softmax`.

        Raises
        ------
        ConfigError
            If neither l2 nor R makes f + R strongly convex.
        """
        if not (self.config.l2 or isinstance(problem.prox, SquaredL2)):
            raise ConfigError(
                "fstar: model linear is solved with l2 above 0 only (without, the minimum may be "
                "at infinity); add --l2, or give the value"
            )
        weights = torch.zeros(len(problem.features), dtype=torch.float64)
        for shard in problem.shards:
            weights[shard] += 1.0 / (len(problem.shards) * len(shard))
        return minimise_softmax(
            features=problem.features,
            labels=problem.labels,
            weights=weights,
            classes=len(self.values),
            l2=self.config.l2,
            smoothness=self.smoothness(problem).L,
            prox=problem.prox,
        )


class Network(_Classifier):
    """A network on rows of numbers; nothing is known of its f_i."""


class NextCharacter(_Classifier):
    """A network on text: at every position of a row, the character that follows."""

    def targets(self, labels: Tensor, *, name: str) -> Tensor:
        """The characters themselves, int64 (N, S).

        Raises
        ------
        DataError
            If the rows are no text.
        """
        if labels.ndim != 2 or labels.is_floating_point():
            raise DataError(f"{name} is no text; model lstm predicts the next character")
        return labels


def model_of(config: ProblemConfig, dataset: Dataset) -> Model:
    """The model that a configuration names, sized for a data set.

    Raises
    ------
    DataError
        If the data set's labels are no classes, or its rows not what the model is for.
    """
    if config.model == "logreg":
        return LogReg(config=config)
    dtype = _dtype(config)
    if config.model == "lstm":
        alphabet = torch.arange(len(SHAKESPEARE_ALPHABET))
        module = build_module("lstm", width=config.width, dtype=dtype)
        return NextCharacter(config=config, module=module, values=alphabet)
    if dataset.labels.ndim != 1 or not dataset.features.is_floating_point():
        raise DataError(f"{dataset.name} is text, and model {config.model} is not; use lstm")
    if config.facts.images and dataset.image is None:
        raise DataError(f"{dataset.name} holds no images; model {config.model} needs them")
    values = class_values(dataset.labels, name=dataset.name)
    image = dataset.image or (1, 1, dataset.dimension)
    try:
        module = build_module(
            config.model,
            image=image,
            classes=len(values),
            width=config.width,
            norm=config.norm,
            dtype=dtype,
        )
    except ValueError as error:
        raise DataError(f"{dataset.name}: {error}") from None
    kind = Linear if config.model == "linear" else Network
    return kind(config=config, module=module, values=values)


def _dtype(config: ProblemConfig) -> torch.dtype:
    found: torch.dtype = getattr(torch, config.dtype or "float64")
    return found
