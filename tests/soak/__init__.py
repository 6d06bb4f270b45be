"""Long runs that check promises: `make soak`."""
