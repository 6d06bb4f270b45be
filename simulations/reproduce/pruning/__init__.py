"""Post-training pruning of a small trained Llama: every method, three calibration seeds."""
