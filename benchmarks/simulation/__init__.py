"""Simulated federated averaging, side by side with other frameworks.

    python -m benchmarks.simulation --output docs/performance.md

Every system does the same arithmetic on the same data (`task`), in a process of its own
(`systems`); the harness runs them in turn, compares their final weights with those of a plain
PyTorch loop, and only then believes their clocks.
"""
