"""``python -m fedstrategies``: the command line."""

from fedstrategies.cli.main import main

if __name__ == "__main__":
    main()
