"""Cohort Squeeze: cost to an accuracy, against the published figures."""
