import json
from io import FileIO
from types import SimpleNamespace

import pytest
import torch

from fedstrategies.experiment import history_file
from fedstrategies.experiment.efbv_config import EFBVConfig
from fedstrategies.experiment.history import read_history
from fedstrategies.experiment.problem import load_problem
from fedstrategies.experiment.recorder import Recorder
from fedstrategies.experiment.writing import WriteError
from fedstrategies.flower.errors import Diverged


def recorder_of(libsvm_file, path=None, fstar=None, observers=(), **settings):
    config = EFBVConfig(dataset=str(libsvm_file), **{"clients": 4, **settings})
    problem = load_problem(config.problem)
    recorder = Recorder(
        config=config,
        problem=problem,
        objectives=problem.objectives,
        fstar=fstar,
        path=path,
        observers=observers,
    )
    return recorder, problem


def round_record(number, x, **counters):
    defaults = {
        "participants": 4,
        "failures": 0,
        "uplink_bytes": 100 * number,
        "downlink_bytes": 200 * number,
        "recovery_bytes": 0,
    }
    counters.setdefault("outer_round", number)
    return SimpleNamespace(round=number, x=x, **{**defaults, **counters})


def test_a_model_that_stays_is_measured_once_and_outer_rounds_have_their_price(libsvm_file):
    recorder, problem = recorder_of(libsvm_file, rounds=9, cost_inner=0.5, cost_outer=10)
    calls = []
    measure = recorder._objectives.value_and_gradient
    recorder._objectives = type(
        "Counting",
        (),
        {
            "value_and_gradient": lambda self, x: calls.append(1) or measure(x),
            "__len__": lambda self: len(problem.objectives),
        },
    )()
    x = torch.linspace(-1, 1, 6, dtype=torch.float64)
    recorder.on_start(problem.start_point)
    for number in range(1, 4):
        recorder.on_round(round_record(number, x, outer_round=1))
    assert len(calls) == 2
    assert recorder.last["outer_round"] == 1
    assert recorder.last["cost"] == 0.5 * 3 + 10 * 1


def test_schema_and_values(libsvm_file, tmp_path):
    path = tmp_path / "history.jsonl"
    recorder, problem = recorder_of(
        libsvm_file, path, fstar=0.5, rounds=2, cost_inner=2, cost_outer=3
    )
    start, x = problem.start_point, torch.linspace(-1, 1, 6, dtype=torch.float64)
    recorder.on_start(start)
    recorder.on_round(round_record(1, x, failures=1, recovery_bytes=7))
    assert len(read_history(path)) == 2  # nothing is held back until the end
    recorder.on_end()

    first, second = read_history(path)
    assert list(first) == [
        "round",
        "outer_round",
        "loss",
        "grad_norm_sq",
        "gap",
        "accuracy",
        "uplink_bytes",
        "downlink_bytes",
        "recovery_bytes",
        "cost",
        "participants",
        "failures",
        "seconds",
    ]
    assert (first["round"], first["uplink_bytes"], first["cost"]) == (0, 0, 0)
    values, gradients = problem.objectives.value_and_gradient(x)
    assert second["loss"] == pytest.approx(float(values.mean()), rel=1e-14)
    assert second["grad_norm_sq"] == pytest.approx(
        float(gradients.mean(0).square().sum()), rel=1e-13
    )
    assert second["gap"] == second["loss"] - 0.5
    assert (second["uplink_bytes"], second["recovery_bytes"], second["failures"]) == (100, 7, 1)
    assert second["cost"] == 5
    assert "accuracy" not in second


def test_accuracy_is_measured_at_its_interval_and_at_both_ends(libsvm_file):
    recorder, problem = recorder_of(libsvm_file, rounds=5, accuracy_every=2)
    measured = []
    recorder.on_start(problem.start_point)
    for number in range(1, 6):
        recorder.on_round(round_record(number, problem.start_point))
        if "accuracy" in recorder.last:
            measured.append(number)
    assert measured == [2, 4, 5]


def test_regularised_loss_and_prox_gradient_mapping(libsvm_file):
    recorder, problem = recorder_of(libsvm_file, prox="l1:0.05")
    x = torch.linspace(-1, 1, 6, dtype=torch.float64)
    recorder.on_start(x)
    values, gradients = problem.objectives.value_and_gradient(x)
    assert recorder.last["loss"] == pytest.approx(float(values.mean() + 0.05 * x.abs().sum()))
    step = 1 / problem.smoothness.L
    moved = x - step * gradients.mean(0)
    target = moved.sign() * (moved.abs() - 0.05 * step).clamp(min=0)
    assert recorder.last["grad_norm_sq"] == pytest.approx(
        float(((x - target) / step).square().sum())
    )


def test_mapping_vanishes_at_the_minimiser(libsvm_file):
    recorder, problem = recorder_of(libsvm_file, prox="l1:0.05")
    recorder.on_start(problem.solution.x)
    assert recorder.last["grad_norm_sq"] < 1e-18


def test_divergence_keeps_its_record(libsvm_file, tmp_path):
    path = tmp_path / "history.jsonl"
    recorder, problem = recorder_of(libsvm_file, path)
    recorder.on_start(problem.start_point)
    recorder.on_round(round_record(1, torch.full((6,), 1e3, dtype=torch.float64)))
    with pytest.raises(Diverged, match="round 2") as caught:
        recorder.on_round(round_record(2, torch.full((6,), 1e4, dtype=torch.float64)))
    assert caught.value.round == 2
    assert read_history(path)[-1]["round"] == 2


def test_what_is_not_finite_is_absent(libsvm_file, tmp_path):
    path = tmp_path / "history.jsonl"
    recorder, problem = recorder_of(libsvm_file, path, fstar=0.0)
    recorder.on_start(problem.start_point)
    with pytest.raises(Diverged):
        recorder.on_round(round_record(1, torch.full((6,), 1e200, dtype=torch.float64)))
    last = json.loads(path.read_text().splitlines()[-1], parse_constant=pytest.fail)
    assert "loss" not in last
    assert "gap" not in last
    assert last["uplink_bytes"] == 100


def test_a_start_outside_the_domain_of_r_is_no_divergence(libsvm_file):
    recorder, problem = recorder_of(libsvm_file, prox="box:1", x0="normal:loc=10")
    recorder.on_start(problem.start_point)
    assert "loss" not in recorder.last
    assert recorder.on_round(round_record(1, torch.ones(6, dtype=torch.float64))) is False


def test_targets_stop_the_run(libsvm_file):
    recorder, problem = recorder_of(libsvm_file, target_gap=1e-3)
    solution = problem.solution
    recorder, _ = recorder_of(libsvm_file, target_gap=1e-3, fstar=solution.value)
    recorder.on_start(problem.start_point)
    assert recorder.on_round(round_record(1, 0.5 * solution.x)) is False
    assert recorder.on_round(round_record(2, solution.x)) is True
    assert recorder.reached["target-gap"]["round"] == 2


def test_accuracy_target(libsvm_file):
    recorder, problem = recorder_of(libsvm_file, target_accuracy=0.6)
    recorder.on_start(problem.start_point)
    better = problem.solution.x
    assert problem.accuracy(better) >= 0.6
    assert recorder.on_round(round_record(1, better)) is True
    assert recorder.reached["target-accuracy"]["accuracy"] == problem.accuracy(better)


def test_observers_see_records_and_may_stop(libsvm_file):
    seen = []

    def observe(record):
        seen.append(record["round"])
        return record["round"] == 1

    recorder, problem = recorder_of(libsvm_file, observers=[observe])
    recorder.on_start(problem.start_point)
    assert recorder.on_round(round_record(1, problem.start_point)) is True
    assert seen == [0, 1]


def test_reading_a_history_cut_short(tmp_path):
    path = tmp_path / "history.jsonl"
    path.write_text('{"round": 0, "loss": 1.0}\n{"round": 1, "lo')
    assert [record["round"] for record in read_history(path)] == [0]
    path.write_text('{"round": 0}\nnonsense\n{"round": 2}\n')
    with pytest.raises(ValueError, match="line 2"):
        read_history(path)


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ('{"round": 1, "loss": null}', "loss is None"),
        ('{"round": 1, "loss": NaN}', "loss is nan"),
        ('{"round": 1, "loss": "0.5"}', "loss is '0.5'"),
        ('{"round": 1, "loss": true}', "loss is True"),
        ('{"round": 1, "loss": 1' + "0" * 400 + "}", "not a finite number"),
        ('{"round": null}', "round is None"),
    ],
)
def test_a_history_with_a_value_that_is_no_number(tmp_path, line, word):
    path = tmp_path / "history.jsonl"
    # Even in the last line, which may be cut short but not wrong.
    path.write_text('{"round": 0, "loss": 1.0}\n' + line + "\n")
    with pytest.raises(ValueError, match=f"line 2.*{word}"):
        read_history(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="UTF-8"):
        read_history(path)


def test_records_are_whole_where_the_system_takes_little_at_a_time(
    libsvm_file, tmp_path, monkeypatch
):
    class Short(FileIO):
        def write(self, data):
            return super().write(bytes(data)[:30])

    monkeypatch.setattr(history_file, "FileIO", Short)
    path = tmp_path / "history.jsonl"
    recorder, problem = recorder_of(libsvm_file, path, rounds=2)
    recorder.on_start(problem.start_point)
    recorder.on_round(round_record(1, problem.start_point))
    assert recorder.state()["length"] == path.stat().st_size
    recorder.on_end()
    assert read_history(path)[1] == recorder.last


def test_what_cannot_be_written_is_one_line_with_the_file(libsvm_file, tmp_path):
    (tmp_path / "history.jsonl").mkdir()
    recorder, problem = recorder_of(libsvm_file, tmp_path / "history.jsonl")
    with pytest.raises(WriteError, match=r"history\.jsonl: cannot be written \(Is a directory\)"):
        recorder.on_start(problem.start_point)
