"""A Flower app as one finds it: FedAvg of a small convolutional network."""
