import pytest
import torch

from fedstrategies.data import DataError
from fedstrategies.experiment.options import ConfigError
from fedstrategies.experiment.problem import load_problem
from fedstrategies.experiment.problem_config import ProblemConfig


def problem_of(path, **settings):
    return load_problem(ProblemConfig(dataset=str(path), **{"clients": 4, **settings}))


def test_rows_are_dealt_and_labels_are_signs(libsvm_file):
    problem = problem_of(libsvm_file)
    assert [len(rows) for rows in problem.shards] == [10, 10, 10, 10]
    assert sorted(problem.labels.unique().tolist()) == [-1.0, 1.0]
    assert problem.dimension == 6
    assert problem.features.dtype == torch.float64
    assert len(problem.objectives) == 4


def test_loading_is_cached_by_configuration(libsvm_file):
    assert problem_of(libsvm_file) is problem_of(libsvm_file)
    assert problem_of(libsvm_file, clients=5) is not problem_of(libsvm_file)


def test_one_client_equals_its_row_of_the_stack(libsvm_file):
    problem = problem_of(libsvm_file)
    x = torch.linspace(-1, 1, 6, dtype=torch.float64)
    values, gradients = problem.objectives.value_and_gradient(x)
    value, gradient = problem.objective(2).value_and_gradient(x)
    assert torch.equal(value, values[2])
    assert torch.equal(gradient, gradients[2])


def test_a_client_beyond_the_configuration_is_refused(libsvm_file):
    with pytest.raises(ConfigError, match="4 clients"):
        problem_of(libsvm_file).objective(4)


def test_smoothness_can_be_overridden_in_part(libsvm_file):
    exact = problem_of(libsvm_file).smoothness
    given = problem_of(libsvm_file, smoothness="L=2.5").smoothness
    assert given.L == 2.5
    assert given.L_tilde == exact.L_tilde
    assert given.L_max == exact.L_max


def test_start_points(libsvm_file):
    assert torch.equal(problem_of(libsvm_file).start_point, torch.zeros(6, dtype=torch.float64))
    far = problem_of(libsvm_file, x0="normal:loc=10").start_point
    again = problem_of(libsvm_file, x0="normal:loc=10", clients=5).start_point
    assert torch.equal(far, again)
    assert not torch.equal(far, problem_of(libsvm_file, x0="normal:loc=10", seed=1).start_point)
    wide = problem_of(libsvm_file, x0="normal:loc=10,scale=2").start_point
    torch.testing.assert_close(wide - 10, 2 * (far - 10))


def test_start_point_is_normal():
    problem = load_problem(ProblemConfig(x0="normal:loc=3,scale=2"))
    samples = torch.cat(
        [
            load_problem(ProblemConfig(x0="normal:loc=3,scale=2", seed=seed)).start_point
            for seed in range(8)
        ]
    )
    # 896 samples: the standard error of the mean is 0.067, of the deviation 0.047.
    assert abs(samples.mean() - 3) < 0.27
    assert abs(samples.std() - 2) < 0.19
    assert problem.start_point.dtype == torch.float64


def test_float32(libsvm_file):
    problem = problem_of(libsvm_file, dtype="float32")
    assert problem.start_point.dtype == torch.float32
    values, _ = problem.objectives.value_and_gradient(problem.start_point)
    assert values.dtype == torch.float32


@pytest.mark.parametrize("prox", ["none", "l1:0.01"])
def test_the_minimum_in_float32_is_that_of_the_same_rows_in_float64(libsvm_file, prox):
    narrow = problem_of(libsvm_file, dtype="float32", prox=prox).solution
    wide = problem_of(libsvm_file, prox=prox).solution
    assert narrow.residual <= 1e-11
    # The rows themselves were rounded to float32.
    assert narrow.value == pytest.approx(wide.value, abs=1e-7)


def test_held_out_rows_are_not_trained_on(libsvm_file):
    whole, split = problem_of(libsvm_file), problem_of(libsvm_file, test_fraction=0.2)
    assert whole.evaluation is None
    assert [len(rows) for rows in split.shards] == [8, 8, 8, 8]
    features, labels = split.evaluation
    assert features.shape == (8, 6)
    assert len(labels) == 8


def test_accuracy_counts_signs(libsvm_file):
    problem = problem_of(libsvm_file)
    x = torch.linspace(-1, 1, 6, dtype=torch.float64)
    right = sum(
        (1.0 if float(row @ x) > 0 else -1.0) == float(label)
        for row, label in zip(problem.features, problem.labels, strict=True)
    )
    assert problem.accuracy(x) == right / 40


def test_too_many_clients(libsvm_file):
    with pytest.raises(DataError, match="41 clients"):
        problem_of(libsvm_file, clients=41)
