"""One GPU: a round of local training, clients in a loop, by CUDA graph, or several by vmap."""
