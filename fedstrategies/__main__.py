"""``python -m fedstrategies``: the command line."""

from fedstrategies.cli.main import main

main()
