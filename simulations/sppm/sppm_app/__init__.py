"""SPPM-AS, LocalGD and FedProx as a Flower app."""
