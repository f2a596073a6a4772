"""Figures: labelled, robust against missing data, small enough for a page, without traces elsewhere."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree as ET

import matplotlib as mpl
import numpy as np
import pytest
from astropy.table import Table
from matplotlib.figure import Figure
from PIL import Image

import permil.report
from permil.camera import Camera
from permil.flat.composite import MosaicGrid, mosaic_grid
from permil.report import index as index_figures
from permil.report.detector import figures as detector_figures
from permil.report.detector import page
from permil.report.detector.figures import DisplayImage, flat_histogram, pointing_residuals
from permil.report.index import BeamView, Profile
from permil.report.kit.chart import Chart, chart_picture, colour_of, coloured, ticks
from permil.report.kit.figures import (
    DIVERGING,
    LED_COLOURS,
    NO_DATA,
    SEQUENTIAL,
    SPREAD,
    displacement_figure,
    embedded,
    led_colour,
    png,
    robust_limits,
    svg,
    symmetric_limits,
)

RNG = np.random.default_rng(2)
EXTENT = (-0.5, 511.5, -0.5, 503.5)


def _tree(markup: str) -> ET.Element:
    return ET.fromstring(str(markup))  # noqa: S314 - our own


def _beam_view() -> BeamView:
    u = np.linspace(-50, 50, 41)
    beam = np.exp(-(u[None, :] ** 2 + u[:, None] ** 2) / 8000)
    beam[:5, :5] = np.nan
    profile = Profile(u, np.exp(-(u**2) / 8000), np.full(u.size, 1e-3))
    node_x, node_y = (axis.ravel() for axis in np.meshgrid(u[::5], u[::5]))
    node_beam = np.exp(-(node_x**2 + node_y**2) / 8000)
    outlier = np.arange(node_x.size) == 12
    deviation = 1e-3 * RNG.standard_normal(node_x.size)
    maximum, extent = (0.3, -0.2), (-51.0, 51.0, -51.0, 51.0)
    return BeamView(
        extent, beam, 1e-3 * np.ones_like(beam), profile, profile, node_x, node_y, node_beam, deviation, deviation * 900, outlier,
        maximum, (0.5, 0.4),
    )  # fmt: skip


def _plane(camera: Camera, *, whole: bool) -> tuple[MosaicGrid, np.ndarray, list]:
    detectors = [detector for detector in camera.science if whole or detector.raft == "R22"]
    grid = mosaic_grid(detectors, 0.64)
    return grid, 1 + 0.01 * RNG.standard_normal(grid.shape), detectors


def _flat_maps(camera: Camera, *, whole: bool) -> list[Chart]:
    grid, image, detectors = _plane(camera, whole=whole)
    return page.flat_maps(image, image, grid, detectors)


def _scatter_maps(camera: Camera, *, whole: bool) -> list[Chart]:
    grid, image, detectors = _plane(camera, whole=whole)
    rejected = np.linspace(50, 500, len(detectors))
    rejected[0] = np.nan
    return page.scatter_maps(np.abs(image - 1), grid, rejected, detectors)


def _coverage(camera: Camera) -> list[Chart]:
    scan = np.stack(np.meshgrid(np.linspace(-60, 60, 12), np.linspace(-60, 60, 12)), axis=-1).reshape(-1, 2)
    return [page.coverage(scan, np.empty((0, 2)), _plane(camera, whole=False)[2], led="red")]


def _residuals(number: int) -> tuple[np.ndarray, object]:
    responses = 1 + 1e-3 * RNG.standard_normal((number, 63, 64))
    responses[0, :10] = np.nan
    return responses, pointing_residuals(responses, np.ones((63, 64)))


def _flat_and_scatter(camera: Camera, *, scatter: bool) -> list[Chart]:
    shown = DisplayImage(1 + 0.005 * RNG.standard_normal((250, 256)), (-0.5, 511.5, -0.5, 499.5), 2)
    spread = np.abs(0.002 * RNG.standard_normal((63, 64))) if scatter else None
    return detector_figures.flat_and_scatter(shown, 1.0, spread, EXTENT, camera["R22_S11"])


def _pointing_maps(camera: Camera) -> list[Chart]:
    (response,), _ = _residuals(1)
    images = (5e4 * response, response, response)
    return detector_figures.pointing_maps(images, extent=EXTENT, title="pointing 1", detector=camera["R22_S11"])


def _residual_maps(camera: Camera, *, number: int) -> list[Chart]:
    titles = [f"{index + 1}: X 0.0, Y 0.0 mm" for index in range(number)]
    rows = detector_figures.residual_maps(_residuals(number)[1], titles, extent=EXTENT, detector=camera["R22_S11"])
    return [chart for row in rows for chart in row]


def _histogram(_: Camera) -> list[Chart]:
    image = 1 + 1e-3 * RNG.standard_normal((100, 100))
    content = flat_histogram(image, np.full(image.shape, 1e-7), np.ones(image.shape, dtype=bool))
    assert content is not None
    return [detector_figures.histogram(content)]


def _steps(_: Camera) -> list[Chart]:
    step = np.array([1e-3, -3e-3, np.nan])
    return [detector_figures.amplifier_steps(["C00", "C01", "C02"], step, np.array([1e-4, 1e-4, np.nan]), limit=2e-3)]


def _levels(_: Camera) -> list[Chart]:
    error, rate = np.array([1e-4, np.nan]), np.array([30.0, np.nan])
    return detector_figures.pointing_levels(["1", "2"], _residuals(2)[1], error, rate, led="uv")


def _truth(camera: Camera) -> list[Chart]:
    ratio = DisplayImage(1 + 1e-3 * RNG.standard_normal((250, 256)), (-0.5, 511.5, -0.5, 499.5), 2)
    return detector_figures.truth_maps(ratio, np.ones((63, 64)), extent=EXTENT, detector=camera["R22_S11"])


def _timeline(_: Camera) -> list[Chart]:
    mjd = 59000 + np.arange(40) / 1440
    reading = 4 + 0.01 * RNG.standard_normal(40)
    reading[7] = np.nan
    purpose = np.array(["scan"] * 30 + ["pointing"] * 10)
    exposures = Table({"mjd": mjd, "photodiode": reading, "purpose": purpose})
    lost = Table({"mjd": mjd, "photodiode": np.full(40, np.nan), "purpose": purpose})
    return index_figures.photodiode_timeline({"red": exposures, "uv": lost})


CHARTS: dict[str, Callable[[Camera], list[Chart]]] = {
    "flat of a raft": lambda camera: _flat_maps(camera, whole=False),
    "flat of the focal plane": lambda camera: _flat_maps(camera, whole=True),
    "scatter of a raft": lambda camera: _scatter_maps(camera, whole=False),
    "scatter of the focal plane": lambda camera: _scatter_maps(camera, whole=True),
    "flat and scatter": lambda camera: _flat_and_scatter(camera, scatter=True),
    "flat without scatter": lambda camera: _flat_and_scatter(camera, scatter=False),
    "pointing": _pointing_maps,
    "residuals": lambda camera: _residual_maps(camera, number=5),
    "residuals of many pointings": lambda camera: _residual_maps(camera, number=12),
    "truth": _truth,
    "coverage": _coverage,
    "beam": lambda _: index_figures.beam_maps(_beam_view()),
    "beam profiles": lambda _: index_figures.beam_profiles(_beam_view()),
    "timeline": _timeline,
    "histogram": _histogram,
    "steps": _steps,
    "levels": _levels,
}


@pytest.mark.parametrize("name", CHARTS)
def test_charts_are_labelled_small_and_need_nothing_from_elsewhere(name: str, bin8: Camera) -> None:
    text = chart_picture([CHARTS[name](bin8)], "a < b").markup
    assert "http" not in text
    assert len(text) < 250_000
    root = _tree(text)
    assert root.get("aria-label") == "a < b"
    assert not [entry for entry in root.iter() for name, text in entry.attrib.items() if name != "href" and "nan" in text]
    labels = [entry.text for entry in root.iter("text") if "label" in entry.get("class", "")]
    # Panels side by side share the label of their rows.
    assert len(labels) >= 2
    assert len([entry for entry in root.iter("text") if entry.get("class") == "title"]) >= 1
    for label in labels:
        assert label in ("amplifier", "pointing", "pixels per bin", "response") or "(" in str(label)


def test_colours_of_an_image_are_those_of_the_map() -> None:
    image = np.array([[0.0, 1.0], [np.nan, 5.0]])
    with Image.open(io.BytesIO(coloured(image, (0.0, 1.0), SEQUENTIAL))) as picture:
        found = np.array(picture.convert("RGB"))
    low, high = (np.round(255 * np.array(mpl.colormaps[SEQUENTIAL](level)[:3])) for level in (0.0, 1.0))
    # Row 0 is at the foot, and what lies beyond the limits has the colour of the limit.
    np.testing.assert_array_equal(found[1], [low, high])
    np.testing.assert_array_equal(found[0, 1], high)
    np.testing.assert_array_equal(found[0, 0], np.round(255 * np.array(mpl.colors.to_rgb(NO_DATA))))
    assert colour_of(np.nan, (0.0, 1.0), SEQUENTIAL) == NO_DATA


def test_a_large_image_is_binned_to_the_size_of_its_axes() -> None:
    chart = Chart((100, 100), (0.0, 1.0), (0.0, 1.0))
    chart.image(np.ones((451, 451)), (0.0, 1.0, 0.0, 1.0), (0.0, 2.0), SEQUENTIAL)
    (shown,) = _tree(chart_picture([[chart]], "").markup).iter("image")
    content = base64.b64decode(shown.attrib["href"].partition(",")[2])
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.size == (65, 65)
    # 65 bins of 7 pixels extend beyond 451 pixels.
    assert float(shown.attrib["width"]) == pytest.approx(100 * 455 / 451, abs=0.06)


def test_a_region_is_a_link_with_a_title_and_a_verdict() -> None:
    chart = Chart((100, 100), (0.0, 1.0), (0.0, 1.0))
    corners = np.array([(0, 0), (1, 0), (1, 1), (0, 0)], dtype=float)
    chart.region(corners, "R22_S11 <1>", link="detectors/a.html", verdict="no")
    root = _tree(chart_picture([[chart]], "").markup)
    (link,) = root.iter("a")
    assert link.get("href") == "detectors/a.html"
    assert link[0].get("class") == "region no"
    assert link[0][0].text == "R22_S11 <1>"


@pytest.mark.parametrize(
    ("limits", "texts"),
    [
        ((0.0, 1.0), ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
        ((-0.5, 4095.5), ["0", "1000", "2000", "3000", "4000"]),
        ((0.9996, 1.0004), ["0.9996", "0.9998", "1", "1.0002", "1.0004"]),
        ((-2e-7, 2e-7), ["-2e-07", "-1e-07", "0", "1e-07", "2e-07"]),
    ],
)
def test_ticks_are_round_numbers(limits: tuple[float, float], texts: list[str]) -> None:
    assert [text for _, text in ticks(limits, 400.0)] == texts


def test_colour_maps_differ_and_leds_have_their_own_colours() -> None:
    assert len({DIVERGING, SEQUENTIAL, SPREAD}) == 3
    assert len(set(LED_COLOURS.values())) == len(LED_COLOURS) == 6
    assert led_colour("infrared") not in LED_COLOURS.values()


def _displacements() -> Figure:
    x, y = (axis.ravel() for axis in np.meshgrid(np.linspace(0, 500, 9), np.linspace(0, 500, 9)))
    return displacement_figure(x, y, 0.1 * np.sin(x), 0.1 * np.cos(y), shape=(512, 512), title="shifts")


def test_figures_of_matplotlib_are_small_and_need_nothing_from_elsewhere() -> None:
    content = png(_displacements())
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.format == "PNG"
    assert len(content) < 150_000
    text = svg(_displacements()).decode()
    assert text.rstrip().endswith("</svg>")
    assert "<text" not in text
    assert 'xlink:href="http' not in text


def test_drawing_leaves_the_settings_of_the_user_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(mpl.rcParams, "font.size", 23.0)
    monkeypatch.setitem(mpl.rcParams, "axes.titlesize", "xx-large")
    before = dict(mpl.rcParams)
    figure = _displacements()
    svg(figure)
    assert figure.axes[0].title.get_fontsize() == 9.5
    assert dict(mpl.rcParams) == before


def test_limits_leave_outliers_out() -> None:
    image = np.concatenate([np.linspace(-1, 1, 1001), [1e6, np.nan, -np.inf]])
    low, high = robust_limits(image)
    assert (low, high) == pytest.approx((-0.98, 0.98), abs=0.01)
    low, high = symmetric_limits(image + 0.5, centre=0.0)
    assert low == -high
    assert high == pytest.approx(1.48, abs=0.01)


def test_limits_of_constant_or_empty_images_are_an_interval() -> None:
    for image in (np.full(5, 3.0), np.zeros(5), np.full(5, np.nan), np.array([])):
        low, high = robust_limits(image)
        assert low < high
        low, high = symmetric_limits(image, centre=1.0)
        assert low < 1.0 < high


def test_a_picture_is_embedded_with_its_content() -> None:
    assert embedded(b"abc", "png") == "data:image/png;base64,YWJj"


def test_figures_do_without_the_global_state_of_pyplot() -> None:
    modules = list(Path(permil.report.__file__).parent.rglob("*.py"))
    assert len(modules) > 10
    assert not [path.name for path in modules if "pyplot" in path.read_text(encoding="utf-8")]
