"""What ran on which Ray node, as Ray recorded it.

    python -m tests.soak.ray_cluster_census ADDRESS SINCE

Prints as JSON how often each method of an actor ran on each node since a time, and the nodes.
"""

from __future__ import annotations

import json
import logging
import sys
from collections import Counter


def main() -> None:
    """Ask Ray and print it."""
    import ray

    address, since = sys.argv[1], float(sys.argv[2])
    ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    known = ray.nodes()
    nodes = {node["NodeManagerAddress"]: node["NodeID"] for node in known}
    calls: dict[str, Counter[str]] = {node["NodeID"]: Counter() for node in known}
    for event in ray.timeline():
        if event["cat"].startswith("task::") and event["ts"] / 1e6 >= since:
            calls[nodes[event["pid"]]][event["cat"].removeprefix("task::")] += 1
    alive = [node["NodeID"] for node in known if node["Alive"]]
    print(json.dumps({"nodes": nodes, "alive": alive, "calls": calls}))


if __name__ == "__main__":
    main()
