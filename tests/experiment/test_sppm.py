"""SPPM-AS, LocalGD and FedProx as experiments."""

import logging

import pytest
import torch

from fedstrategies.experiment.cohort_law import cohort_law
from fedstrategies.experiment.families import config_from_mapping, not_for
from fedstrategies.experiment.history import read_history
from fedstrategies.experiment.options import ConfigError
from fedstrategies.experiment.preparation import prepare
from fedstrategies.experiment.problem import load_problem
from fedstrategies.experiment.runner import run
from fedstrategies.experiment.sppm_config import SPPMConfig
from fedstrategies.experiment.views import read_toml, to_toml
from fedstrategies.sampling import (
    BlockSampling,
    FullParticipation,
    NiceSampling,
    NonuniformSampling,
    StratifiedSampling,
)


@pytest.fixture
def config(libsvm_file, tmp_path):
    def make(**settings):
        given = {
            "algorithm": "sppm",
            "dataset": str(libsvm_file),
            "clients": 8,
            "rounds": 12,
            "out": str(tmp_path / "out"),
            "overwrite": True,
        }
        return config_from_mapping(given | settings)

    return make


def test_defaults_are_those_of_the_algorithm():
    sppm, local, prox = (
        config_from_mapping({"algorithm": name}) for name in ("sppm", "localgd", "fedprox")
    )
    assert (sppm.prox_stepsize, sppm.inner_rounds, sppm.solver) == (10.0, 10, "lbfgs")
    assert (sppm.tolerance, sppm.dropouts, sppm.local_steps) == (0.0, "retry", None)
    assert (local.local_steps, local.prox_stepsize, local.inner_rounds) == (5, None, None)
    assert (prox.local_steps, prox.prox_stepsize) == (5, 10.0)
    assert {"stepsize", "local-steps", "alpha"} <= not_for("sppm")


def test_a_configuration_survives_its_file(config, tmp_path):
    one = config(**{"sampling": "block", "cohort-size": 2, "strata": "features:balanced"})
    path = tmp_path / "config.toml"
    path.write_text(to_toml(one))
    assert read_toml(path) == one


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({}, FullParticipation),
        ({"participation": 3}, NiceSampling),
        ({"sampling": "nice", "cohort-size": 3}, NiceSampling),
        ({"sampling": "nonuniform"}, NonuniformSampling),
        ({"sampling": "nonuniform", "probabilities": "mu"}, NonuniformSampling),
        ({"sampling": "nonuniform", "probabilities": "variance"}, NonuniformSampling),
        (
            {"sampling": "nonuniform", "probabilities": ".3,.1,.1,.1,.1,.1,.1,.1"},
            NonuniformSampling,
        ),
        ({"sampling": "block", "cohort-size": 2}, BlockSampling),
        ({"sampling": "block", "strata": "0,1,2/3,4/5,6,7"}, BlockSampling),
        ({"sampling": "block", "cohort-size": 2, "probabilities": "mu"}, BlockSampling),
        ({"sampling": "block", "cohort-size": 2, "probabilities": "variance"}, BlockSampling),
        (
            {"sampling": "block", "strata": "0,1,2,3/4,5,6,7", "probabilities": "0.3,0.7"},
            BlockSampling,
        ),
        ({"sampling": "stratified", "cohort-size": 2}, StratifiedSampling),
        ({"sampling": "stratified", "cohort-size": 3, "strata": "labels"}, StratifiedSampling),
        ({"sampling": "stratified", "cohort-size": 3, "strata": "features"}, StratifiedSampling),
        (
            {"sampling": "stratified", "cohort-size": 3, "strata": "features:balanced"},
            StratifiedSampling,
        ),
        ({"sampling": "stratified", "cohort-size": 3, "strata": "gradients"}, StratifiedSampling),
        ({"sampling": "stratified", "strata": "0,1,2,3/4,5,6,7"}, StratifiedSampling),
    ],
    ids=str,
)
def test_every_sampling_runs(config, settings, kind, tmp_path):
    # Uneven labels, or all histograms would be the same.
    chosen = config(**settings, partition="iid")
    law = cohort_law(chosen, load_problem(chosen.problem))
    assert isinstance(law, kind)
    assert float((1 / law.inclusion_probabilities(8)).min()) >= 1
    assert run(chosen).status == "done"


def test_optimal_probabilities_use_the_solution(config):
    chosen = config(sampling="nonuniform", probabilities="variance")
    problem = load_problem(chosen.problem)
    law = cohort_law(chosen, problem)
    norms = problem.objectives.value_and_gradient(problem.solution.x)[1].norm(dim=1)
    torch.testing.assert_close(law.inclusion_probabilities(8), norms / norms.sum())


def test_clustering_by_gradients_says_what_it_leaks(config, caplog):
    chosen = config(**{"sampling": "stratified", "cohort-size": 2, "strata": "gradients"})
    with caplog.at_level(logging.WARNING, logger="flwr"):
        cohort_law(chosen, load_problem(chosen.problem))
    assert "can give away examples" in caplog.text


@pytest.mark.parametrize("solver", ["gd", "cg", "lbfgs", "local-gd:steps=3", "adam:lr=0.1"])
def test_every_solver_runs(config, solver, tmp_path):
    summary = run(config(solver=solver, **{"inner-rounds": 4}))
    assert summary.status == "done"
    assert summary.last["outer_round"] == 3
    assert summary.theory["mu_as"] == pytest.approx(0.1)
    assert set(summary.incidents.values()) == {0}
    assert "biased_redraws" in summary.incidents


@pytest.mark.parametrize("prox", ["l1:0.01", "l2sq:0.1", "box:0.2"])
def test_the_regulariser_is_solved_with_the_cohort(config, prox):
    chosen = config(
        prox=prox,
        solver="gd",
        fstar="solve",
        rounds=800,
        **{"inner-rounds": 200, "prox-stepsize": 100},
    )
    assert run(chosen).last["gap"] < 1e-10


def test_costs_are_those_of_inner_and_outer_rounds(config, tmp_path):
    run(config(**{"inner-rounds": 4, "cost-inner": 0.1, "cost-outer": 2, "fstar": "solve"}))
    records = read_history(tmp_path / "out" / "history.jsonl")
    assert [record["outer_round"] for record in records] == [t // 4 for t in range(13)]
    for record in records:
        expected = 0.1 * record["round"] + 2 * record["outer_round"]
        assert record["cost"] == pytest.approx(expected)
    losses = [record["loss"] for record in records]
    assert losses[0] == losses[3] != losses[4] == losses[7]
    assert records[-1]["distance_sq"] < records[0]["distance_sq"]


def test_local_gd_pays_both_prices_every_round(config, tmp_path):
    run(config(algorithm="localgd", rounds=3, **{"cost-inner": 0.5, "cost-outer": 2}))
    records = read_history(tmp_path / "out" / "history.jsonl")
    assert [record["cost"] for record in records] == [0.0, 2.5, 5.0, 7.5]


def test_the_cost_to_a_target_is_reported(config):
    chosen = config(**{"target-gap": 1e-3, "rounds": 500, "inner-rounds": 5, "prox-stepsize": 100})
    summary = run(chosen)
    reached = summary.reached["target-gap"]
    assert reached["gap"] <= 1e-3
    assert reached["cost"] == reached["round"] < 500


def test_one_local_step_is_gradient_descent(config, tmp_path):
    local = run(config(algorithm="localgd", stepsize=0.3, **{"local-steps": 1}))
    plain = run(config(algorithm="gd", stepsize=0.3))
    assert local.last["loss"] == pytest.approx(plain.last["loss"], rel=1e-12)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"stepsize": 0.1}, "stepsize: sppm has no such option"),
        ({"local-steps": 3}, "local-steps: sppm has no such option"),
        ({"algorithm": "localgd", "solver": "cg"}, "solver: localgd has no such option"),
        ({"algorithm": "localgd", "prox-stepsize": 3}, "prox-stepsize: localgd has no such option"),
        ({"algorithm": "fedprox", "inner-rounds": 3}, "inner-rounds: fedprox has no such option"),
        ({"algorithm": "localgd", "prox": "l1:0.1"}, "prox: localgd has no regulariser"),
        ({"solver": "newton"}, "solver: 'newton'"),
        ({"solver": "gd:stepsize=x"}, "solver: 'gd:stepsize=x'"),
        ({"solver": "cg", "batch-size": 4}, "solver: cg needs exact gradients"),
        ({"batch-size": 4}, "solver: lbfgs needs exact gradients"),
        ({"inner-rounds": 13}, "rounds: 12 do not complete a cohort of 13 inner rounds"),
        ({"sampling": "stratified"}, "sampling stratified: --cohort-size is needed"),
        ({"sampling": "stratified", "cohort-size": 9}, "cohort-size: 9 of 8 clients"),
        ({"sampling": "stratified", "strata": "0,1/2,3"}, "does not hold each of the 8 clients"),
        ({"sampling": "stratified", "strata": "colours"}, "strata: 'colours' is not"),
        (
            {"sampling": "block", "strata": "0,1,2,3/4,5,6,7", "cohort-size": 4},
            "the groups in --strata say",
        ),
        ({"sampling": "nice", "cohort-size": 2, "strata": "labels"}, "nice sampling has no groups"),
        ({"probabilities": "mu"}, "probabilities: full sampling has none"),
        ({"sampling": "nonuniform", "probabilities": "best"}, "probabilities: 'best' is not"),
        ({"sampling": "nonuniform", "probabilities": "0.5,0.6"}, "positive numbers with sum 1"),
        ({"sampling": "nonuniform", "cohort-size": 2}, "nonuniform sampling takes one client"),
        ({"sampling": "block", "participation": 2}, "participation: block sampling takes"),
        ({"smoothness": "L=1,L_tilde=1"}, "smoothness: the steps of sppm"),
        (
            {
                "sampling": "nonuniform",
                "probabilities": "variance",
                "model": "mlp",
            },
            "probabilities: variance needs constants",
        ),
    ],
    ids=str,
)
def test_wrong_options_are_refused(config, settings, why):
    with pytest.raises(ConfigError, match=why):
        config(**settings)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"prox": "l1:0.1"}, "use gd, which takes proximal steps"),
        ({"sampling": "nonuniform", "probabilities": "0.5,0.5"}, "is for 2 clients, there are 8"),
        ({"model": "mlp", "width": 3, "solver": "gd"}, "needs L_i for its step size"),
        (
            {"sampling": "stratified", "cohort-size": 8, "strata": "labels"},
            "different signatures, too few for 8 strata",
        ),
    ],
    ids=str,
)
def test_what_does_not_fit_the_data_is_refused_before_the_run(config, settings, why):
    with pytest.raises(ConfigError, match=why):
        prepare(config(**settings))


def test_the_samplings_of_a_family_stay_its_own():
    with pytest.raises(ConfigError, match="sampling: 'block' is not one of full, nice"):
        config_from_mapping({"algorithm": "efbv", "sampling": "block"})
    assert isinstance(config_from_mapping({"algorithm": "fedprox"}), SPPMConfig)


def test_a_network_is_trained_with_adam(config, tmp_path):
    settings = {"inner-rounds": 8, "l2": 0.01, "batch-size": 4}
    summary = run(config(model="mlp", width=4, solver="adam:lr=0.02", rounds=80, **settings))
    assert summary.status == "done"
    first = read_history(tmp_path / "out" / "history.jsonl")[0]
    assert summary.last["loss"] < 0.98 * first["loss"]
