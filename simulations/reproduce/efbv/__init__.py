"""The EF-BV experiments: EF21 and EF-BV with comp-(1, d/2), one data row per client.

``python -m simulations.reproduce.efbv --data DIR`` runs what has not been run yet and rewrites
``docs/results/efbv.md`` with its figures. It needs neither Flower nor Ray: it drives the pure
steps of `fedstrategies.efbv.algorithm`.

Source: Condat, Yi, Richtarik, "EF-BV" (2022); dissertation arXiv 2509.08233.
"""
