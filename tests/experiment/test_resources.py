"""`--device` and what clients take of a machine: what is refused, and why."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fedstrategies.engines.shares import Share
from fedstrategies.experiment import EFBVConfig
from fedstrategies.experiment.devices import device_of
from fedstrategies.experiment.options import ConfigError
from fedstrategies.experiment.problem import load_problem
from fedstrategies.experiment.resources import client_shares, parse_amounts
from fedstrategies.experiment.views import read_toml, to_toml

NETWORK = {"model": "mlp", "stepsize": 0.1}


def test_one_number_is_for_all_and_a_list_for_each():
    config = EFBVConfig(clients=3, gpus_per_client="0.25, 0.5,1", cpus_per_client="2")
    assert client_shares(config) == tuple(Share(cpus=2, gpus=g) for g in (0.25, 0.5, 1))
    assert config.cpus_per_client == 2.0
    assert parse_amounts("1,2", where="x") == (1.0, 2.0)
    assert parse_amounts(0.5, where="x") == 0.5


def test_lists_survive_a_file(tmp_path: Path):
    config = EFBVConfig(clients=2, gpus_per_client="0.5,1", backend="ray", device="auto")
    (tmp_path / "config.toml").write_text(to_toml(config))
    assert read_toml(tmp_path / "config.toml") == config


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"gpus_per_client": "half"}, "gpus-per-client: 'half'"),
        ({"gpus_per_client": "0.5,,1"}, "numbers with commas"),
        ({"gpus_per_client": "0.5,0.5", "clients": 3}, "gpus-per-client: 2 numbers for 3"),
        ({"gpus_per_client": 1.5}, "gpus-per-client: 1.5 is above 1"),
        ({"gpus_per_client": "-1,1", "clients": 2}, "gpus-per-client: -1"),
        ({"cpus_per_client": 0}, "cpus-per-client"),
        ({"cpus_per_client": -1.0}, "cpus-per-client"),
        (
            {"gpus_per_client": "0.5,1", "clients": 2, "backend": "flower"},
            "one setting for all its Ray virtual clients",
        ),
        ({"device": "gpu"}, "device: 'gpu' is not one of"),
        ({"device": "cuda:"}, "device"),
        ({"device": "cuda"}, "logreg is a closed form"),
        ({**NETWORK, "device": "cuda:1", "backend": "ray", "gpus_per_client": 1}, "cuda:0"),
        ({**NETWORK, "device": "cuda", "backend": "flower"}, "reserve none"),
        (
            {
                **NETWORK,
                "device": "cuda",
                "backend": "ray",
                "clients": 2,
                "gpus_per_client": "0,1",
            },
            "reserve none",
        ),
    ],
)
def test_what_cannot_be_is_refused(options, word):
    with pytest.raises(ConfigError, match=word):
        EFBVConfig(**options)


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:0", "cuda:12"])
def test_devices_that_can_be(device):
    assert EFBVConfig(**NETWORK, device=device).problem.device == device


def test_auto_takes_what_there_is(monkeypatch):
    for count, expected in ((0, torch.device("cpu")), (2, torch.device("cuda", 0))):
        monkeypatch.setattr(torch.cuda, "is_available", lambda count=count: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        assert device_of("auto") == expected
    assert device_of("cuda") == torch.device("cuda", 0)
    assert device_of("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(ConfigError, match="2 CUDA devices"):
        device_of("cuda:2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(ConfigError, match="CUDA_VISIBLE_DEVICES"):
        device_of("cuda")
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(ConfigError, match="this build of it has no CUDA"):
        device_of("cuda")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_stops_the_run_before_anything_is_written():
    config = EFBVConfig(**NETWORK, dataset="digits", device="cuda", clients=4)
    with pytest.raises(ConfigError, match="device: cuda is not there"):
        load_problem(config.problem).objective(0)
