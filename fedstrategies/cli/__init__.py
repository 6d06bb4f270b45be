"""The ``fedstrategies`` command."""
