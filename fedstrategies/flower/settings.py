"""The constructor that all strategies share: upstream's names, and ours."""

from __future__ import annotations

from math import isfinite
from typing import ClassVar, Literal

from fedstrategies.compressors import Compressor, Identity
from fedstrategies.flower.metrics import MetricsAggregator, weighted_mean
from fedstrategies.privacy import MessagePrivacy
from fedstrategies.robust import Aggregator
from fedstrategies.sampling import (
    BlockSampling,
    FullParticipation,
    NiceSampling,
    NonuniformSampling,
    Sampling,
    StratifiedSampling,
)

__all__ = ["StrategySettings"]


_UNEVEN = (BlockSampling, NonuniformSampling, StratifiedSampling)


class StrategySettings:
    """What a user chooses, validated.

    Parameters
    ----------
    sampling : Sampling or None
        Law of the cohorts; None: from ``fraction_train``. Methods that weight clients alike take
        full and nice sampling.
    num_clients : int or None
        n. None: the nodes connected when the first round begins, after waiting for
        ``min_available_nodes``; n then stays fixed.
    seed : int
        Seed of every draw.
    trainable : str
        Glob of the entries of the initial arrays that are trained; the rest is carried along.
    memory_budget : int
        Bytes the server may spend on its copy of the clients' memories (n d floats). Above it,
        a lost memory is recovered by resetting all memories instead of by a dense download.
    on_failure : {"continue", "redo"}
        A client whose reply does not come counts as silent this round, or the round is redone.
    fraction_train, min_train_nodes : float, int
        As upstream: cohort size ``max(int(n fraction_train), min_train_nodes)``.
    fraction_evaluate, min_evaluate_nodes : float, int
        As upstream, for evaluation on clients; 0 skips it.
    min_available_nodes : int
        As upstream; unused if ``num_clients`` is given, which is then waited for.
    weighted_by_key : str
        As upstream, but for metrics only: the model is the plain mean over clients, since the
        method's memory identity h = mean h_i fixes the weights.
    arrayrecord_key, configrecord_key : str
        As upstream: names of the records in messages.
    train_metrics_aggr_fn, evaluate_metrics_aggr_fn : callable or None
        As upstream: (list of RecordDict, weight key) -> MetricRecord.
    message_privacy : MessagePrivacy or None
        Noise of the server's: privacy of whole clients towards those who see its models, for
        methods whose messages are models; others refuse it and say why.
    downlink : Compressor or None
        EF21-P: the server sends compressed differences of the model, and clients compute at the
        model these add up to (`fedstrategies.flower.broadcast`). For methods that are shown to
        converge so; others refuse it and say why. None, or the identity: the model itself.
    max_update_norm : float or None
        Largest l2 norm of a client's update in a round (`fedstrategies.flower.update_norm` says
        what that is for each method). A reply beyond it is that client's failure: the upload is
        not used, the next request does not acknowledge it, and so the client rolls back. It is
        never scaled down. The server cannot do that alone: the client would commit the message it
        sent and the server another, and from then on h = mean h_i (in Scafflix,
        sum alpha_i h_i = 0) would not hold. None: any finite update is used.
    aggregator : Aggregator or None
        What the server takes of the clients' vectors in place of their mean
        (`fedstrategies.robust`), for methods whose clients remember nothing, and for EF-BV, EF21
        and DIANA where the server has its copy of the memories: it then takes it of the
        ``h_i + nu d_i``. Others refuse it and say why. None: the mean.

    Raises
    ------
    ValueError
        For a fraction outside [0, 1], both ``sampling`` and ``fraction_train``, or a sampling
        that the method's constants are not made for.
    """

    tolerates_missing: ClassVar[bool] = True
    """Whether a round may go on without some of its clients."""
    attempts_are_rounds: ClassVar[bool] = False
    """Whether every attempt is a round of its own, whatever came back (even nothing)."""
    any_sampling: ClassVar[bool] = False
    """Whether clients are weighted by 1/(n p_i), so that any law of cohorts is right."""

    no_message_privacy: ClassVar[str] = "its messages are not moves of the model"
    """Why `message_privacy` is refused; empty: it is not."""

    no_downlink: ClassVar[str] = (
        "it has not been shown to converge where clients work at another model than the server's"
    )
    """Why `downlink` is refused; empty: it is not."""

    no_aggregator: ClassVar[str] = (
        "nothing is known of what becomes of its clients' memories where the server does not take "
        "the mean"
    )
    """Why `aggregator` is refused; empty: it is not."""

    def __init__(
        self,
        *,
        sampling: Sampling | None = None,
        num_clients: int | None = None,
        seed: int = 0,
        trainable: str = "*",
        memory_budget: int = 4 << 30,
        on_failure: Literal["continue", "redo"] = "continue",
        fraction_train: float = 1.0,
        fraction_evaluate: float = 1.0,
        min_train_nodes: int = 2,
        min_evaluate_nodes: int = 2,
        min_available_nodes: int = 2,
        weighted_by_key: str = "num-examples",
        arrayrecord_key: str = "arrays",
        configrecord_key: str = "config",
        train_metrics_aggr_fn: MetricsAggregator | None = None,
        evaluate_metrics_aggr_fn: MetricsAggregator | None = None,
        message_privacy: MessagePrivacy | None = None,
        downlink: Compressor | None = None,
        max_update_norm: float | None = None,
        aggregator: Aggregator | None = None,
    ) -> None:
        if not (aggregator is None or isinstance(aggregator, Aggregator)):
            raise ValueError(
                f"aggregator = {aggregator!r} is no Aggregator; write Median(), or "
                "parse_aggregator('trimmed-mean:share=0.2')"
            )
        if aggregator is not None and self.no_aggregator:
            raise ValueError(
                f"aggregator: not for {type(self).__name__}: {self.no_aggregator}; methods without "
                "client memory take it, and EF-BV, EF21 and DIANA"
            )
        if aggregator is not None and message_privacy is not None:
            raise ValueError(
                "aggregator: not with message_privacy, whose noise hides one client's part of a "
                "plain mean; give one of the two"
            )
        if max_update_norm is not None and not (isfinite(max_update_norm) and max_update_norm > 0):
            raise ValueError(f"max_update_norm = {max_update_norm} is not positive and finite")
        if not (downlink is None or isinstance(downlink, Compressor)):
            raise ValueError(
                f"downlink = {downlink!r} is no Compressor; write TopK(k=5), or "
                "parse_compressor('top-k:k=5')"
            )
        if isinstance(downlink, Identity):
            downlink = None
        if downlink is not None and self.no_downlink:
            raise ValueError(
                f"downlink: not for {type(self).__name__}: {self.no_downlink}; EF-BV, EF21, DIANA "
                "and gradient descent take it"
            )
        if message_privacy is not None and self.no_message_privacy:
            raise ValueError(
                f"message_privacy: not for {type(self).__name__}: {self.no_message_privacy}; "
                "FedP3 takes it (with all layers it is FedAvg)"
            )
        if not 0 < fraction_train <= 1 or not 0 <= fraction_evaluate <= 1:
            raise ValueError(
                f"fraction_train = {fraction_train} must be in (0, 1] and fraction_evaluate = "
                f"{fraction_evaluate} in [0, 1]"
            )
        if sampling is not None and fraction_train != 1.0:
            raise ValueError("give sampling or fraction_train, not both")
        if isinstance(sampling, _UNEVEN) and not self.any_sampling:
            raise ValueError(
                f"{type(self).__name__} is for full and nice sampling, not for "
                f"{type(sampling).__name__}; SPPM, LocalGD and FedProx take any law"
            )
        if on_failure not in ("continue", "redo"):
            raise ValueError(f"on_failure = {on_failure!r} is neither 'continue' nor 'redo'")
        self.message_privacy = message_privacy
        self.downlink = downlink
        self.max_update_norm = max_update_norm
        self.aggregator = aggregator
        self.sampling = sampling
        self.num_clients = num_clients
        self.seed = seed
        self.trainable = trainable
        self.memory_budget = memory_budget
        self.on_failure = on_failure if self.tolerates_missing else "redo"
        self.fraction_train = fraction_train
        self.fraction_evaluate = fraction_evaluate
        self.min_train_nodes = min_train_nodes
        self.min_evaluate_nodes = min_evaluate_nodes
        self.min_available_nodes = min_available_nodes
        self.weighted_by_key = weighted_by_key
        self.arrayrecord_key = arrayrecord_key
        self.configrecord_key = configrecord_key
        self.train_metrics_aggr_fn = train_metrics_aggr_fn or weighted_mean
        self.evaluate_metrics_aggr_fn = evaluate_metrics_aggr_fn or weighted_mean

    def sampling_of(self, clients: int) -> Sampling:
        """The law of cohorts out of n = ``clients``."""
        if self.sampling is not None:
            return self.sampling
        size = min(max(int(clients * self.fraction_train), self.min_train_nodes), clients)
        return FullParticipation() if size == clients else NiceSampling(cohort_size=size)
