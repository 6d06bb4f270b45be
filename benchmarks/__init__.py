"""Speed and size, one command per table."""
