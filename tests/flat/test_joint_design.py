"""What a design cannot determine, against a singular value decomposition of the whole Jacobian."""

from __future__ import annotations

import numpy as np
import pytest
from joint_bench import QUINCUNX, detector_places, simulate

from permil.errors import FlatError
from permil.flat.joint.covariance import FlatCovariance
from permil.flat.joint.data import ExposureList
from permil.flat.joint.design import check_design, footprint
from permil.flat.joint.model import make_model
from permil.flat.joint.photodiode import PhotodiodeModel
from permil.flat.joint.solve import solve_joint

NOISE = 1e-4
SCAN = [(x, y) for x in np.linspace(-20, 20, 6) for y in np.linspace(-20, 20, 6)]
DESIGNS = {
    "scan": SCAN,
    "quincunx": [tuple(6 * point) for point in QUINCUNX],
    "scan and quincunx": [*SCAN, *(tuple(6 * point) for point in QUINCUNX)],
    "9 random": [tuple(point) for point in np.random.default_rng(0).uniform(-8, 8, (9, 2))],
}


def exposure_list(positions):
    x, y = np.array(positions, dtype=float).T
    return ExposureList(x, y, np.zeros(len(x)), np.arange(len(x), dtype=float))


def one_detector(pixels, pixel_mm, exposures):
    x, y, _ = detector_places(1, 1, pixels=pixels, pixel_mm=pixel_mm)["D00"]
    return footprint("A", x, y, np.arange(len(exposures)), NOISE)


def undetermined_by_brute_force(exposures, detectors, spacing_mm):
    """Orthonormal flats, mean taken off, in the null space of the Jacobian of beam, scales and response."""
    grid = make_model(exposures, detectors, spacing_mm=spacing_mm).patterns[0].grid
    pixels = [len(detector.x_mm) for detector in detectors]
    rows = []
    for number, detector in enumerate(detectors):
        before, after = sum(pixels[:number]), sum(pixels[number + 1 :])
        for exposure in detector.exposures:
            beam = grid.design(detector.x_mm - exposures.x_mm[exposure], detector.y_mm - exposures.y_mm[exposure]).toarray()
            scale = np.zeros((pixels[number], len(exposures)))
            scale[:, exposure] = 1
            response = np.hstack([np.zeros((pixels[number], before)), np.eye(pixels[number]), np.zeros((pixels[number], after))])
            rows.append(np.hstack([beam, scale, response]))
    jacobian = np.vstack(rows)
    strength, directions = np.linalg.eigh(jacobian.T @ jacobian)
    flats = directions[-sum(pixels) :, strength < 1e-11 * strength[-1]]
    flats = flats - flats.mean(axis=0)
    basis, size, _ = np.linalg.svd(flats, full_matrices=False)
    return basis[:, size > 1e-5]


@pytest.mark.parametrize("spacing", [5.0, 3.0])
@pytest.mark.parametrize("name", DESIGNS)
def test_undetermined_flats_are_those_of_brute_force(name, spacing):
    exposures = exposure_list(DESIGNS[name])
    detectors = [one_detector(12, 2.0, exposures)]
    report = check_design(exposures, detectors, spacing_mm=spacing, photodiode=PhotodiodeModel(2e-3, 0.0))
    expected = undetermined_by_brute_force(exposures, detectors, spacing)
    assert report.basis.shape[1] == expected.shape[1] == len(report.modes)
    np.testing.assert_allclose(np.linalg.svd(expected.T @ report.basis)[1], 1.0, atol=1e-4)
    assert [mode.name for mode in report.modes][:2] == ["gradient x", "gradient y"]


def test_nearly_undetermined_flats_are_those_of_the_dense_covariance():
    # Knots that do not fit the lattice of the dithers: its waves are determined, but badly.
    exposures = exposure_list(DESIGNS["quincunx"])
    detectors = [one_detector(12, 2.0, exposures)]
    report = check_design(exposures, detectors, spacing_mm=2.5, photodiode=PhotodiodeModel(2e-3, 0.0))
    grid = make_model(exposures, detectors, spacing_mm=2.5).patterns[0].grid
    x, y = detectors[0].x_mm, detectors[0].y_mm
    beams = [grid.design(x - c[0], y - c[1]).toarray() for c in exposures.positions]
    scales = [np.outer(np.ones(len(x)), row) for row in np.eye(len(exposures))]
    jacobian = np.vstack([np.hstack([beam, scale, np.eye(len(x))]) for beam, scale in zip(beams, scales, strict=True)]) / NOISE
    broad = np.full(jacobian.shape[1], 1e-2)
    broad[-len(x) :] = 0.0
    covariance = np.linalg.inv(jacobian.T @ jacobian + np.diag(broad))[-len(x) :, -len(x) :] - NOISE**2 / 5 * np.eye(len(x))
    centre = np.eye(len(x)) - 1 / len(x)
    strength = np.linalg.eigvalsh(centre @ covariance @ centre)
    expected = np.sqrt(np.maximum(strength, 0.0) / len(x)) > 1e-3
    assert report.basis.shape[1] == expected.sum() > 3


@pytest.mark.parametrize(("spacing", "least"), [(2.0, 16), (3.0, 4)])
def test_quincunx_leaves_the_waves_of_its_lattice(spacing, least):
    exposures = exposure_list(DESIGNS["quincunx"])
    detectors = [one_detector(12, 2.0, exposures)]
    report = check_design(exposures, detectors, spacing_mm=spacing, photodiode=PhotodiodeModel(2e-3, 0.0))
    waves = [np.array(mode.wave_vector) for mode in report.modes if mode.name == "lattice" and mode.part > 0.99]
    assert len(waves) >= least
    turns = 6 * (QUINCUNX - QUINCUNX[2]) @ np.array(waves).T / (2 * np.pi)
    np.testing.assert_allclose(turns, np.round(turns), atol=0.02)


def test_detectors_without_common_exposures_are_named():
    places = detector_places(2, 1, pixels=8, pixel_mm=2.0)
    positions = [tuple(place[2] + point) for place in places.values() for point in DESIGNS["9 random"]]
    exposures = exposure_list(positions)
    detectors = [
        footprint(name, x, y, np.arange(9) + 9 * number, NOISE) for number, (name, (x, y, _)) in enumerate(places.items())
    ]
    report = check_design(exposures, detectors, spacing_mm=5.0, photodiode=PhotodiodeModel(2e-3, 0.0))
    expected = undetermined_by_brute_force(exposures, detectors, 5.0)
    assert report.basis.shape[1] == expected.shape[1]
    sets = [mode.detectors for mode in report.modes if mode.name == "set of detectors"]
    assert sets in ([("D00",)], [("D10",)])
    # Only the photodiode ties the two: their levels differ by its noise, averaged over nine exposures each.
    assert 2e-3 / 3 / np.sqrt(2) < report.level_error[0] < 2e-3


def test_predicted_errors_are_those_of_the_solution():
    campaign = simulate(np.random.default_rng(2), pixels=8, pixel_mm=2.0)
    photodiode = PhotodiodeModel(2e-3, 0.0)
    planned = [
        footprint(detector.name, detector.x_mm, detector.y_mm, detector.exposures, np.sqrt(detector.variance))
        for detector in campaign.detectors
    ]
    report = check_design(campaign.exposures, planned, spacing_mm=4.0, photodiode=photodiode)
    solution = solve_joint(
        campaign.exposures, campaign.detectors, spacing_mm=4.0, with_drift=False, geometry=False, position_errors=False
    )
    errors = FlatCovariance(solution, campaign.detectors)
    found = np.sqrt(np.diag(errors.composite_gradient()[1]))
    ratio = solution.prior.photodiode.white / photodiode.white
    np.testing.assert_allclose(report.gradient_error * ratio, found, rtol=0.05)
    assert report.large_scale_error * ratio == pytest.approx(np.sqrt(errors.modes_and_shared(2, {})[0].total), rel=0.05)
    assert report.counts() == {"gradient x": 1, "gradient y": 1}


def test_a_missing_photodiode_leaves_the_gradient_to_the_prior():
    exposures = exposure_list(SCAN)
    blind = ExposureList(exposures.x_mm, exposures.y_mm, np.full(len(SCAN), np.nan), exposures.time)
    detectors = [one_detector(10, 2.0, exposures)]
    known = check_design(exposures, detectors, spacing_mm=5.0, photodiode=PhotodiodeModel(2e-3, 0.0))
    unknown = check_design(blind, detectors, spacing_mm=5.0, photodiode=PhotodiodeModel(2e-3, 0.0))
    assert (unknown.gradient_error > 100 * known.gradient_error).all()


def test_too_many_super_pixels_are_refused():
    exposures = exposure_list(SCAN[:2])
    x = np.linspace(0, 10, 20_001)
    with pytest.raises(FlatError, match="use coarser ones"):
        check_design(
            exposures,
            [footprint("A", x, x, np.arange(2), NOISE)],
            spacing_mm=5.0,
            photodiode=PhotodiodeModel(2e-3, 0.0),
        )


# append to tests/flat/test_joint_design.py
def test_untied_sets_are_named_where_the_gradient_is_mostly_their_levels():
    # Six rafts in a row, each read alone: the gradient is nearly a step from raft to raft.
    positions, detectors = [], []
    x, y, _ = detector_places(1, 1, pixels=4, pixel_mm=2.0)["D00"]
    for raft in range(6):
        seen = len(positions) + np.arange(9)
        positions += [(40.0 * raft + dx, dy) for dx, dy in DESIGNS["9 random"]]
        detectors += [footprint(f"R{raft}{half}", x + 40.0 * raft + 10 * half, y, seen, NOISE) for half in range(3)]
    report = check_design(exposure_list(positions), detectors, spacing_mm=5.0, photodiode=PhotodiodeModel(2e-3, 0.0))
    assert report.counts()["set of detectors"] == 5
    assert {mode.detectors for mode in report.modes if mode.name == "set of detectors"} < {
        (f"R{raft}0", f"R{raft}1", f"R{raft}2") for raft in range(6)
    }
