"""The server half of FedP3."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

import torch
from flwr.app import ArrayRecord
from flwr.serverapp import Grid
from torch import Tensor

from fedstrategies.fedp3.aggregation import Aggregation, Simple, Weighted, aggregate
from fedstrategies.fedp3.algorithm import FedP3Rule, LocalTraining, Trained
from fedstrategies.fedp3.calibration import Calibration, gathering_for
from fedstrategies.fedp3.client_level import ClientLevelMechanism
from fedstrategies.fedp3.collected import collect
from fedstrategies.fedp3.frames import Downlink
from fedstrategies.fedp3.head import PersonalHead
from fedstrategies.fedp3.layer_choice import AllLayers, LayerChoice, uncovered
from fedstrategies.fedp3.settings import settings_of
from fedstrategies.flower import Assignment, BaseStrategy, Delivery, Update
from fedstrategies.flower.personal_metrics import personal_metrics
from fedstrategies.objectives import Smoothness
from fedstrategies.privacy import Accountant
from fedstrategies.pruning import (
    FixedPruning,
    GlobalPruning,
    LayerGroups,
    LocalPruning,
    OrderedPruning,
    PruningLaw,
)
from fedstrategies.stepsize import parse_stepsize

__all__ = ["FedP3"]

logger = logging.getLogger("flwr")


class FedP3(BaseStrategy):
    """FedP3: each client holds, trains and sends its own part of a network.

    Parameters
    ----------
    groups : LayerGroups
        Of the model; `layer_groups(module)`.
    layers : LayerChoice or None
        L_i, the groups that a client gets whole, trains and sends. None: all.
    pruning : PruningLaw or None
        P_i, what the client gets of the other groups. None: all of them.
    calibration : Calibration or None
        When clients tell of activations, for a P_i by a criterion that needs them (`Wanda`).
    local_pruning : LocalPruning or None
        Q_i, on which part of its model each local step is taken. None: all.
    aggregation : Aggregation or None
        The mean of a layer over those who sent it. None: plain.
    local_steps : int or sequence of int
        K_i, for all clients or one per partition.
    stepsize : float, str or None
        gamma: a number, ``"theory"`` (None) or ``"theory*2"``; the theory says 1/L_max.
    smoothness : Smoothness or None
        Needed for ``"theory"``.
    max_norm : float
        Norm to which each local gradient is scaled down; infinity: it is not.
    trained : str
        ``all``: the local steps move all that the client received; ``assigned``: L_i only.
    personal_head : PersonalHead, sequence of PersonalHead or None
        Fine-tuning of each client's classifier after the last round, alike or one per partition.
    **base
        See `fedstrategies.flower.BaseStrategy`. With ``message_privacy`` the server clips each
        client's move and adds noise to the mean, see `fedstrategies.privacy.MessagePrivacy`.

    Raises
    ------
    ValueError
        For settings that are impossible.

    References
    ----------
    Yi, Gazagnadou, Richtarik, Lyu, "FedP3: Federated Personalized and Privacy-friendly Network
    Pruning under Model Heterogeneity" (ICLR 2024).

    Examples
    --------
    After the example of `FedP3Client`. Client 0 has layers 0 and 2, client 1 layers 1 and 2, both
    half of the weights of the other one:

    >>> from fedstrategies import FedP3
    >>> from fedstrategies.fedp3 import parse_layers
    >>> from fedstrategies.pruning import GlobalPruning
    >>> lowerb = parse_layers("lowerb")
    >>> half = GlobalPruning(keep=0.5)
    >>> strategy = FedP3(groups=groups, layers=lowerb, pruning=half, stepsize=0.5)
    >>> result = strategy.start(CohortGrid(app, num_clients=2), x0, num_rounds=3)
    >>> strategy.bytes.uplink  # bytes of all clients and rounds
    726
    """

    no_downlink = "each client already gets its own part of the model, in frames of its own"
    no_message_privacy = ""
    no_aggregator = ""

    def __init__(
        self,
        *,
        groups: LayerGroups,
        layers: LayerChoice | None = None,
        pruning: PruningLaw | None = None,
        calibration: Calibration | None = None,
        local_pruning: LocalPruning | None = None,
        aggregation: Aggregation | None = None,
        local_steps: int | Sequence[int] = 1,
        stepsize: float | str | None = None,
        smoothness: Smoothness | None = None,
        max_norm: float = inf,
        trained: Trained = "all",
        personal_head: PersonalHead | Sequence[PersonalHead] | None = None,
        **base: Any,
    ) -> None:
        if trained not in ("all", "assigned"):
            raise ValueError(f"trained = {trained!r} is not 'all' or 'assigned'")
        try:
            self._factor, self._relative = parse_stepsize(stepsize)
        except ValueError as error:
            raise ValueError(f"stepsize: {error}") from None
        if base.get("evaluate_metrics_aggr_fn") is None:
            base["evaluate_metrics_aggr_fn"] = personal_metrics
        super().__init__(**base)
        self.groups = groups
        self.layers: LayerChoice = AllLayers() if layers is None else layers
        self.pruning: PruningLaw = GlobalPruning() if pruning is None else pruning
        self.local_pruning: LocalPruning = (
            FixedPruning() if local_pruning is None else local_pruning
        )
        self.aggregation: Aggregation = Simple() if aggregation is None else aggregation
        self.smoothness = smoothness
        self.max_norm = max_norm
        self.trained: Trained = trained
        self.personal_head = personal_head
        self.calibration = calibration
        self.gathering = gathering_for(calibration, self.pruning, self.layers, groups)
        if self.gathering is not None and (self.message_privacy or self.max_update_norm):
            raise ValueError(
                "calibration: message_privacy and max_update_norm bound how far a client moves the "
                "model, and what it tells of activations is no such move; leave one of them out"
            )
        if self.message_privacy is not None and not isinstance(self.aggregation, Simple):
            raise ValueError(
                f"message_privacy: aggregation {self.aggregation.spec} weights clients by what "
                "they send, and the bound on one client's part is for the plain mean (simple)"
            )
        if self.aggregator is not None and not isinstance(self.aggregation, Simple | Weighted):
            raise ValueError(
                f"aggregator: not with aggregation {self.aggregation.spec}, which weighs clients "
                "by what they send: one of them may have most of the weight, and no aggregator "
                "endures that (simple and weighted are sound)"
            )
        self._local_steps = local_steps
        hides = self.message_privacy
        self._mechanism = None if hides is None else ClientLevelMechanism(settings=hides)
        self._last_round: int | None = None
        self._fixed: Tensor | None = None
        self._links: dict[tuple[tuple[bool, ...], float], Downlink] = {}

    # ---------------------------------------------------------------- the rounds

    def set_up(self, arrays: ArrayRecord, grid: Grid) -> None:
        """See `BaseStrategy.set_up`.

        Raises
        ------
        ValueError
            If the layer groups are those of another model.
        """
        super().set_up(arrays, grid)
        if self.groups.layout != self.layout:
            raise ValueError(
                f"the layer groups are of a model with entries {list(self.groups.layout.names)}, "
                f"the initial arrays have {list(self.layout.names)}"
            )

    def prepare(self, x: Tensor) -> None:
        """Check the settings against the model and n, and fix gamma and the L_i."""
        if len(x) != self.groups.dimension:
            raise ValueError(f"{len(x)} parameters, the layer groups hold {self.groups.dimension}")
        steps = self._local_steps
        per_client = (steps,) * self.clients if isinstance(steps, int) else tuple(steps)
        if len(per_client) != self.clients:
            raise ValueError(f"local_steps: {len(per_client)} numbers for {self.clients} clients")
        if min(per_client) < 1:
            raise ValueError(f"local_steps = {min(per_client)}: at least one is needed")
        self.local_steps = per_client
        self.gamma = self._factor
        if self._relative:
            if self.smoothness is None:
                raise ValueError(
                    "the theory's step size needs smoothness=Smoothness(...); give it, or a number "
                    "as stepsize"
                )
            self.gamma /= self.smoothness.L_max
        for client in range(self.clients):
            self.pruning.share(client)
        self._training = LocalTraining(
            stepsize=self.gamma, max_norm=self.max_norm, pruning=self.local_pruning
        )
        first = self.assigned(1)
        if self.layers.fixed and (idle := uncovered(first, self.groups)):
            logger.warning("no client trains %s: they stay as they are", ", ".join(idle))

    def begin(self, num_rounds: int) -> None:
        """Know the last round, after which personal heads are tuned."""
        self._last_round = self.round + num_rounds

    def method_state(self) -> Mapping[str, object]:
        """The server's secret under ``message_privacy``, and what was told of activations.

        A round that is made again from the same messages is then the same release.
        """
        state: dict[str, object] = {}
        if self._mechanism is not None:
            state["secret"] = self._mechanism.secret.key
        if self.gathering is not None:
            state["activations"] = self.gathering.means
        return state

    def set_method_state(self, state: Mapping[str, Any]) -> None:
        """See `method_state`."""
        if self.gathering is not None:
            self.gathering.means = state["activations"]
        if self._mechanism is not None:
            self._mechanism = self._mechanism.with_key(state["secret"])

    def assigned(self, round: int) -> Tensor:
        """L_i of all clients in a round: bool, shape (n, G)."""
        if self._fixed is not None:
            return self._fixed
        drawn = self.layers.draw(self.groups, clients=self.clients, seed=self.seed, round=round)
        if self.layers.fixed:
            self._fixed = drawn
        return drawn

    @property
    def asks_for_parts(self) -> bool:
        """Whether some client does not have all layers in some round."""
        return not (self.layers.fixed and bool(self.assigned(1).all()))

    def plan(self, round: int) -> list[Assignment]:
        """One assignment for all clients of the cohort that are sent the same."""
        assigned = self.assigned(round)
        alike: dict[tuple[tuple[bool, ...], float], list[int]] = {}
        for client in self.cohort(round).tolist():
            own = tuple(assigned[client].tolist())
            share = 1.0 if all(own) else self.pruning.share(client)
            alike.setdefault((own, share), []).append(client)
        shares = dict.fromkeys(share for _, share in alike)
        law = self.pruning if self.gathering is None else self.gathering.law
        masks = {p: law.mask(self.x, self.groups, p) for p in shares if p < 1.0}
        return [
            self._assignment(self._link(own, share), masks.get(share), clients, round)
            for (own, share), clients in alike.items()
        ]

    def _link(self, own: tuple[bool, ...], share: float) -> Downlink:
        if not self.layers.fixed:
            self._links.clear()  # L_i drawn anew are seldom those of another round
        ordered = isinstance(self.pruning, OrderedPruning)
        made = Downlink(groups=self.groups, assigned=own, keep=share, ordered=ordered)
        return self._links.setdefault((own, share), made)

    def _assignment(
        self, link: Downlink, mask: Tensor | None, clients: list[int], round: int
    ) -> Assignment:
        point, parts = link.split(self.x, mask)
        rule = FedP3Rule(
            downlink=link,
            training=self._training,
            local_steps=self.local_steps,
            trained=self.trained,
            activations=None if self.gathering is None else self.gathering.asked(round),
        )
        constants, spec = settings_of(rule)
        return Assignment(
            partition_ids=torch.tensor(clients),
            rule=rule,
            constants=constants,
            individual=tuple((float(self.local_steps[client]),) for client in clients),
            spec=spec,
            point=point,
            parts=parts,
        )

    def server_update(self, x: Tensor, deliveries: Sequence[Delivery]) -> Update:
        """Every layer becomes the mean of those that were sent."""
        clip = None if self._mechanism is None else self._mechanism.clip
        found = collect(x, deliveries, self.groups, clip=clip)
        mean = aggregate(
            found.rows,
            found.sent,
            x,
            self.groups,
            partition_ids=found.partition_ids,
            aggregation=self.aggregation,
            aggregator=self.aggregator,
        )
        if self._mechanism is not None:
            mean = self._mechanism.hide(mean, found.sent, self.groups, self.round + 1)
        gathering = self.gathering
        if gathering is None or not found.told.shape[1]:
            return Update(x=mean)
        means = gathering.mean(found.told, found.partition_ids, aggregator=self.aggregator)
        return Update(x=mean, follow=lambda: gathering.follow(means))

    def evaluation_constants(self, partition: int) -> tuple[float, ...]:
        """Steps and step size of the personal head, after the last round."""
        heads = self.personal_head
        if heads is None or self.round != self._last_round:
            return ()
        head = heads if isinstance(heads, PersonalHead) else heads[partition]
        return float(head.steps), head.stepsize

    def client_level_epsilon(self, delta: float, *, accountant: Accountant = "rdp") -> float:
        """Epsilon of every client under ``message_privacy``, for the rounds of this strategy.

        What an earlier strategy released of the same clients is not in it: to go on in another
        process give `MessagePrivacy.epsilon` the rounds of both.

        Raises
        ------
        ValueError
            Without ``message_privacy``.
        """
        if self.message_privacy is None:
            raise ValueError("there is no message_privacy: models are released as they are")
        return self.message_privacy.epsilon(self.round, delta, accountant=accountant)

    def summary(self) -> None:
        """Log what was chosen."""
        logger.info("\t├──> FedP3: %d layer groups, L_i by %s", len(self.groups), self.layers.spec)
        logger.info("\t│\t├── P_i %s, Q_i %s", self.pruning.spec, self.local_pruning.spec)
        logger.info("\t└──> step size %.10g, aggregation %s", self.gamma, self.aggregation.spec)
