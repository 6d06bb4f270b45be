"""Experiments: one configuration, its views, and running it on a backend.

Everything is imported on first use: a configuration can be looked at without loading torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedstrategies.experiment.comparison import Comparison, compare, comparison_configs
    from fedstrategies.experiment.efbv_config import EFBVConfig
    from fedstrategies.experiment.families import ALGORITHMS, config_from_mapping
    from fedstrategies.experiment.fedp3_config import FedP3Config
    from fedstrategies.experiment.history import HistoryRecord, read_history
    from fedstrategies.experiment.options import ConfigError
    from fedstrategies.experiment.preparation import Prepared, prepare
    from fedstrategies.experiment.problem import Problem, load_problem
    from fedstrategies.experiment.recorder import Recorder
    from fedstrategies.experiment.results import Summary
    from fedstrategies.experiment.runner import run, run_on_grid
    from fedstrategies.experiment.scafflix_config import ScafflixConfig
    from fedstrategies.experiment.sppm_config import SPPMConfig
    from fedstrategies.experiment.sweep import run_sweep
    from fedstrategies.experiment.sweep_grid import Sweep, sweep_of
    from fedstrategies.experiment.sweep_results import Cell, SweepResults
    from fedstrategies.experiment.views import read_toml, to_toml

__all__ = [
    "ALGORITHMS",
    "Cell",
    "Comparison",
    "ConfigError",
    "EFBVConfig",
    "FedP3Config",
    "HistoryRecord",
    "Prepared",
    "Problem",
    "Recorder",
    "SPPMConfig",
    "ScafflixConfig",
    "Summary",
    "Sweep",
    "SweepResults",
    "compare",
    "comparison_configs",
    "config_from_mapping",
    "load_problem",
    "prepare",
    "read_history",
    "read_toml",
    "run",
    "run_on_grid",
    "run_sweep",
    "sweep_of",
    "to_toml",
]

_HOMES = {
    "comparison": ("Comparison", "compare", "comparison_configs"),
    "efbv_config": ("EFBVConfig",),
    "fedp3_config": ("FedP3Config",),
    "scafflix_config": ("ScafflixConfig",),
    "sppm_config": ("SPPMConfig",),
    "sweep": ("run_sweep",),
    "sweep_grid": ("Sweep", "sweep_of"),
    "sweep_results": ("Cell", "SweepResults"),
    "families": ("ALGORITHMS", "config_from_mapping"),
    "options": ("ConfigError",),
    "problem": ("Problem", "load_problem"),
    "history": ("HistoryRecord", "read_history"),
    "recorder": ("Recorder",),
    "results": ("Summary",),
    "preparation": ("Prepared", "prepare"),
    "runner": ("run", "run_on_grid"),
    "views": ("read_toml", "to_toml"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
