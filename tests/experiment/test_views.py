import tomllib
from pathlib import Path

import pytest

from fedstrategies.experiment.efbv_config import EFBVConfig
from fedstrategies.experiment.families import config_from_mapping
from fedstrategies.experiment.options import ConfigError
from fedstrategies.experiment.views import app_defaults, read_toml, to_mapping, to_toml, versions

APP = Path(__file__).parents[2] / "simulations" / "efbv"

CONFIGS = [
    EFBVConfig(),
    EFBVConfig(algorithm="gd", prox="l1:0.01", x0="normal:loc=10,scale=2"),
    EFBVConfig(participation=5, stepsize=1e-3, lam=0.5, nu=0.25, batch_size=3, seed=7),
    EFBVConfig(model="mlp", stepsize=0.5, width=8, dataset="digits"),
    EFBVConfig(
        smoothness="L=2.6862142339,L_tilde=3.3938773746",
        compressor="comp:k=1,k_prime=56",
        shift_init="gradient",
        target_gap=1e-6,
        overwrite=True,
        out="results",
    ),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_round_trip_through_keys(config):
    assert config_from_mapping(to_mapping(config)) == config


@pytest.mark.parametrize("config", CONFIGS)
def test_round_trip_through_text_as_on_a_command_line(config):
    as_text = {key: str(value) for key, value in to_mapping(config).items()}
    assert config_from_mapping(as_text) == config


@pytest.mark.parametrize("config", CONFIGS)
def test_round_trip_through_a_flower_run_config(config):
    run_config = to_mapping(config, app=True)
    assert all(isinstance(value, str | int | float) for value in run_config.values())
    assert "backend" not in run_config
    assert config_from_mapping(run_config, app=True) == config


@pytest.mark.parametrize("config", CONFIGS)
def test_round_trip_through_toml(config, tmp_path):
    path = tmp_path / "config.toml"
    path.write_text(to_toml(config))
    assert read_toml(path) == config
    assert tomllib.loads(path.read_text())["versions"]["torch"] == versions()["torch"]


def test_the_apps_defaults_are_the_dataclass():
    table = tomllib.loads((APP / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
    assert table == app_defaults(EFBVConfig)
    assert config_from_mapping(table, app=True) == EFBVConfig()


@pytest.mark.parametrize("path", sorted((APP / "conf").glob("*.toml")), ids=lambda path: path.stem)
def test_experiment_files_are_valid_in_both_views(path):
    values = tomllib.loads(path.read_text())
    assert set(values) <= set(app_defaults(EFBVConfig))
    assert read_toml(path) == config_from_mapping(values, app=True)


def test_experiment_files_cover_the_comparison():
    for dataset in ("mushrooms", "phishing", "a9a", "w8a"):
        for overlap in (1, 2):
            pair = [
                read_toml(APP / "conf" / f"{dataset}-xi{overlap}-{name}.toml")
                for name in ("ef21", "efbv")
            ]
            assert pair[0].problem == pair[1].problem
            assert pair[0].compressor == pair[1].compressor
            assert pair[0].overlap == overlap


def test_unreadable_files(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        read_toml(tmp_path / "none.toml")
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("clients = = 3")
    with pytest.raises(ConfigError, match="not TOML"):
        read_toml(wrong)
