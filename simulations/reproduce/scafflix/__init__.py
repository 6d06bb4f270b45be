"""Scafflix's experiments: ``python -m simulations.reproduce.scafflix --data DIR``."""
