"""FedP3 as a Flower app."""
