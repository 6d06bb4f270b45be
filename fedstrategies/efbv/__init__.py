"""EF-BV and its corners EF21, DIANA and gradient descent."""

from fedstrategies.efbv.algorithm import ClientRule, ServerState, Upload, server_step
from fedstrategies.efbv.client import EFBVClient
from fedstrategies.efbv.strategy import DIANA, EF21, EFBV, GradientDescent
from fedstrategies.efbv.theory import Theory

__all__ = [
    "DIANA",
    "EF21",
    "EFBV",
    "ClientRule",
    "EFBVClient",
    "GradientDescent",
    "ServerState",
    "Theory",
    "Upload",
    "server_step",
]
