"""Errors of detectors in the file of a joint solution: the same numbers after reading, one detector without the others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from permil.errors import InputError
from permil.flat.joint.file import DetectorErrors, error_hdus, errors_in, open_joint
from permil.products import write_hdus


def some_errors(count: int) -> dict[str, DetectorErrors]:
    """Return errors of detectors, every seventh half as high as the others."""
    rng = np.random.default_rng(4)
    found = {}
    for number in range(count):
        shape = (3 if number % 7 == 6 else 6, 5)
        stacks = [rng.normal(size=(*lead, *shape)).astype(np.float32) for lead in ((4,), (), (2,))]
        stacks[2][:, 0] = np.nan
        found[f"R{number // 9:02d}_S{number % 9:02d}"] = DetectorErrors(rng.normal(size=(9, 2)), rng.normal(size=(9, 9)), *stacks)
    return found


def written(path: Path, errors: dict[str, DetectorErrors]) -> Path:
    write_hdus(path, [fits.PrimaryHDU(), *error_hdus(errors)])
    return path


@pytest.mark.parametrize("count", [1, 189])
def test_errors_of_any_number_of_detectors_are_the_same_after_reading(tmp_path: Path, count: int) -> None:
    errors = some_errors(count)
    with open_joint(written(tmp_path / "joint.fits", errors)) as hdus:
        assert len(hdus) == 5
        found = errors_in(hdus)
    assert list(found) == list(errors)
    for name, own in errors.items():
        for part in vars(own):
            read, expected = getattr(found[name], part), getattr(own, part)
            assert read.dtype == expected.dtype
            np.testing.assert_array_equal(read, expected)


def test_one_detector_is_read_without_the_others(tmp_path: Path) -> None:
    errors = some_errors(20)
    with open_joint(written(tmp_path / "joint.fits", errors)) as hdus:
        found = errors_in(hdus, ["R01_S02"])
        assert list(found) == ["R01_S02"]
        np.testing.assert_array_equal(found["R01_S02"].modes, errors["R01_S02"].modes)
        assert not any("data" in vars(hdus[name]) for name in ("MODES", "REMAINDER", "HALVES"))


def test_a_detector_that_is_not_in_the_solution(tmp_path: Path) -> None:
    path = written(tmp_path / "joint.fits", some_errors(2))
    with pytest.raises(InputError, match="R22_S11"), open_joint(path) as hdus:
        errors_in(hdus, ["R22_S11"])
