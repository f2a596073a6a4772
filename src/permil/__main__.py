"""Run the command ``permil`` with ``python -m permil``."""

from permil.cli import main

if __name__ == "__main__":
    main()
