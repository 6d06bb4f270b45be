"""Objectives: the f_i of the clients, their constants, regularisers and minimisers."""

from fedstrategies.objectives.base import BatchedObjective, Objective
from fedstrategies.objectives.batched_logistic import BatchedLogisticRegression
from fedstrategies.objectives.classifiers import linear_classifier, mlp_classifier
from fedstrategies.objectives.flix_solution import minimise_flix
from fedstrategies.objectives.last_point import LastPoint
from fedstrategies.objectives.lenet import lenet_classifier
from fedstrategies.objectives.local_solver import (
    ExactLocalSolver,
    LocalOptimum,
    LocalSGD,
    LocalSolver,
)
from fedstrategies.objectives.logistic import LogisticRegression
from fedstrategies.objectives.looped import LoopedObjectives
from fedstrategies.objectives.networks import cnn_classifier, lstm_classifier
from fedstrategies.objectives.personal import (
    FLIXObjectives,
    PersonalObjective,
    PersonalObjectives,
)
from fedstrategies.objectives.prox import L1, Box, NoProx, Prox, SquaredL2, parse_prox
from fedstrategies.objectives.resnet import resnet18_classifier
from fedstrategies.objectives.smoothness import Smoothness, logistic_smoothness
from fedstrategies.objectives.softmax import minimise_softmax, softmax_smoothness
from fedstrategies.objectives.solve import Solution, SolveError, minimise
from fedstrategies.objectives.statistic import ExampleStatistic
from fedstrategies.objectives.torch_objective import TorchObjective

__all__ = [
    "L1",
    "BatchedLogisticRegression",
    "BatchedObjective",
    "Box",
    "ExactLocalSolver",
    "ExampleStatistic",
    "FLIXObjectives",
    "LastPoint",
    "LocalOptimum",
    "LocalSGD",
    "LocalSolver",
    "LogisticRegression",
    "LoopedObjectives",
    "NoProx",
    "Objective",
    "PersonalObjective",
    "PersonalObjectives",
    "Prox",
    "Smoothness",
    "Solution",
    "SolveError",
    "SquaredL2",
    "TorchObjective",
    "cnn_classifier",
    "lenet_classifier",
    "linear_classifier",
    "logistic_smoothness",
    "lstm_classifier",
    "minimise",
    "minimise_flix",
    "minimise_softmax",
    "mlp_classifier",
    "parse_prox",
    "resnet18_classifier",
    "softmax_smoothness",
]
