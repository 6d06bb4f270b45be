"""The contract with Flower, shared by all algorithms."""

from fedstrategies.flower.accounts import Accounts
from fedstrategies.flower.app import ClientFn, FedApp, client_app
from fedstrategies.flower.client import BaseClient
from fedstrategies.flower.contract import (
    AssembledRule,
    Assignment,
    Callback,
    ClientRule,
    CohortSession,
    Delivery,
    IndividualRule,
    RoundRecord,
    Update,
)
from fedstrategies.flower.errors import AllClientsFailed, Diverged, ProtocolError
from fedstrategies.flower.metrics import weighted_mean
from fedstrategies.flower.state_store import DirectoryStore, StateStore
from fedstrategies.flower.strategy import BaseStrategy

__all__ = [
    "Accounts",
    "AllClientsFailed",
    "AssembledRule",
    "Assignment",
    "BaseClient",
    "BaseStrategy",
    "Callback",
    "ClientFn",
    "ClientRule",
    "CohortSession",
    "Delivery",
    "DirectoryStore",
    "Diverged",
    "FedApp",
    "IndividualRule",
    "ProtocolError",
    "RoundRecord",
    "StateStore",
    "Update",
    "client_app",
    "weighted_mean",
]
