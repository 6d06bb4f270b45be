"""EF-BV, EF21, DIANA and gradient descent as a Flower app."""
