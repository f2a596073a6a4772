"""Pages without their pictures, for tests that are not about pictures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def without_pictures() -> Iterator[None]:
    """Leave the pictures of pages empty: figures are made, but not rendered."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("png", "svg"):
            patch.setattr(f"permil.report.kit.elements.{name}", lambda _: b"")
        yield
