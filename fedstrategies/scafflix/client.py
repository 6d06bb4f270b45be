"""The client of Scafflix, i-Scaffnew, Scaffnew, FLIX and FedAvg."""

from __future__ import annotations

from pathlib import Path

import torch
from flwr.app import ConfigRecord, Context
from torch import Tensor

from fedstrategies.flower import BaseClient, ClientRule
from fedstrategies.flower.personal_metrics import PERSONAL
from fedstrategies.objectives import (
    LocalOptimum,
    LocalSolver,
    Objective,
    PersonalObjective,
    PersonalObjectives,
)
from fedstrategies.privacy import Privacy
from fedstrategies.random import Purpose, client_keys
from fedstrategies.saved_model import save_model
from fedstrategies.scafflix.algorithm import ScafflixRule
from fedstrategies.scafflix.baseline_rules import FedAvgRule, FLIXRule
from fedstrategies.wire import decode_vector, encode_vector

__all__ = ["ScafflixClient"]

_OPTIMUM = "fedstrategies.local-optimum"


class ScafflixClient(BaseClient):
    """Trains ``f_i(alpha_i x + (1 - alpha_i) x_i*)`` and deploys that mixture of two models.

    x_i*, the minimiser of f_i alone, is computed when it is first needed (never, if alpha_i is
    1), and kept in ``context.state``; it is solved for again if the solver's settings change.
    It never leaves the client.

    Parameters
    ----------
    context : flwr.app.Context
        The node's context, as ``client_fn`` receives it.
    objective : Objective
        The client's f_i, or a `PersonalObjective` that knows its solver already.
    solver : LocalSolver or None
        How x_i* is computed: ``ExactLocalSolver()`` (the default) for convex f_i, ``LocalSGD``
        for networks.
    evaluation : Objective or None
        The same loss on the examples that `evaluate` measures on; None: the training examples.
    save_to : Path or None
        File (safetensors) that every evaluation replaces by the deployed model it measured.
    privacy : Privacy or None
        See `BaseClient`; for alpha_i = 1 alone. x_i* is trained on private rows, the gradients
        are asked for at mixtures with it, and what that tells of it is not among the releases.

    Raises
    ------
    ValueError
        If ``objective`` is a `PersonalObjective` and a solver is given as well.

    References
    ----------
    Yi, Condat, Richtarik, "Explicit Personalization and Local Training: Double Communication
    Acceleration in Federated Learning" (2023); arXiv 2509.08233.

    Examples
    --------
    After the example of `LogisticRegression`. Each client deploys the mean of x and x_i*:

    >>> from flwr.app import ArrayRecord
    >>> from fedstrategies import CohortGrid, Scafflix, ScafflixClient, client_app
    >>> def client_fn(context):
    ...     return ScafflixClient(context, objective=f[context.node_config["partition-id"]])
    >>> app, x0 = client_app(client_fn), ArrayRecord(f[0].initial_arrays())
    >>> strategy = Scafflix(alpha=0.5, stepsize=0.5, local_steps=2)
    >>> result = strategy.start(CohortGrid(app, num_clients=2), x0, num_rounds=1)
    >>> strategy.x
    tensor([ 0.1798, -0.1132,  0.1132,  0.2105], dtype=torch.float64)
    """

    def __init__(
        self,
        context: Context,
        *,
        objective: Objective,
        solver: LocalSolver | None = None,
        evaluation: Objective | None = None,
        save_to: Path | None = None,
        privacy: Privacy | None = None,
    ) -> None:
        known = objective if isinstance(objective, PersonalObjective) else None
        if known is not None and solver is not None:
            raise ValueError("the PersonalObjective has a solver already; give it there")
        plain = objective if known is None else known.objective
        super().__init__(context, objective=plain, evaluation=evaluation, privacy=privacy)
        if known is None or self.private is not None:
            partition = torch.tensor([int(context.node_config.get("partition-id", 0))])
            known = PersonalObjective(
                objective=self.objective,
                solver=solver,
                key=client_keys(0, 0, partition, Purpose.LOCAL_OPTIMUM),
            )
        self.objective = self.personal = known
        self.save_to = save_to
        self._was_known = known.solved or self._recall()

    def rule(self, constants: tuple[float, ...], spec: str) -> ClientRule:
        """The client half that ``spec`` names.

        ``scafflix`` with (K, p, gamma_i, alpha_i), ``fedavg`` with (K, gamma_i), ``flix`` with
        (alpha_i).

        Raises
        ------
        ValueError
            If the server asks for anything else, or for a mixture with x_i* of a private client.
        """
        if spec == "scafflix" and len(constants) == 4:
            steps, p, gamma, alpha = constants
            self._check_mixture(alpha)
            return ScafflixRule(local_steps=int(steps), p=p, gamma=(gamma,), alpha=(alpha,))
        if spec == "fedavg" and len(constants) == 2:
            return FedAvgRule(local_steps=int(constants[0]), gamma=(constants[1],))
        if spec == "flix" and len(constants) == 1:
            self._check_mixture(constants[0])
            return FLIXRule(alpha=constants)
        raise ValueError(
            f"the server asks for {spec!r} with {len(constants)} constants; ScafflixClient works "
            "with the strategies Scafflix, IScaffnew, Scaffnew, FLIX and FedAvg of this version"
        )

    def measure(self, x: Tensor, constants: tuple[float, ...]) -> dict[str, float]:
        """Loss and personal accuracy of the deployed model, and the accuracy of x beside them.

        Parameters
        ----------
        x : Tensor
            Server model, shape (d,).
        constants : tuple of float
            (alpha_i).

        Raises
        ------
        ValueError
            If the server's strategy is not one of this room's, or as `rule`.
        """
        if len(constants) != 1:
            raise ValueError(
                "the evaluate message carries no alpha_i; is the server's strategy one of "
                "Scafflix, IScaffnew, Scaffnew, FLIX, FedAvg?"
            )
        self._check_mixture(*constants)
        alpha = torch.tensor(constants, dtype=torch.float64)
        batch = self.objective.as_batch
        assert isinstance(batch, PersonalObjectives)
        deployed = batch.deployed(x, alpha).reshape(-1)
        self.keep()
        if self.save_to is not None:
            save_model(self.objective.layout.unflatten(deployed), self.save_to)
        measured = {
            "loss": float(self.evaluation.value(deployed)),
            "accuracy": float(self.evaluation.accuracy(x)),
            PERSONAL: float(self.evaluation.accuracy(deployed)),
        }
        return {name: value for name, value in measured.items() if value == value}

    def _check_mixture(self, alpha: float) -> None:
        if self.private is not None and alpha < 1.0:
            raise ValueError(
                f"alpha = {alpha:g} needs x_i*, which is trained on private rows and is not among "
                "the releases that are charged; with privacy, alpha must be 1"
            )

    def keep(self) -> None:
        """Keep a newly found x_i* in the node's state for the messages to come."""
        if self._was_known or not self.personal.solved:
            return
        optimum = self.personal.local_optimum
        self.context.state[_OPTIMUM] = ConfigRecord(
            {
                "solver": self.personal.solver.spec,
                "optimum": encode_vector(optimum.x),
                "residual": optimum.residual,
                "passes": optimum.passes,
            }
        )
        self._was_known = True

    def _recall(self) -> bool:
        """Take x_i* from the node's state, if it was found there under the same settings."""
        record = self.context.state.get(_OPTIMUM)
        if not isinstance(record, ConfigRecord) or record["solver"] != self.personal.solver.spec:
            return False
        frame, residual, passes = record["optimum"], record["residual"], record["passes"]
        assert isinstance(frame, bytes)
        assert isinstance(residual, float)
        assert isinstance(passes, float)
        x = decode_vector(frame, dimension=self.personal.dimension)
        self.personal.restore(LocalOptimum(x=x, residual=residual, passes=passes))
        return True
