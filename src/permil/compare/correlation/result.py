"""Result of `permil.compare.correlate`: numbers, a summary text, figures, a table row."""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from permil.arrays import FloatArray
from permil.compare.correlation.blocks import BlockScan, Corrected
from permil.compare.correlation.methods import MethodFigures, Null
from permil.rounding import rounded, rounded_like

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_BINS = 40
_SCATTER_POINTS = 5000


@dataclass(frozen=True)
class CorrelationResult:
    """Correlation of two maps whose neighbouring values are correlated.

    Attributes
    ----------
    r
        Pearson's correlation of the uncorrected values.
    r_err
        Its standard error, including the correlation of neighbours.
    interval
        68.3 % interval of the true correlation.
    n
        Number of points used.
    n_masked
        Number of points dropped because a value was masked or not finite.
    n_eff
        Number of independent pairs of values with the same scatter of r as unrelated maps with the covariances of these two: the number to
        quote.
    n_eff_test
        The same for what the relation between the maps does not explain, on which the p-value is based. It equals ``n_eff`` for unrelated
        maps, and differs if the common part is smoother or rougher than the remainder.
    p_value
        The p-value to quote: probability of an r as far from 0, of either sign, for unrelated maps. NaN with `reason` if the maps do not
        allow a statement.
    reason
        Why there is no p-value, and a remedy; empty if there is one.
    rank, rank_p_value
        Spearman's correlation, and its p-value with the same treatment of the ranks.
    length_a, length_b
        Correlation length of each map, in the units of x and y: where the fitted correlation, without white noise, is 1/e.
        Value and error; about 0 for white noise.
    corrected
        Reliabilities, r without measurement errors, and slopes (b per a, in the units given).
    methods
        Results of the alternative methods.
    scan
        Error of the block bootstrap against block size.
    nulls
        Correlations of surrogates by method, for plots: ``phases``, ``shifts``, ``rotations``.
    a, b
        The values used.
    seed
        Seed of the random steps.
    n_repeated
        Number of points dropped because position, values and errors equal those of another point.

    Examples
    --------
    >>> import numpy as np, permil
    >>> y, x = np.mgrid[:20, :20]
    >>> a, b = np.random.default_rng(0).standard_normal((2, 20, 20))
    >>> result = permil.correlate(a, a + b, x, y, methods=())
    >>> result.r > 5 * result.r_err
    True
    """

    r: float
    r_err: float
    interval: tuple[float, float]
    n: int
    n_masked: int
    n_eff: float
    n_eff_test: float
    p_value: float
    reason: str
    rank: float
    rank_p_value: float
    length_a: tuple[float, float]
    length_b: tuple[float, float]
    corrected: Corrected
    methods: tuple[MethodFigures, ...]
    scan: BlockScan | None
    nulls: dict[str, Null]
    seed: int
    a: FloatArray = field(repr=False)
    b: FloatArray = field(repr=False)
    n_repeated: int = 0

    def figures(self, name: str) -> MethodFigures:
        """Return the results of one method.

        Raises
        ------
        KeyError
            If the method was not run.
        """
        for method in self.methods:
            if method.name == name:
                return method
        raise KeyError(name)

    def row(self) -> dict[str, float | int | str]:
        """Return the result as one row of a table."""
        row: dict[str, float | int | str] = {
            "r": self.r,
            "r_err": self.r_err,
            "r_low": self.interval[0],
            "r_high": self.interval[1],
            "n": self.n,
            "n_masked": self.n_masked,
            "n_repeated": self.n_repeated,
            "n_eff": self.n_eff,
            "n_eff_test": self.n_eff_test,
            "p_value": self.p_value,
            "reason": self.reason,
            "rank": self.rank,
            "rank_p_value": self.rank_p_value,
            "length_a": self.length_a[0],
            "length_a_err": self.length_a[1],
            "length_b": self.length_b[0],
            "length_b_err": self.length_b[1],
            "seed": self.seed,
        }
        for name in ("reliability_a", "reliability_b", "r", "slope", "plain_slope"):
            estimate = getattr(self.corrected, name)
            column = "r_corrected" if name == "r" else name
            row[column], row[f"{column}_err"] = estimate.value, estimate.error
        for method in self.methods:
            row[f"{method.name}_r_err"], row[f"{method.name}_p_value"] = method.r_err, method.p_value
            if method.p_floor:
                row[f"{method.name}_p_floor"] = method.p_floor
        return row

    def __str__(self) -> str:
        """Return a summary for non-statisticians."""
        lines = [
            f"r = {rounded(self.r, self.r_err, plus_minus='±', sign=True)}   (68 % interval "
            + " to ".join(rounded_like(limit, self.r_err) for limit in self.interval)
            + ")",
            f"n = {self.n} values"
            + (f" ({self.n_masked} masked)" if self.n_masked else "")
            + (f" ({self.n_repeated} more are duplicates and count once)" if self.n_repeated else "")
            + f", equivalent to {self.n_eff:.0f} independent ones, since neighbours are correlated over "
            + f"{self.length_a[0]:.3g} (a) and {self.length_b[0]:.3g} (b)",
        ]
        if np.isnan(self.p_value):
            lines.append(f"No p-value: {self.reason}.")
        else:
            lines.append(f"p = {self.p_value:.2g}: {_meaning(self.p_value)}")
        lines.append(f"Spearman (ranks): {rounded_like(self.rank, self.r_err)}, p = {self.rank_p_value:.2g}")
        lines += self._corrected_lines()
        if self.methods:
            lines.append("All methods (error of r, p-value):")
        lines += [
            f"  {method.name:<17} {_cell(method.r_err)}  {_cell(method.p_value, is_limit=method.is_limit)}"
            + (f"  {method.note}" if method.note else "")
            for method in self.methods
        ]
        return "\n".join(lines)

    def _corrected_lines(self) -> list[str]:
        corrected = self.corrected
        lines = []
        if corrected.reliability_a.value != 1.0 or corrected.reliability_b.value != 1.0:
            lines += [
                f"Fraction of the variance that is not measurement error: {corrected.reliability_a} (a), {corrected.reliability_b} (b)",
                f"r without measurement errors: {corrected.r}",
            ]
        lines.append(f"Slope, b per a: {corrected.slope} (least squares: {corrected.plain_slope})")
        return lines

    def _repr_html_(self) -> str:
        """Return the summary as preformatted text."""
        return f"<pre>{escape(str(self))}</pre>"

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the scatter of the maps and the slope without measurement errors.

        Parameters
        ----------
        ax
            Axes to draw in; by default new ones.

        Returns
        -------
        matplotlib.axes.Axes
        """
        from permil.plotting import new_axes

        ax = new_axes() if ax is None else ax
        self.plot_scatter(ax)
        return ax

    def plot_all(self, figure: Figure | None = None) -> Figure:
        """Draw the scatter of the maps, the null distribution with the observed r, and the error against block size.

        Parameters
        ----------
        figure
            An empty figure; by default a new one.
        """
        import permil.plotting  # noqa: F401 - before matplotlib

        # isort: split
        from matplotlib.figure import Figure as NewFigure

        figure = NewFigure(figsize=(12.0, 3.8), layout="constrained") if figure is None else figure
        panels: Any = figure.subplots(1, 3)
        self.plot_scatter(panels[0])
        self.plot_null(panels[1])
        self.plot_blocks(panels[2])
        return figure

    def plot_scatter(self, axes: Axes) -> None:
        """Draw the values of both maps (at most 5000 of them) and the slope without measurement errors."""
        step = max(1, len(self.a) // _SCATTER_POINTS)
        axes.plot(self.a[::step], self.b[::step], ".", markersize=2, alpha=0.5)
        slope = self.corrected.slope if np.isfinite(self.corrected.slope.value) else self.corrected.plain_slope
        ends = np.array([self.a.min(), self.a.max()])
        axes.plot(ends, self.b.mean() + slope.value * (ends - self.a.mean()), color="black", label=f"slope {slope}")
        axes.set(xlabel="a", ylabel="b", title=f"r = {rounded(self.r, self.r_err, plus_minus='±', sign=True)}")
        axes.legend(fontsize="small")

    def plot_null(self, axes: Axes) -> None:
        """Draw the distribution of r of unrelated maps, and the observed r."""
        for name, null in self.nulls.items():
            chance = "" if np.isnan(null.p_value) else f", p {'<' if self.figures(name).is_limit else '='} {null.p_value:.2g}"
            axes.hist(null.draws, bins=_BINS, density=True, histtype="step", label=name + chance)
        width = 1.0 / np.sqrt(max(self.n_eff - 1.0, 1.0))
        grid = np.linspace(-4.5 * width, 4.5 * width, 300)
        axes.plot(
            grid,
            np.exp(-0.5 * (grid / width) ** 2) / width / np.sqrt(2.0 * np.pi),
            color="grey",
            label=f"n_eff = {self.n_eff:.0f}",
        )
        axes.axvline(self.r, color="black", label="observed")
        axes.set(
            xlabel="r of independent maps",
            ylabel="density",
            title="no p-value" if np.isnan(self.p_value) else f"p = {self.p_value:.2g}",
        )
        axes.legend(fontsize="small")

    def plot_blocks(self, axes: Axes) -> None:
        """Draw the error of the block bootstrap against block size, and the quoted error."""
        if self.scan is not None:
            axes.plot(self.scan.sizes, self.scan.errors, "o-", label="block bootstrap")
            if np.isfinite(self.scan.plateau):
                axes.axvline(self.scan.plateau, linestyle=":", color="grey", label="plateau")
            axes.set_xscale("log")
        axes.axhline(self.r_err, color="black", label="quoted")
        axes.set(xlabel="side of the blocks", ylabel="error of r", title="error against block size")
        axes.legend(fontsize="small")


def _meaning(p_value: float) -> str:
    """Return the meaning of a p-value."""
    if p_value < 0.001:
        return "unrelated maps correlate as strongly in fewer than 1 of 1000 cases."
    share = f"{100.0 * p_value:.2g} % of pairs of unrelated maps correlate as strongly"
    return share + (": the maps are related, according to this test." if p_value < 0.05 else ": this is consistent with chance.")


def _cell(value: float, *, is_limit: bool = False) -> str:
    return "      -" if np.isnan(value) else f"{'<' * is_limit + f'{value:.4f}':>7}"
