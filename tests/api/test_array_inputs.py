"""Every public function of arrays takes all kinds of arrays that users have, and refuses what it does not understand in one sentence."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.nddata import CCDData
from astropy.table import Column, MaskedColumn
from astropy.utils.masked import Masked
from hypothesis import given, settings
from hypothesis import strategies as st

import permil
import permil.nddata
from permil.products import ImageProduct

CAMERA = permil.load_camera("lsstcam-bin8")
DETECTOR = CAMERA["R22_S11"]
HIDDEN = -9999.0


def _pandas(values: np.ndarray) -> Any:
    return pd.DataFrame(values) if values.ndim == 2 else pd.Series(values, dtype="Float64")


FORMS: dict[str, Callable[[np.ndarray, str], Any]] = {
    "list": lambda values, _: values.tolist(),
    "big-endian": lambda values, _: values.astype(">f8"),
    "every second of a longer array": lambda values, _: np.repeat(values, 2, axis=-1)[..., ::2],
    "Fortran order": lambda values, _: np.asfortranarray(values),
    "read only": lambda values, _: np.broadcast_to(values, values.shape),
    "masked array": lambda values, _: np.ma.array(values, mask=np.zeros(values.shape, dtype=bool)),
    "objects": lambda values, _: values.astype(object),
    "column": lambda values, unit: Column(values, unit=unit or None),
    "quantity": lambda values, unit: values * u.Unit(unit),
    "quantity in another unit": lambda values, unit: (values * u.Unit(unit)).to(
        {"mm": "m", "": "%", "electron": "1e3 electron"}.get(unit, unit)
    ),
    "masked quantity": lambda values, unit: Masked(values * u.Unit(unit), mask=np.zeros(values.shape, dtype=bool)),
    "pandas": lambda values, _: pd.DataFrame(values) if values.ndim == 2 else pd.Series(values),
    "pandas with missing values": lambda values, _: _pandas(values),
}
"""Kinds of arrays of the same numbers, in a unit."""
MASKS: dict[str, Callable[[np.ndarray, np.ndarray, str], Any]] = {
    "masked array": lambda values, mask, _: np.ma.array(np.where(mask, HIDDEN, values), mask=mask),
    "masked column": lambda values, mask, unit: MaskedColumn(np.where(mask, HIDDEN, values), mask=mask, unit=unit or None),
    "masked quantity": lambda values, mask, unit: Masked(np.where(mask, HIDDEN, values) * u.Unit(unit), mask=mask),
    "objects": lambda values, mask, _: np.where(mask, None, values.astype(object)),
    "pandas": lambda values, mask, _: _pandas(values).mask(mask),
}  # fmt: skip
"""Ways to hide some numbers: junk, or nothing, is where the mask is true."""


@dataclass(frozen=True)
class Case:
    """A public function of arrays.

    ``call`` returns a plain array from its arguments, ``arguments`` makes these from a seed, ``units`` are theirs (None: any unit,
    which stays), ``masked`` is the argument in which some values may be masked; ``bad`` a unit that it cannot have (empty: any will do).
    """

    call: Callable[..., Any]
    arguments: Callable[[np.random.Generator], list[np.ndarray]]
    units: tuple[str, ...]
    masked: int | None = 0
    bad: str = "s"
    accuracy: float = 1e-9


def _points(count: int, size: float) -> Callable[[np.random.Generator], list[np.ndarray]]:
    return lambda rng: list(rng.uniform(-size, size, (2, count)))


def _image(rng: np.random.Generator) -> list[np.ndarray]:
    return [rng.uniform(0.5, 1.5, DETECTOR.shape).astype(np.float32).astype(np.float64)]


def _nodes(rng: np.random.Generator) -> list[np.ndarray]:
    x, y = (axis.ravel() for axis in np.meshgrid(np.linspace(-40, 40, 6), np.linspace(-40, 40, 6)))
    return [x, y, 5e4 * np.exp(-(x**2 + y**2) / 6000) * (1 + 1e-3 * rng.standard_normal(x.size))]


def _scan(rng: np.random.Generator) -> list[np.ndarray]:
    return [*rng.uniform(-30, 30, (2, 12)), rng.normal(0, 0.01, 12), np.arange(12.0)]


def _signals(rng: np.random.Generator) -> list[np.ndarray]:
    return [*rng.uniform(-20, 20, (2, 30)), rng.normal(10, 0.1, (5, 30)), rng.uniform(1e-6, 2e-6, (5, 30))]


def _lattice(rng: np.random.Generator) -> list[np.ndarray]:
    i, j = (axis.ravel() for axis in np.meshgrid(np.arange(6), np.arange(5)))
    return [80 + 60.0 * i + rng.normal(0, 0.05, i.size), 70 + 60.0 * j + rng.normal(0, 0.05, i.size)]


def _spots(rng: np.random.Generator) -> list[np.ndarray]:
    y, x = np.mgrid[:200, :200]
    image = 50 + rng.normal(0, 5, x.shape)
    for place in ((60, 60), (60, 140), (140, 60), (140, 140)):
        image += 2e3 * np.exp(-((x - place[0]) ** 2 + (y - place[1]) ** 2) / 9)
    image = image.astype(np.float32).astype(np.float64)
    return [image, np.maximum(image, 25.0)]


def _maps(rng: np.random.Generator) -> list[np.ndarray]:
    y, x = np.mgrid[:12, :12].astype(float)
    return [*rng.standard_normal((2, 12, 12)), x, y]


def _catalog(rng: np.random.Generator) -> list[np.ndarray]:
    return [*rng.uniform(0, 400, (2, 9)), rng.uniform(1e4, 1e6, 9)]


def _plan(rng: np.random.Generator) -> list[np.ndarray]:
    x, y = DETECTOR.to_ccs(*DETECTOR.centre_pixel)
    return [np.column_stack([axis + rng.uniform(-8, 8, 6) for axis in (x, y)])]


def _regions(rng: np.random.Generator) -> list[np.ndarray]:
    return list(rng.uniform(0.1, 1.0, (2, *DETECTOR.shape)))


def _flat_and_variance(rng: np.random.Generator) -> list[np.ndarray]:
    return [*_image(rng), rng.uniform(1e-6, 1e-5, DETECTOR.shape).astype(np.float32).astype(np.float64)]


def _readings(rng: np.random.Generator) -> list[np.ndarray]:
    # Readings that agree with the light, in another unit than that of the headers.
    return [RUN["readings"] * rng.uniform(0.5, 2.0)]


RUN: dict[str, Any] = {}
"""What the cases take from the campaign of this folder: files and readings of a pointing, its stack, calibration and camera."""


@pytest.fixture(autouse=True, scope="module")
def _campaign(made: Path) -> None:
    run = permil.open_run(made / "out")
    index = run.exposures
    rows = index[(index["purpose"] == "pointing") & (index["led"] == "red")]
    rows = rows[rows["position_id"] == rows["position_id"][0]]
    RUN.update(
        paths=list(rows["path"]), readings=np.asarray(rows["photodiode"], dtype=float), calibration=run.calibration("R22_S11")
    )
    RUN["stack"] = permil.stack(RUN["paths"], RUN["calibration"], camera=CAMERA)


def _stacked(readings: Any) -> np.ndarray:
    stack = permil.stack(RUN["paths"], RUN["calibration"], camera=CAMERA, photodiode=readings)
    return np.concatenate([[stack.photodiode, len(stack.used)], stack.image[::50, ::50].ravel()])


_FLAT = permil.Flat(np.random.default_rng(5).uniform(0.9, 1.1, DETECTOR.shape), np.full(DETECTOR.shape, 1e-4), detector=DETECTOR)


def _with_modes() -> permil.Flat:
    """Return the flat with two shared modes, on blocks of 64 pixels."""
    rng, cells = np.random.default_rng(6), tuple(-(-side // 64) for side in DETECTOR.shape)
    modes = fits.ImageHDU(rng.normal(0, 1e-3, (2, *cells)), name="MODES")
    modes.header["BLOCKPIX"] = 64
    planes = _FLAT.image, _FLAT.mask, _FLAT.variance, _FLAT.header, fits.Header()
    remainder = fits.ImageHDU(rng.uniform(1e-9, 1e-8, cells), name="REMAINDER")
    return permil.Flat.of(ImageProduct(*planes, {"MODES": modes, "REMAINDER": remainder}), detector=DETECTOR)


_MODES = _with_modes()
_CAMPAIGN = permil.simulate_campaign(preset="mini", leds=["red"], detectors=["R22_S11"])
_SIGNALS = permil.DetectorSignals(
    "R22_S11", *_signals(np.random.default_rng(7))[:2], range(5), *_signals(np.random.default_rng(7))[2:]
)
_SPOTS = permil.SpotCatalog(*_catalog(np.random.default_rng(8))[:2])


@cache
def _beam() -> permil.BeamModel:
    return permil.BeamModel.fit(*_nodes(np.random.default_rng(0)))


def _light(ux: Any, uy: Any) -> np.ndarray:
    beam = _beam()
    return beam(ux, uy)


def _nodes_of_fit(*columns: Any) -> np.ndarray:
    """Return the nodes that `BeamModel.fit` fits to."""
    with patch.object(permil.BeamModel, "from_nodes", lambda nodes, **_: nodes):
        nodes: Any = permil.BeamModel.fit(*columns)
    return np.concatenate([nodes.x_mm, nodes.y_mm, nodes.signal])


CASES = {
    "Detector.to_ccs": Case(DETECTOR.to_ccs, _points(7, 300.0), ("pixel", "pixel")),
    "Detector.from_ccs": Case(DETECTOR.from_ccs, _points(7, 20.0), ("mm", "mm")),
    "Camera.detector_at": Case(lambda x, y: (CAMERA.detector_at(x, y) == "R22_S11") * 1.0, _points(50, 40.0), ("mm", "mm"), None),
    "Flat": Case(
        lambda image, variance: np.stack([(flat := permil.Flat(image, variance)).image, flat.variance]), _flat_and_variance, ("", ""),
        accuracy=1e-6,
    ),
    "Flat.apply": Case(lambda image: np.asarray(_FLAT.apply(image)), _image, ("electron",), None, bad="mag", accuracy=1e-6),
    "Flat.mean": Case(_FLAT.mean, _image, ("",)),
    "Flat.covariance": Case(_MODES.covariance, _regions, ("", "")),
    "divide": Case(
        lambda position: permil.divide(RUN["stack"], position, _beam(), DETECTOR).image[::25, ::25],
        lambda rng: [np.array(DETECTOR.to_ccs(*DETECTOR.centre_pixel)) + rng.uniform(-8, 8, 2)], ("mm",), None, accuracy=1e-6,
    ),
    "stack": Case(_stacked, _readings, ("",), accuracy=1e-6),
    # The fit itself takes a second: what it is given decides.
    "BeamModel.fit": Case(_nodes_of_fit, _nodes, ("mm", "mm", "electron"), 2, bad="mag"),
    "BeamModel.__call__": Case(_light, _points(7, 30.0), ("mm", "mm")),
    "BeamModel.evaluate": Case(lambda ux, uy: _beam().evaluate(ux, uy), _points(7, 30.0), ("mm", "mm")),
    "BeamModel.predict_signal": Case(lambda ux, uy: _beam().predict_signal(ux, uy), _points(7, 30.0), ("mm", "mm")),
    "BeamModel.evaluate_image": Case(
        lambda origin, matrix: _beam().evaluate_image((9, 8), origin, matrix)[0],
        lambda rng: [rng.uniform(-20, 20, 2), rng.normal(0, 0.5, (2, 2))], ("mm", "mm"), None, accuracy=1e-6,
    ),
    "BeamModel.log_beam": Case(lambda u: _beam().log_beam(u), lambda rng: [rng.uniform(-30, 30, (7, 2))], ("mm",), None),
    "BeamModel.relative_error": Case(lambda u: _beam().relative_error(u), lambda rng: [rng.uniform(-30, 30, (7, 2))], ("mm",), None),
    "BeamModel.covariance": Case(lambda ux, uy: _beam().covariance(ux, uy), _points(5, 30.0), ("mm", "mm")),
    "ExposureList": Case(
        lambda *columns: permil.ExposureList(*columns).log_photodiode, _scan, ("mm", "mm", "", "s"), 2, bad="kg"
    ),
    "DetectorSignals": Case(
        lambda x, y, signal, variance: permil.DetectorSignals("R22_S11", x, y, range(5), signal, variance).weights,
        _signals,
        ("mm", "mm", "", ""),
        2,
    ),
    "DetectorSignals.only": Case(
        lambda exposures: _SIGNALS.only(exposures).log_signal.sum(), lambda rng: [rng.integers(0, 2, 5).astype(float)], ("",)
    ),
    "SimulatedCampaign.beam": Case(lambda ux, uy: _CAMPAIGN.beam("red", ux, uy), _points(7, 30.0), ("mm", "mm")),
    "SpotCatalog.select": Case(
        lambda rows: _SPOTS.select(rows).x, lambda rng: [rng.integers(-9, 9, 4).astype(float)], ("",), None
    ),
    "SpotCatalog.with_labels": Case(
        lambda i, j: (found := _SPOTS.with_labels(i, j)).grid_i + 100 * found.grid_j,
        lambda rng: list(rng.integers(0, 49, (2, 9)).astype(float)), ("", ""),
    ),
    "find_grid": Case(lambda x, y: permil.find_grid(x, y, columns=6, rows=5, degree=1).affine.rms, _lattice, ("pixel", "pixel")),
    "measure_spots": Case(
        lambda image, variance: permil.measure_spots(image, variance).catalog.flux, _spots, ("electron", "electron2"), accuracy=1e-5
    ),
    "correlate": Case(
        lambda *maps: [(result := permil.correlate(*maps, methods=())).r, result.p_value, result.n], _maps, ("", "", "mm", "mm"), 0
    ),
    "SpotCatalog": Case(
        lambda x, y, flux: permil.SpotCatalog(x, y, flux=flux).flux, _catalog, ("pixel", "pixel", "electron"), 2
    ),
    "check_plan": Case(
        lambda positions: permil.check_plan(positions, CAMERA, cells=4, beam_knots_mm=20.0).super_pixel_error,
        _plan,
        ("mm",),
        None,
        accuracy=1e-6,
    ),
}  # fmt: skip


WITHOUT_ARRAYS = {
    "BeamModel", "BeamModel.describe", "BeamModel.facts", "BeamModel.from_nodes", "BeamModel.left_out_pulls", "BeamModel.plot", "Camera",
    "Camera.__getitem__", "Camera.find", "Camera.led", "Camera.sorted_leds",
    "Config", "Config.as_yaml", "CorrelationResult", "CorrelationResult.figures",
    "CorrelationResult.plot", "CorrelationResult.plot_all", "CorrelationResult.plot_blocks", "CorrelationResult.plot_null",
    "CorrelationResult.plot_scatter", "CorrelationResult.row", "Detector", "Detector.amplifier", "Detector.amplifier_map",
    "Detector.is_called", "Detector.plain", "Flat.apply_to_file", "Flat.difference", "Flat.facts", "Flat.of", "Flat.plot", "Flat.read",
    "Flat.to_ccddata", "Flat.write", "FlatComparison", "FlatComparison.describe", "FlatComparison.facts", "FlatComparison.write_smooth",
    "FlatDifference", "FlatDifference.facts", "FlatDifference.plot",
    "MaskPlane", "PermilError", "PlanCheck", "PlanCheck.facts", "PlanCheck.plot",
    "RunResults", "RunResults.beam", "RunResults.calibration", "RunResults.flat", "RunResults.table", "SimulatedCampaign",
    "SimulatedCampaign.flat", "SimulatedCampaign.gains", "SimulatedCampaign.raw", "SimulatedCampaign.write", "assemble",
    "calibrate_spots", "compare_flats", "load_beam", "load_camera", "load_config", "nddata.read_ccddata", "open_run", "reduce", "run",
    "simulate_campaign", "solve_joint",
}  # fmt: skip
"""Public functions that take no array: files, names, options, or objects that are in ``CASES`` themselves."""


def _public_functions() -> set[str]:
    """Return the public functions, classes and methods, also ``__call__`` and ``__getitem__``."""
    found = {"nddata.read_ccddata"} | set(permil.__all__) - {"__version__"}
    for name in permil.__all__:
        kind = getattr(permil, name)
        for method, entry in vars(kind).items() if inspect.isclass(kind) else ():
            is_function = inspect.isfunction(entry) or isinstance(entry, classmethod | staticmethod)
            if is_function and (not method.startswith("_") or method in ("__call__", "__getitem__")):
                found.add(f"{name}.{method}")
    return found


def test_every_public_function_has_a_case() -> None:
    """A new public function is added to ``CASES`` or, if it takes no arrays, to ``WITHOUT_ARRAYS``."""
    assert set(CASES) & WITHOUT_ARRAYS == set()
    assert _public_functions() == set(CASES) | WITHOUT_ARRAYS


@settings(max_examples=4)
@given(seed=st.integers(0, 1000), data=st.data())
@pytest.mark.parametrize("name", CASES)
def test_all_kinds_of_arrays_give_the_same(name: str, seed: int, data: st.DataObject) -> None:
    case = CASES[name]
    plain = case.arguments(np.random.default_rng(seed))
    forms = [data.draw(st.sampled_from(sorted(FORMS))) for _ in plain]
    # Maps of `correlate` need not be numbers of one scale; a unit in per cent would scale them.
    given_ = [
        FORMS["quantity" if name == "correlate" and form == "quantity in another unit" else form](values, unit)
        for form, values, unit in zip(forms, plain, case.units, strict=True)
    ]
    if name == "Flat.apply" and forms[0] == "quantity in another unit":
        given_ = [plain[0] * u.electron]
    if name == "BeamModel.fit" and forms[2] == "quantity in another unit":
        # The unit of the signals stays.
        given_[2] = plain[2] * u.electron
    expected, found = (np.asarray(case.call(*arguments), dtype=float) for arguments in (plain, given_))
    np.testing.assert_allclose(found, expected, rtol=case.accuracy, atol=1e-12, err_msg=str(forms))


@settings(max_examples=3)
@given(seed=st.integers(0, 1000), data=st.data())
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.masked is not None])
def test_masked_values_never_count(name: str, seed: int, data: st.DataObject) -> None:
    case = CASES[name]
    plain = case.arguments(np.random.default_rng(seed))
    place = case.masked or 0
    mask = np.zeros(plain[place].shape, dtype=bool)
    mask.flat[seed % mask.size] = True
    kind = data.draw(st.sampled_from(sorted(MASKS)))
    hidden, missing = list(plain), list(plain)
    hidden[place] = MASKS[kind](plain[place], mask, case.units[place])
    missing[place] = np.where(mask, np.nan, plain[place])
    expected, found = (np.asarray(case.call(*arguments), dtype=float) for arguments in (missing, hidden))
    np.testing.assert_allclose(found, expected, rtol=case.accuracy, atol=1e-12, err_msg=kind)


@pytest.mark.parametrize("name", CASES)
def test_what_is_not_understood_is_refused_in_a_sentence(name: str) -> None:
    case = CASES[name]
    plain = case.arguments(np.random.default_rng(0))
    place = case.masked or 0
    wrong: list[Any] = [plain[place] * 1j, plain[place].astype(str), np.array("2019-10-28", dtype="M8[D]")]
    # Maps of `correlate` and images may have any unit.
    wrong.append(plain[place] * u.Unit(case.bad) if case.bad and name != "correlate" else [[1.0, 2.0], [3.0]])
    for values in wrong:
        arguments = [*plain[:place], values, *plain[place + 1 :]]
        with pytest.raises(permil.PermilError, match=r"; "):
            case.call(*arguments)


def test_ccddata_and_its_mask_are_understood() -> None:
    image, variance = _spots(np.random.default_rng(0))
    mask = np.zeros(image.shape, dtype=bool)
    mask[50:70, 50:70] = True
    plain = permil.measure_spots(image, variance, mask).catalog
    data = CCDData(image, unit="electron", mask=mask)
    np.testing.assert_array_equal(permil.measure_spots(data, variance).catalog.flux, plain.flux)
    assert len(plain) == 3


def test_a_position_that_is_masked_is_refused_where_it_is_needed() -> None:
    masked = np.ma.array([[0.0, 0.0], [1.0, 1.0]], mask=[[False, False], [False, True]])
    with pytest.raises(permil.PermilError, match="masked or not finite"):
        permil.check_plan(masked, CAMERA)
    with pytest.raises(permil.PermilError, match="not finite"):
        permil.ExposureList(masked[:, 0], masked[:, 1], [0.0, 0.0], [0.0, 1.0])


def test_a_pointing_that_is_masked_or_of_another_detector_is_refused() -> None:
    with pytest.raises(permil.PermilError, match="position is masked or not finite"):
        permil.divide(RUN["stack"], np.ma.array([1.0, 2.0], mask=[False, True]), _beam(), DETECTOR)
    with pytest.raises(permil.PermilError, match="the stack is of R22_S11, not of R22_S12"):
        permil.divide(RUN["stack"], [1.0, 2.0], _beam(), CAMERA["R22_S12"])


def test_a_masked_reading_leaves_its_file_out() -> None:
    readings = RUN["readings"]
    stack = permil.stack(RUN["paths"], RUN["calibration"], camera=CAMERA, photodiode=np.ma.array(readings, mask=[True, False]))
    assert [str(path) for path in stack.used] == [str(RUN["paths"][1])]
    assert stack.photodiode == readings[1]


def test_rows_of_a_catalog_are_flags_or_indices() -> None:
    flags = np.arange(9) % 2 == 1
    for rows in (
        flags,
        flags.tolist(),
        np.ma.array(flags | (np.arange(9) == 4), mask=np.arange(9) == 4),
        pd.Series(flags),
        [1, 3, 5, 7],
    ):
        np.testing.assert_array_equal(_SPOTS.select(rows).x, _SPOTS.x[1::2])
    for wrong in ([0.5], [9], np.ma.array([1, 2], mask=[True, False]), flags[:4]):
        with pytest.raises(permil.PermilError, match="rows"):
            _SPOTS.select(wrong)
