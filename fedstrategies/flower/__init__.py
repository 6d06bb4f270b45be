"""The contract with Flower, shared by all algorithms."""

from fedstrategies.flower.accounts import Accounts
from fedstrategies.flower.app import ClientFn, FedApp, client_app
from fedstrategies.flower.callbacks import Callback, ResumableCallback, RoundRecord
from fedstrategies.flower.client import BaseClient
from fedstrategies.flower.compressed import Compressed
from fedstrategies.flower.compression_mod import CompressionMod
from fedstrategies.flower.contract import Assignment, Delivery, Update
from fedstrategies.flower.errors import AllClientsFailed, Diverged, ProtocolError
from fedstrategies.flower.legacy import LegacyStrategy, as_legacy, legacy_client
from fedstrategies.flower.metrics import weighted_mean
from fedstrategies.flower.rank import located
from fedstrategies.flower.rules import AssembledRule, ClientRule, IndividualRule, MovedRule
from fedstrategies.flower.sessions import CohortSession
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
    "Compressed",
    "CompressionMod",
    "Delivery",
    "DirectoryStore",
    "Diverged",
    "FedApp",
    "IndividualRule",
    "LegacyStrategy",
    "MovedRule",
    "ProtocolError",
    "ResumableCallback",
    "RoundRecord",
    "StateStore",
    "Update",
    "as_legacy",
    "client_app",
    "legacy_client",
    "located",
    "weighted_mean",
]
