"""One script per system, each run as a module in a process of its own."""
