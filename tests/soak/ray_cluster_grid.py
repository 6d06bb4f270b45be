"""One experiment on `RayGrid`, whose actors note which client they hold on which Ray node.

    python -m tests.soak.ray_cluster_grid SETTINGS.json HOMES

What `fedstrategies run --backend ray --ray-address` does, but for the notes: a file for each Ray
node in the folder HOMES, to which a process adds a line for each client it builds.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from flwr.app import Context

from fedstrategies import client_app
from fedstrategies.experiment.clients import client_fn_of
from fedstrategies.experiment.families import config_from_mapping
from fedstrategies.experiment.flower_backend import set_environment
from fedstrategies.experiment.preparation import prepare
from fedstrategies.experiment.ray_backend import ray_grid
from fedstrategies.experiment.session import Session


def noted(client_fn: Callable[[Context], Any], homes: str, context: Context) -> Any:
    """The client, once it is written down where it was built."""
    import ray

    node = ray.get_runtime_context().get_node_id()
    with (Path(homes) / node).open("a", encoding="ascii") as notes:
        notes.write(f"{context.node_config['partition-id']}\n")
    return client_fn(context)


def main() -> None:
    """Run it."""
    settings, homes = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), sys.argv[2]
    set_environment()
    Path(homes).mkdir(parents=True, exist_ok=True)
    prepared = prepare(config_from_mapping(settings))
    app = client_app(partial(noted, client_fn_of(prepared.config), homes))
    with ray_grid(prepared.config, app) as grid:
        session = Session(prepared, (), picture=False)
        summary = session.guarded(lambda: session.run_on(grid))
    sys.exit(0 if summary.status == "done" else f"{summary.status}: {summary.error}")


if __name__ == "__main__":
    main()
