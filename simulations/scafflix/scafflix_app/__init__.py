"""Scafflix, i-Scaffnew, Scaffnew, FLIX and FedAvg as a Flower app."""
