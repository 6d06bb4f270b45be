"""FedP3 measured against its published table: ``python -m simulations.reproduce.fedp3``."""
