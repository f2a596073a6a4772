"""How long the package and the command line take to start."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from harness import compare, print_rows


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)  # noqa: S603


def main() -> None:
    """Print the comparison."""
    permil = str(Path(sys.executable).with_name("permil"))
    print_rows(
        [
            compare(
                "start of Python with the package",
                ("import permil", lambda: _run(sys.executable, "-c", "import permil")),
                ("import astropy", lambda: _run(sys.executable, "-c", "import astropy")),
            ),
            compare(
                "start of the command line",
                ("permil --help", lambda: _run(permil, "--help")),
                ("import typer", lambda: _run(sys.executable, "-c", "import typer")),
            ),
        ]
    )


if __name__ == "__main__":
    main()
