"""Local differential privacy: private objectives, their noise, and what it costs."""

from fedstrategies.privacy.accountant import Accountant, composed_epsilon
from fedstrategies.privacy.batched import PrivateObjectives
from fedstrategies.privacy.budget import Budget, BudgetSpent
from fedstrategies.privacy.calibration import (
    calibrate_noise,
    zcdp_epsilon,
    zcdp_noise_multiplier,
)
from fedstrategies.privacy.errors import PrivacyError
from fedstrategies.privacy.ledger import Ledger, Segment
from fedstrategies.privacy.mechanism import GaussianMechanism
from fedstrategies.privacy.message import MessagePrivacy, MessageReleases
from fedstrategies.privacy.noise import (
    NoisePurpose,
    poisson_sample,
    standard_normals,
    stream_key,
)
from fedstrategies.privacy.objective import PrivateObjective
from fedstrategies.privacy.secret import SECRET_BYTES, Secret, fresh_secret, simulated_secret
from fedstrategies.privacy.settings import Privacy
from fedstrategies.privacy.smoothness import (
    clip_rows,
    clipped_logistic_smoothness,
    clipped_softmax_smoothness,
)

__all__ = [
    "SECRET_BYTES",
    "Accountant",
    "Budget",
    "BudgetSpent",
    "GaussianMechanism",
    "Ledger",
    "MessagePrivacy",
    "MessageReleases",
    "NoisePurpose",
    "Privacy",
    "PrivacyError",
    "PrivateObjective",
    "PrivateObjectives",
    "Secret",
    "Segment",
    "calibrate_noise",
    "clip_rows",
    "clipped_logistic_smoothness",
    "clipped_softmax_smoothness",
    "composed_epsilon",
    "fresh_secret",
    "poisson_sample",
    "simulated_secret",
    "standard_normals",
    "stream_key",
    "zcdp_epsilon",
    "zcdp_noise_multiplier",
]
