"""Lets ``python -m permil`` do what the command ``permil`` does."""

from permil.cli import main

if __name__ == "__main__":
    main()
