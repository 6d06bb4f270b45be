"""Personal models: a common x mixed with each client's pure-local optimum x_i*."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from fedstrategies.layout import Layout
from fedstrategies.objectives.base import BatchedObjective, Objective
from fedstrategies.objectives.local_solver import ExactLocalSolver, LocalOptimum, LocalSolver
from fedstrategies.objectives.wrapped import WrappedObjectives

__all__ = ["FLIXObjectives", "PersonalObjective", "PersonalObjectives"]


class PersonalObjective(Objective):
    """One client's f_i that also knows ``x_i* = argmin f_i``.

    Values and gradients are those of f_i. x_i* is solved for when it is first asked for, once.

    Parameters
    ----------
    objective : Objective
        f_i.
    solver : LocalSolver or None
        How x_i* is found; None: `ExactLocalSolver`, for convex f_i.
    start : Tensor or None
        Where the solver starts, shape (d,); None: the objective's initial arrays. For networks
        this should be x^0: a mixture of x and x_i* means something in a common basin only.
    key : Tensor
        int64, shape (1,): the solver's random stream.
    """

    def __init__(
        self,
        *,
        objective: Objective,
        solver: LocalSolver | None = None,
        start: Tensor | None = None,
        key: Tensor,
    ) -> None:
        self.objective = objective
        self.solver: LocalSolver = ExactLocalSolver() if solver is None else solver
        self._start, self._key = start, key
        self._optimum: LocalOptimum | None = None

    @property
    def solved(self) -> bool:
        """Whether x_i* is known already."""
        return self._optimum is not None

    @property
    def local_optimum(self) -> LocalOptimum:
        """x_i*, its residual and its cost.

        Raises
        ------
        SolveError
            If the solver does not get there.
        """
        if self._optimum is None:
            start = self._start
            if start is None:
                start = self.layout.flatten(self.objective.initial_arrays())
            self._optimum = self.solver.solve(self.objective, start=start, key=self._key)
        return self._optimum

    def restore(self, optimum: LocalOptimum) -> None:
        """Take an x_i* that was found before, in place of solving.

        Raises
        ------
        ValueError
            If it has another dimension or dtype.
        """
        if optimum.x.shape != (self.dimension,) or optimum.x.dtype != self.dtype:
            raise ValueError(
                f"x_i* has shape {tuple(optimum.x.shape)} and {optimum.x.dtype}, expected "
                f"({self.dimension},) and {self.dtype}"
            )
        self._optimum = optimum

    @property
    def layout(self) -> Layout:
        """That of f_i."""
        return self.objective.layout

    @property
    def num_examples(self) -> int:
        """m_i."""
        return self.objective.num_examples

    @property
    def stochastic(self) -> bool:
        """Whether f_i draws mini-batches."""
        return self.objective.stochastic

    @property
    def concurrent(self) -> bool:
        """Whether f_i is."""
        return self.objective.concurrent

    def initial_arrays(self) -> dict[str, Tensor]:
        """Those of f_i."""
        return self.objective.initial_arrays()

    def value_and_gradient(self, x: Tensor, *, key: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """f_i(x) and its gradient; see `Objective.value_and_gradient`."""
        return self.objective.value_and_gradient(x, key=key)

    def value(self, x: Tensor) -> Tensor:
        """f_i(x): shape ()."""
        return self.objective.value(x)

    def accuracy(self, x: Tensor) -> Tensor:
        """Accuracy of x on the client's examples: shape ()."""
        return self.objective.accuracy(x)

    @classmethod
    def stack(cls, objectives: Sequence[Objective]) -> PersonalObjectives:
        """Several clients as one; see `PersonalObjectives`."""
        return PersonalObjectives(objectives)


class PersonalObjectives(WrappedObjectives):
    """The f_i of n clients and their x_i*.

    Parameters
    ----------
    members : sequence of PersonalObjective
        One per client, of equal dimension and dtype.

    Raises
    ------
    ValueError
        If one is no `PersonalObjective`, there is none, or they differ.
    """

    def __init__(self, members: Sequence[Objective]) -> None:
        if not members or not all(isinstance(one, PersonalObjective) for one in members):
            raise ValueError("personal objectives can be stacked with each other only")
        self.members = cast("tuple[PersonalObjective, ...]", tuple(members))
        plain = [member.objective for member in self.members]
        super().__init__(type(plain[0]).stack(plain).remembering())
        self._optima = torch.empty((len(plain), self.dimension), dtype=self.dtype)
        self._filled = torch.zeros(len(plain), dtype=torch.bool)

    def remembering(self) -> BatchedObjective:
        """Itself: the f_i inside remember their last point."""
        return self

    def local_optima(self, clients: Tensor | None = None) -> Tensor:
        """x_i* of the selected clients, shape (C', d); solves those not known yet."""
        chosen = torch.arange(len(self)) if clients is None else clients
        for index in chosen[~self._filled[chosen]].tolist():
            self._optima[index] = self.members[index].local_optimum.x
            self._filled[index] = True
        return self._optima if clients is None else self._optima[clients]

    def deployed(self, x: Tensor, alpha: Tensor, *, clients: Tensor | None = None) -> Tensor:
        """``x~_i = alpha_i x_i + (1 - alpha_i) x_i*`` of the selected clients.

        Exactly x_i where alpha_i is 1, exactly x_i* where it is 0; only clients with alpha_i
        below 1 are ever solved for.

        Parameters
        ----------
        x : Tensor
            Shape (d,), or (C', d), one for each.
        alpha : Tensor
            Shape (C',), in [0, 1].

        Returns
        -------
        Tensor
            Shape (C', d); x itself if every alpha_i is 1.
        """
        personal = alpha < 1
        if not bool(personal.any()):
            return x
        places = personal.nonzero()[:, 0]
        chosen = places if clients is None else clients[places]
        optima = self.local_optima(chosen).to(x.device)
        points = x.expand(len(alpha), -1)
        share = alpha[places].to(x).unsqueeze(1)
        mixed = share * points[places] + (1 - share) * optima
        if len(places) == len(alpha):
            return mixed
        deployed = points.clone()
        deployed[places] = mixed
        return deployed

    def flix(self, alpha: Tensor) -> FLIXObjectives:
        """The ``F_i(x) = f_i(alpha_i x + (1 - alpha_i) x_i*)`` for weights (n,)."""
        return FLIXObjectives(self, alpha)


class FLIXObjectives(WrappedObjectives):
    """``F_i(x) = f_i(alpha_i x + (1 - alpha_i) x_i*)``, whose mean FLIX and Scafflix minimise.

    Parameters
    ----------
    personal : PersonalObjectives
        The f_i and x_i* of n clients.
    alpha : Tensor
        alpha_i in [0, 1], shape (n,).

    Raises
    ------
    ValueError
        If ``alpha`` has another shape.
    """

    def __init__(self, personal: PersonalObjectives, alpha: Tensor) -> None:
        if alpha.shape != (len(personal),):
            raise ValueError(
                f"{len(personal)} weights alpha_i are needed, got {tuple(alpha.shape)}"
            )
        super().__init__(personal)
        self.personal, self.alpha = personal, alpha

    def value_and_gradient(
        self, x: Tensor, *, clients: Tensor | None = None, keys: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """F_i(x) and ``alpha_i grad f_i(x~_i)``: shapes (C',) and (C', d)."""
        values, gradients = self.personal.value_and_gradient(
            self._deployed(x, clients), clients=clients, keys=keys
        )
        return values, self._weights(clients).to(gradients).unsqueeze(1) * gradients

    def values(self, x: Tensor, *, clients: Tensor | None = None) -> Tensor:
        """F_i(x) of the selected clients: shape (C',)."""
        return self.personal.values(self._deployed(x, clients), clients=clients)

    def accuracy(self, x: Tensor, *, clients: Tensor | None = None) -> Tensor:
        """Accuracy of each selected client's deployed model on its examples: shape (C',)."""
        return self.personal.accuracy(self._deployed(x, clients), clients=clients)

    def _weights(self, clients: Tensor | None) -> Tensor:
        return self.alpha if clients is None else self.alpha[clients]

    def _deployed(self, x: Tensor, clients: Tensor | None) -> Tensor:
        return self.personal.deployed(x, self._weights(clients), clients=clients)
