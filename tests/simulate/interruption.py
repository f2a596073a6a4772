"""A simulation that is interrupted while it writes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from permil.simulate.headers import RawFileWriter


@contextmanager
def interrupted_after(count: int) -> Iterator[None]:
    """Interrupt the writer of raw files after some files, in the middle of the next, and expect that."""
    write, written = RawFileWriter.write, []

    def interrupted(self, path, *arguments, **options):
        if len(written) == count:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_name(f".{path.name}.partial.fits").write_bytes(b"half")
            raise KeyboardInterrupt
        written.append(path)
        return write(self, path, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RawFileWriter, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            yield
