"""Figures of stars against flats and of the three hypotheses."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

from permil.report.compare import figures
from permil.report.compare.page import naive_text
from permil.report.kit.figures import png, svg
from permil.report.kit.results import MISSING, format_chance, plain_sentence

RNG = np.random.default_rng(6)
EXTENT = (-0.5, 1023.5, -0.5, 1023.5)
NOTHING = np.zeros(0)


def drawn(figure: Figure) -> None:
    assert png(figure).startswith(b"\x89PNG")
    assert b"<svg" in svg(figure)


def test_scatter_has_the_lines_of_the_fit_and_of_the_hypotheses() -> None:
    flat = RNG.normal(0, 3, 3000)
    star = 0.5 * flat + RNG.normal(0, 2, 3000)
    star[:10] = np.nan
    figure = figures.flux_against_flat([figures.Cloud("stars", flat, star, 0.5, 0.02)], {"efficiency": 1.0, "pixel area": 0.0})
    drawn(figure)
    axes = figure.axes[0]
    slopes = {
        line.get_label(): np.ptp(line.get_ydata()) / np.ptp(line.get_xdata()) for line in axes.lines if ":" in line.get_label()
    }
    assert slopes == pytest.approx({"efficiency: slope 1": 1.0, "pixel area: slope 0": 0.0, "fitted: slope 0.500 ± 0.020": 0.5})
    groups = next(line for line in axes.lines if line.get_label() == "means of 12 groups")
    fitted = np.polyfit(groups.get_xdata(), groups.get_ydata(), 1)[0]
    assert fitted == pytest.approx(0.5, abs=0.05)


def test_contours_hold_the_shares_of_points_that_the_page_names() -> None:
    flat, star = RNG.normal(0, 1, (2, 20000))
    figure = figures.flux_against_flat([figures.Cloud("stars", flat, star, np.nan, np.nan)], {})
    contours = next(entry for entry in figure.axes[0].collections if hasattr(entry, "levels"))
    inside = [np.mean([path.contains_points(np.column_stack([flat, star]))]) for path in contours.get_paths()]
    assert inside == pytest.approx([0.9, 0.6, 0.3], abs=0.05)


def test_maps_of_a_row_share_their_colours() -> None:
    flat = RNG.normal(0, 3, (32, 32))
    pair = figures.MapPair("flux", "per mil", flat, 0.5 * flat)
    figure = figures.map_pairs([pair], extent=EXTENT)
    drawn(figure)
    predicted, shown, difference = (axes.images[0] for axes in figure.axes[:3])
    assert predicted.get_clim() == shown.get_clim() == difference.get_clim()
    low, high = shown.get_clim()
    assert low == pytest.approx(-high)
    np.testing.assert_allclose(difference.get_array(), -0.5 * flat)


def test_a_prediction_far_above_the_stars_is_divided_and_says_so() -> None:
    flat, star = RNG.normal(0, 1, (2, 32, 32))
    figure = figures.map_pairs([figures.MapPair("XX", "px", 300 * flat, star)] * 2, extent=EXTENT)
    drawn(figure)
    assert [entry.get_text() for entry in figure.axes[0].texts] == ["divided by 100"]
    np.testing.assert_allclose(figure.axes[0].images[0].get_array(), 3 * flat)
    assert figure.axes[2].images[0].get_array().mask.all()


def test_scales_are_in_order_with_single_stars_first() -> None:
    series = figures.ScaleSeries("flux", np.array([0.0, 16.0, 64.0]), np.array([0.5, 0.6, 0.7]), np.array([0.02, 0.03, 0.1]))
    other = figures.ScaleSeries("dx", np.array([16.0]), np.array([0.1]), np.array([np.nan]))
    figure = figures.correlation_by_scale({"flux": [series], "shifts": [other]})
    drawn(figure)
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["single stars", "16", "64"]


def test_the_null_distribution_has_the_curves_of_both_counts() -> None:
    draws = {"phases": RNG.normal(0, 0.1, 400), "shifts": np.append(RNG.normal(0, 0.1, 5), np.full(395, np.nan))}
    figure = figures.null_distribution(draws, r=0.3, n_eff=101.0, n=1001.0)
    drawn(figure)
    axes = figure.axes[0]
    heights = {line.get_label(): float(np.max(line.get_ydata())) for line in axes.lines}
    # The height of a normal curve of the standard deviation 1 / sqrt(n - 1).
    assert heights["effective number, as quoted"] == pytest.approx(10 / np.sqrt(2 * np.pi), rel=1e-3)
    assert heights["every star independent"] == pytest.approx(np.sqrt(1000 / (2 * np.pi)), rel=1e-3)
    # Five draws are no distribution.
    names = [entry.get_text() for entry in axes.get_legend().get_texts()]
    assert "400 phases" in names
    assert not any("shifts" in name for name in names)


def test_fractions_that_are_hardly_known_do_not_decide_how_far_a_panel_reaches() -> None:
    value, error = np.array([[0.6, 0.5], [0.3, -9.0], [0.1, 3.0]]), np.array([[0.05, 0.1], [0.04, 50.0], [0.02, 9.0]])
    panel = figures.FractionPanel("by scale", ("total", "16-32 px"), value, error)
    figure = figures.fractions([panel], ("efficiency", "pixel area", "diffusion"))
    drawn(figure)
    low, high = figure.axes[0].get_ylim()
    assert -0.5 < low < 0 < 1 < high < 1.5


def test_figures_without_a_single_value_can_be_drawn() -> None:
    drawn(figures.flux_against_flat([figures.Cloud("stars", NOTHING, NOTHING, np.nan, np.nan)], {"efficiency": 1.0}))
    empty = np.full((4, 4), np.nan)
    drawn(figures.map_pairs([figures.MapPair("flux", "per mil", empty, empty)], extent=EXTENT))
    drawn(figures.correlation_by_scale({"flux": []}))
    drawn(figures.null_distribution({}, r=np.nan, n_eff=np.nan, n=np.nan))
    drawn(figures.error_by_block(NOTHING, NOTHING, quoted=np.nan, naive=np.nan, plateau=np.nan))
    panel = figures.FractionPanel("by scale", ("total",), np.full((3, 1), np.nan), np.full((3, 1), np.nan))
    drawn(figures.fractions([panel], ("a", "b", "c")))
    drawn(figures.ring_profile(NOTHING, NOTHING, NOTHING))


def test_the_error_by_block_marks_the_plateau_and_both_errors() -> None:
    side, error = np.array([20.0, 40.0, 80.0]), np.array([0.02, 0.03, 0.03])
    figure = figures.error_by_block(side, error, quoted=0.031, naive=0.01, plateau=40.0)
    drawn(figure)
    labels = {entry.get_text() for entry in figure.axes[0].get_legend().get_texts()}
    assert {"quoted: 0.031", "every star independent: 0.010", "constant above 40 px"} <= labels


@pytest.mark.parametrize(
    ("chance", "expected"),
    [
        (np.nan, MISSING),
        (0.0, "< 10⁻⁹⁹"),
        (2.79e-11, "2.8 \N{MULTIPLICATION SIGN} 10⁻¹¹"),
        (9.96e-4, "1.0 \N{MULTIPLICATION SIGN} 10⁻³"),
        (0.034, "0.034"),
        (1.0, "1"),
    ],
)
def test_p_values_are_short(chance: float, expected: str) -> None:
    assert format_chance(chance) == expected


@pytest.mark.parametrize(
    ("ratio", "expected"), [(2.24, "2.2 times too small"), (1.0, "about right"), (0.5, "2.0 times too large")]
)
def test_the_naive_error_is_put_into_words(ratio: float, expected: str) -> None:
    assert expected in naive_text(ratio)


def test_sentences_have_signs_and_units_of_pages_and_keep_hyphens() -> None:
    written = plain_sentence("p-value: change -0.70 +- 0.10 per mil, periods 16-32 px (-3.1 sigma)")
    assert written == "p-value: change \N{MINUS SIGN}0.70 ± 0.10 ‰, periods 16-32 px (\N{MINUS SIGN}3.1 times its error)"
