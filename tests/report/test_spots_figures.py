"""Figures of artificial stars."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

from permil.report.kit.figures import displacement_figure, png, svg
from permil.report.spots import figures

RNG = np.random.default_rng(3)
X, Y = (index.ravel() * 65.0 + 50 for index in np.indices((15, 15)))
FLUX = 10 ** RNG.uniform(4, 6, X.size)
SHAPE = (1024, 1024)


def drawn(figure: Figure) -> bytes:
    picture = png(figure)
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 1000
    return picture


def test_width_is_a_length() -> None:
    assert figures.spot_width(4.0, 4.0) == pytest.approx(2.0)
    # Twice the size, four times the moments, twice the width.
    assert figures.spot_width(4 * 5.1, 4 * 5.5) == pytest.approx(2 * figures.spot_width(5.1, 5.5))
    assert "squared length" in figures.WIDTH_CAPTION


def test_fluxes_and_widths_show_what_is_known() -> None:
    xx, yy = RNG.normal(5.3, 0.1, (2, X.size))
    xx[3], flux = np.nan, FLUX.copy()
    flux[:5] = -1.0
    figure = figures.fluxes_and_widths(X, Y, flux, xx, yy, shape=SHAPE)
    drawn(figure)
    flux_panel, width_panel = figure.axes[:2]
    assert flux_panel.get_title(loc="left") == "flux of 220 spots"
    assert width_panel.get_title(loc="left").startswith("width of 224 spots")
    assert np.allclose(width_panel.collections[0].get_array(), np.sqrt((xx + yy) / 2)[np.isfinite(xx)])


def test_figures_without_a_single_spot_can_be_drawn() -> None:
    nothing = np.zeros(0)
    drawn(figures.fluxes_and_widths(nothing, nothing, nothing, nothing, nothing, shape=SHAPE))
    drawn(displacement_figure(nothing, nothing, nothing, nothing, shape=SHAPE, title="nothing"))
    drawn(figures.repeatability(nothing, nothing, nothing, quantity="flux", unit="electrons"))
    drawn(figures.residual_maps([], extent=(0, 1, 0, 1)))


def test_every_residual_map_has_a_panel_centred_on_zero() -> None:
    names = ("flux", "dx", "dy", "XX", "YY")
    maps = [figures.SensorMap(name, RNG.normal(0.2, 1, (16, 16)), f"{name} (per mil)") for name in names]
    figure = figures.residual_maps(maps, extent=(-0.5, 1023.5, -0.5, 1023.5))
    drawn(figure)
    panels = [axes for axes in figure.axes if axes.get_title(loc="left")]
    assert [axes.get_title(loc="left") for axes in panels] == list(names)
    for axes in panels:
        low, high = axes.images[0].get_clim()
        assert low == pytest.approx(-high)


def test_arrows_are_enlarged_and_the_key_says_their_length() -> None:
    dx, dy = RNG.normal(0, 0.3, (2, X.size))
    dx[7] = np.nan
    figure = displacement_figure(X, Y, dx, dy, shape=SHAPE, title="distortion")
    drawn(figure)
    quiver = figure.axes[0].collections[0]
    assert X.size - 1 == quiver.N
    rms = np.sqrt(np.nanmean(dx**2 + dy**2))
    key = next(artist for artist in figure.axes[0].artists if hasattr(artist, "label"))
    assert f"{rms:.3g} px" in key.label


def test_growth_curve_marks_the_aperture_of_the_catalog() -> None:
    radii = np.array([3.0, 6.0, 12.0, 25.0, 35.0])
    fraction, error = np.array([0.48, 0.79, 0.95, 1.0, 1.001]), np.array([1e-3, 1e-3, 1e-4, 0.0, 1e-4])
    figure = figures.growth_curve(radii, fraction, error, flux_radius=12.0, reference=25.0)
    drawn(figure)
    assert b"<svg" in svg(figure)
    marks = [line.get_xdata() for line in figure.axes[0].lines if line.get_label() == "flux of the catalog"]
    assert list(marks[0]) == [12.0, 12.0]


def test_repeatability_states_the_ratio_of_scatter_and_error() -> None:
    predicted = np.sqrt(FLUX)
    figure = figures.repeatability(FLUX, 1.2 * predicted, predicted, quantity="flux", unit="electrons")
    drawn(figure)
    assert figure.axes[1].get_title(loc="left") == "root mean square ratio 1.200"


def test_exposure_scale_is_drawn_in_per_mil() -> None:
    number = np.arange(20.0)
    figure = figures.exposure_scale(number, 1 + 1e-4 * number, np.full(20, 1e-4), time_label="exposure")
    drawn(figure)
    assert np.allclose(figure.axes[0].containers[0].lines[0].get_ydata(), 0.1 * number)


def test_quality_maps_use_the_whole_scale() -> None:
    error = RNG.uniform(1.0, 2.0, (16, 16))
    figure = figures.quality_maps([figures.SensorMap("error", error, "per mil")], extent=(-0.5, 1023.5, -0.5, 1023.5))
    drawn(figure)
    low, high = figure.axes[0].images[0].get_clim()
    assert 1.0 <= low < high <= 2.0


def test_rings_that_are_hardly_known_do_not_decide_how_far_a_panel_reaches() -> None:
    radius, error = np.arange(20) * 10.0, np.full(20, 0.1)
    mean = RNG.normal(0, 0.1, 20)
    mean[0], error[0], mean[5] = 50.0, 40.0, np.nan
    figure = figures.radial_profiles(radius, [figures.RadialProfile("flux", mean, error)])
    drawn(figure)
    low, high = figure.axes[0].get_ylim()
    assert high == pytest.approx(-low)
    assert 0.1 < high < 1.0
    empty = np.full(20, np.nan)
    drawn(figures.radial_profiles(empty, [figures.RadialProfile("flux", empty, empty)]))
