"""Models: how rows and labels become the f_i, and what is known of these."""

from __future__ import annotations

from abc import ABC, abstractmethod
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
from fedstrategies.experiment.options import ConfigError
from fedstrategies.experiment.problem_config import ProblemConfig
from fedstrategies.objectives import (
    LogisticRegression,
    Objective,
    Smoothness,
    Solution,
    SquaredL2,
    TorchObjective,
    cnn_classifier,
    linear_classifier,
    logistic_smoothness,
    lstm_classifier,
    minimise,
    minimise_softmax,
    mlp_classifier,
    softmax_smoothness,
)

if TYPE_CHECKING:
    from fedstrategies.experiment.problem import Problem

__all__ = ["Linear", "LogReg", "Model", "Network", "NextCharacter", "model_of"]

_CHUNK = 1024
"""Rows in one evaluation of a network: bounds memory, and changes sums by rounding alone."""


class Model(ABC):
    """What ``--model`` names."""

    @abstractmethod
    def targets(self, labels: Tensor, *, name: str) -> Tensor:
        """Labels (N,) as the objective wants them.

        Raises
        ------
        DataError
            If they do not fit the model.
        """

    @abstractmethod
    def objective(self, features: Tensor, targets: Tensor) -> Objective:
        """f of these rows."""

    def smoothness(self, problem: Problem) -> Smoothness | None:
        """The exact constants of the f_i; None where there are none."""
        return None

    def solution(self, problem: Problem) -> Solution:
        """A minimiser of f + R.

        Raises
        ------
        ConfigError
            If none can be computed.
        """
        raise ConfigError(
            f"fstar: no solver finds the minimum for model {problem.config.model}; give its value"
        )

    @abstractmethod
    def accuracy(self, x: Tensor, features: Tensor, targets: Tensor) -> float:
        """Share of rows that x classifies correctly."""


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

    def objective(self, features: Tensor, targets: Tensor) -> LogisticRegression:
        """Regularised logistic regression on these rows."""
        return LogisticRegression(
            features=features,
            labels=targets,
            l2=self.config.l2,
            batch_size=self.config.batch_size,
        )

    def smoothness(self, problem: Problem) -> Smoothness:
        """See `logistic_smoothness`."""
        return logistic_smoothness(problem.objectives)

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

    def accuracy(self, x: Tensor, features: Tensor, targets: Tensor) -> float:
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

    def targets(self, labels: Tensor, *, name: str) -> Tensor:
        """Positions among the classes of the training rows: int64."""
        return class_indices(labels, self.values, name=name)

    def objective(self, features: Tensor, targets: Tensor) -> TorchObjective:
        """Mean cross-entropy plus ``(l2/2) ||x||^2``."""
        return TorchObjective(
            module=self.module,
            loss=nn.CrossEntropyLoss(),
            data=(features, targets),
            l2=self.config.l2,
            batch_size=self.config.batch_size,
            chunk_size=_CHUNK,
        )

    def accuracy(self, x: Tensor, features: Tensor, targets: Tensor) -> float:
        """Share of rows whose largest score is that of their class."""
        return float(self.objective(features, targets).accuracy(x))


class Linear(_Classifier):
    """Softmax regression with a bias."""

    def smoothness(self, problem: Problem) -> Smoothness:
        """See `softmax_smoothness`."""
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
        If the data set's labels are no classes.
    """
    if config.model == "logreg":
        return LogReg(config=config)
    width, dtype = config.width or 0, _dtype(config)
    if config.model == "lstm":
        alphabet = len(SHAKESPEARE_ALPHABET)
        module = lstm_classifier(alphabet, width=width, dtype=dtype)
        return NextCharacter(config=config, module=module, values=torch.arange(alphabet))
    if dataset.labels.ndim != 1 or not dataset.features.is_floating_point():
        raise DataError(f"{dataset.name} is text, and model {config.model} is not; use lstm")
    values = class_values(dataset.labels, name=dataset.name)
    sizes = (dataset.dimension, len(values))
    if config.model == "linear":
        return Linear(config=config, module=linear_classifier(*sizes, dtype=dtype), values=values)
    if config.model == "mlp":
        module = mlp_classifier(*sizes, width=width, dtype=dtype)
        return Network(config=config, module=module, values=values)
    if dataset.image is None:
        raise DataError(f"{dataset.name} holds no images; model cnn needs them")
    module = cnn_classifier(len(values), image=dataset.image, width=width, dtype=dtype)
    return Network(config=config, module=module, values=values)


def _dtype(config: ProblemConfig) -> torch.dtype:
    found: torch.dtype = getattr(torch, config.dtype or "float64")
    return found
