"""The studies behind docs/theory/correlation.md: false positives, power and coverage, measurement errors, stripes and rings, places.

Fields are cut from larger periodic ones. Kinds: ``white``; ``gauss-L`` with the correlation exp(-h^2 / 2 L^2); ``smooth-L``, white noise
smoothed with a Gaussian of sigma L; ``power-K`` with the spectrum k^-K. Pairs are written ``gauss-3/white``. For example

    python benchmarks/study_correlation.py size --pairs gauss-3/gauss-3 power-2/white --geometry masked --draws 2000
    python benchmarks/study_correlation.py size --side 400 --draws 200 --pairs gauss-10/gauss-10
    python benchmarks/study_correlation.py methods --draws 400
    python benchmarks/study_correlation.py power
    python benchmarks/study_correlation.py noise
    python benchmarks/study_correlation.py rings
    python benchmarks/study_correlation.py places --side 20 --draws 300
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage
from threadpoolctl import threadpool_limits

from permil.compare import CorrelationResult, correlate

FloatArray = NDArray[np.float64]

SIDE = 49
GAUSSIAN_PAIRS = ["gauss-3/gauss-3", "gauss-3/gauss-5", "gauss-3/gauss-10", "gauss-3/gauss-30", "gauss-10/gauss-10"]
SMOOTH_PAIRS = ["smooth-3/smooth-3", "smooth-3/smooth-5", "smooth-3/smooth-10", "smooth-3/smooth-30"]
WHITE_PAIRS = ["white/white", "white/gauss-10", "white/power-2", "white/power-3"]
POWER_LAW_PAIRS = ["gauss-3/power-2", "gauss-3/power-3", "gauss-10/power-2", "gauss-10/power-3", "gauss-30/power-2"]
POWER_LAWS = ["power-2/power-2", "power-2/power-3", "power-3/power-3"]
PAIRS = WHITE_PAIRS + GAUSSIAN_PAIRS + SMOOTH_PAIRS + POWER_LAW_PAIRS + POWER_LAWS
METHOD_PAIRS = ["white/white", "gauss-3/gauss-3", "gauss-3/gauss-10", "gauss-10/gauss-10", "power-2/power-2", "power-3/power-3"]
INJECTED_PAIRS = ["gauss-3/gauss-3", "smooth-2/smooth-2", "gauss-2/gauss-5", "gauss-5/gauss-2", "smooth-3/smooth-3"]
INJECTED_PAIRS += ["white/white", "white/gauss-5", "gauss-5/white", "power-2/gauss-2"]


class Field:
    """Draws of one kind of field on a square, cut from a larger periodic one.

    Parameters
    ----------
    kind
        See the module.
    side
        Cells along each side.
    margin
        How many times larger the periodic field is.
    fine
        Samples per cell.
    """

    def __init__(self, kind: str, side: int, *, margin: int, fine: int = 1) -> None:
        self.side, self.fine, self.periodic = side, fine, side * margin * fine
        name, _, number = kind.partition("-")
        k = np.hypot(fft.fftfreq(self.periodic)[:, None], fft.fftfreq(self.periodic)[None, :])
        if name == "white":
            spectrum = np.ones_like(k)
        elif name == "power":
            k[0, 0] = np.inf
            spectrum = k ** -float(number)
        else:
            exponent = {"gauss": 0.5, "smooth": 1.0}[name]
            spectrum = np.exp(-exponent * (2.0 * np.pi * k * float(number) * fine) ** 2)
        self.amplitude = np.sqrt(spectrum / spectrum.mean())

    def draws(self, rng: np.random.Generator) -> Iterator[FloatArray]:
        """Yield fields of variance 1, two to a transform."""
        size = (self.side + 2) * self.fine
        while True:
            noise = rng.standard_normal((2, self.periodic, self.periodic))
            field = fft.fft2((noise[0] + 1j * noise[1]) * self.amplitude) / self.periodic
            yield from (field.real[:size, :size], field.imag[:size, :size])


class Places:
    """Where fields are sampled: all cells of a grid, a grid with holes, or jittered points.

    Parameters
    ----------
    geometry
        ``grid``, ``masked`` (a rectangle, two columns and a tenth of the rest) or ``jittered`` (by up to half a cell).
    side
        Cells along each side.
    """

    def __init__(self, geometry: str, side: int) -> None:
        rng = np.random.default_rng(20)
        row, column = np.mgrid[:side, :side]
        self.geometry, self.side = geometry, side
        self.fine = 2 if geometry == "jittered" else 1
        keep = np.ones((side, side), bool)
        if geometry == "masked":
            keep[side // 5 : 2 * side // 5, side // 10 : side // 2] = False
            keep[:, 3 * side // 5 : 3 * side // 5 + 2] = False
            keep &= rng.random(keep.shape) > 0.1
        self.keep = keep
        shift = rng.uniform(-0.5, 0.5, (2, side, side)) if geometry == "jittered" else np.zeros((2, side, side))
        self.y, self.x = row + shift[0], column + shift[1]

    def sample(self, field: FloatArray, kind: str, rng: np.random.Generator) -> FloatArray:
        """Return the field at the places; masked ones are NaN."""
        if self.geometry == "jittered":
            if kind == "white":
                return rng.standard_normal(self.x.shape)
            return ndimage.map_coordinates(field, [2 * self.y + 2, 2 * self.x + 2], order=3)
        return np.where(self.keep, field[: self.side, : self.side], np.nan)


def pairs_of_maps(pair: str, places: Places, draws: int, seed: int) -> Iterator[tuple[FloatArray, FloatArray]]:
    """Yield pairs of independent maps."""
    rng = np.random.default_rng(seed)
    kinds = pair.split("/")
    margin = 4 if places.side < 200 else 2
    fields = [Field(kind, places.side, margin=margin, fine=places.fine).draws(rng) for kind in kinds]
    for _ in range(draws):
        a, b = (places.sample(next(field), kind, rng) for field, kind in zip(fields, kinds, strict=True))
        yield a, b


def print_row(*cells: object) -> None:
    """Print one row of a Markdown table."""
    print("| " + " | ".join(f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in cells) + " |", flush=True)


def study_size(options: argparse.Namespace) -> None:
    """Print how often independent maps are called related at 5 %, where a p-value is given."""
    places = Places(options.geometry, options.side)
    print_row("pair", "n_eff true", "n_eff median", "given", "rejected of given", "naive", "rank")
    print_row(*["---"] * 7)
    for pair in options.pairs or PAIRS:
        results = [
            correlate(a, b, places.x, places.y, methods=("naive",))
            for a, b in pairs_of_maps(pair, places, options.draws, options.seed)
        ]
        p_value, rank = (np.array([getattr(result, name) for result in results]) for name in ("p_value", "rank_p_value"))
        given = np.isfinite(p_value)
        naive = np.mean([result.figures("naive").p_value < 0.05 for result in results])
        true = 1.0 + 1.0 / np.mean([result.r**2 for result in results])
        rejected = [float(np.mean(p[given] < 0.05)) if given.sum() >= 20 else "-" for p in (p_value, rank)]
        print_row(
            pair,
            f"{true:.0f}",
            f"{np.median([r.n_eff for r in results]):.0f}",
            float(given.mean()),
            rejected[0],
            float(naive),
            rejected[1],
        )


def study_methods(options: argparse.Namespace) -> None:
    """Print the false positives at 5 % of every method, and of the summary where it is given."""
    places = Places(options.geometry, options.side)
    names = ("naive", "modified_t", "block_bootstrap", "block_jackknife", "phases", "shifts", "rotations")
    print_row("pair", "summary (given)", *names)
    print_row(*["---"] * (2 + len(names)))
    for pair in options.pairs or METHOD_PAIRS:
        results = [
            correlate(a, b, places.x, places.y, methods=names, resamples=options.resamples)
            for a, b in pairs_of_maps(pair, places, options.draws, options.seed)
        ]
        p_value = np.array([result.p_value for result in results])
        given = np.isfinite(p_value)
        summary = f"{np.mean(p_value[given] < 0.05):.3f} ({given.mean():.2f})" if given.sum() >= 20 else f"- ({given.mean():.2f})"
        print_row(pair, summary, *(float(np.mean([r.figures(name).p_value < 0.05 for r in results])) for name in names))


def study_power(options: argparse.Namespace) -> None:
    """Print how often an injected correlation is found at 5 %, and how often the 68 % intervals hold it."""
    places = Places(options.geometry, options.side)
    names = ("naive", "modified_t", "block_bootstrap", "block_jackknife", "shifts") if options.all_methods else ()
    print_row(
        "a / independent part of b", "n_eff median", "found", "interval holds", "r_err holds", "r mean", "r_err / scatter", *names
    )
    print_row(*["---"] * (7 + len(names)))
    rho = options.rho
    for pair in options.pairs or INJECTED_PAIRS:
        results: list[CorrelationResult] = []
        for a, c in pairs_of_maps(pair, places, options.draws, options.seed):
            b = rho * a + np.sqrt(1.0 - rho**2) * c
            results.append(correlate(a, b, places.x, places.y, methods=names, resamples=options.resamples))
        r, error = (np.array([getattr(result, name) for result in results]) for name in ("r", "r_err"))
        low, high = np.array([result.interval for result in results]).T
        holds = [np.mean([np.less(*(m := x.figures(name).interval)) and m[0] <= rho <= m[1] for x in results]) for name in names]
        print_row(
            pair,
            f"{np.median([result.n_eff for result in results]):.0f}",
            float(np.mean([result.p_value < 0.05 for result in results])),
            float(np.mean((low <= rho) & (rho <= high))),
            float(np.mean(np.abs(r - rho) <= error)),
            float(r.mean()),
            float(np.sqrt(np.mean(error**2)) / r.std()),
            *(float(share) for share in holds),
        )


def study_noise(options: argparse.Namespace) -> None:
    """Print the mean of the noise-corrected r and slope relative to the truth, with the error of that mean."""
    places = Places(options.geometry, options.side)
    print_row("pair", "reliability a, b", "r / true", "its error", "slope / true", "its error", "pull rms r", "pull rms slope")
    print_row(*["---"] * 8)
    rho = 0.6
    for pair in options.pairs or ("white/white", "gauss-3/gauss-3"):
        for share_a, share_b in ((1.0, 0.5), (0.7, 0.7), (0.5, 0.3), (0.3, 0.5), (0.3, 0.3)):
            rng = np.random.default_rng(options.seed + 1)
            found = []
            for a, c in pairs_of_maps(pair, places, options.draws, options.seed):
                b = rho * a + np.sqrt(1.0 - rho**2) * c
                # Errors of each point differ by a factor of two and more.
                shape_a, shape_b = rng.uniform(0.5, 1.5, (2, *a.shape))
                error_a, error_b = (
                    shape / np.sqrt(np.mean(shape**2)) * np.sqrt(1.0 / share - 1.0)
                    for shape, share in ((shape_a, share_a), (shape_b, share_b))
                )
                noisy = a + error_a * rng.standard_normal(a.shape), b + error_b * rng.standard_normal(a.shape)
                result = correlate(*noisy, places.x, places.y, a_err=error_a, b_err=error_b, methods=())
                found.append(
                    [
                        result.corrected.r.value,
                        result.corrected.slope.value,
                        result.corrected.r.error,
                        result.corrected.slope.error,
                    ]
                )
            ratio, slope_ratio, r_error, slope_error = np.array(found).T / rho
            root = np.sqrt(len(ratio))
            print_row(
                pair,
                f"{share_a}, {share_b}",
                float(ratio.mean()),
                float(ratio.std() / root),
                float(slope_ratio.mean()),
                float(slope_ratio.std() / root),
                float(np.sqrt(np.mean(((ratio - 1.0) / r_error) ** 2))),
                float(np.sqrt(np.mean(((slope_ratio - 1.0) / slope_error) ** 2))),
            )


def striped(
    x: FloatArray, y: FloatArray, centre: tuple[float, float] | None, rng: np.random.Generator, *, period: float
) -> FloatArray:
    """Return rings about a centre, or stripes if there is none: waves with periods about ``period`` at random phases, and noise."""
    along = 0.8 * x + 0.6 * y if centre is None else np.hypot(x - centre[0], y - centre[1])
    frequencies = 2.0 * np.pi / period * rng.uniform(0.7, 1.3, 12)
    phases = rng.uniform(0.0, 2.0 * np.pi, 12)
    profile = np.cos(along[..., None] * frequencies + phases).sum(axis=-1)
    return profile / np.sqrt(6.0) + 0.5 * rng.standard_normal(x.shape)


def study_rings(options: argparse.Namespace) -> None:
    """Print the false positives of stripes and rings, in common and in different directions."""
    places = Places(options.geometry, options.side)
    side = options.side
    print_row("maps", "n_eff true", "n_eff median", "given", "rejected of given", "naive")
    print_row(*["---"] * 6)
    corner, other = (-0.2 * side, -0.2 * side), (1.2 * side, -0.2 * side)
    cases = {
        "stripes, same direction": (None, None),
        "rings, same centre outside": (corner, corner),
        "rings, different centres": (corner, other),
        "rings, same centre inside": ((0.5 * side, 0.5 * side), (0.5 * side, 0.5 * side)),
    }
    for name, centres in cases.items():
        rng = np.random.default_rng(options.seed)
        results = []
        for _ in range(options.draws):
            maps = [striped(places.x, places.y, centre, rng, period=6.0) for centre in centres]
            results.append(correlate(*maps, places.x, places.y, methods=("naive",)))
        p_value = np.array([result.p_value for result in results])
        given = np.isfinite(p_value)
        print_row(
            name,
            f"{1.0 + 1.0 / np.mean([result.r**2 for result in results]):.0f}",
            f"{np.median([result.n_eff for result in results]):.0f}",
            float(given.mean()),
            float(np.mean(p_value[given] < 0.05)),
            float(np.mean([result.figures("naive").p_value < 0.05 for result in results])),
        )


def study_places(options: argparse.Namespace) -> None:
    """Print false positives and errors of r with several values at each place, and on lattices with unequal steps."""
    row, column = (axis.ravel().astype(float) for axis in np.mgrid[: options.side, : options.side])
    # Amplitudes of what is fixed, of what is new in each exposure, and of white noise; values at each place; length; ratio of the steps.
    cases = {
        "one value per place": ((1.0, 0.0, 0.0), (1.0, 0.0, 0.0), 1, "gauss-2", 1.0),
        "fixed map and noise / the same": ((1.0, 0.0, 0.5), (1.0, 0.0, 0.5), 4, "gauss-2", 1.0),
        "fixed map / new map in each exposure": ((1.0, 0.0, 0.0), (0.0, 1.0, 0.3), 4, "gauss-2", 1.0),
        "fixed and new maps / the same": ((1.0, 1.0, 0.3), (1.0, 1.0, 0.3), 4, "gauss-2", 1.0),
        "new maps / new maps": ((0.0, 1.0, 0.0), (0.0, 1.0, 0.0), 4, "gauss-2", 1.0),
        "new maps, two values at each place / the same": ((0.0, 1.0, 0.1), (0.0, 1.0, 0.1), 2, "gauss-2", 1.0),
        "white fixed map and noise / the same": ((1.0, 0.0, 1.0), (1.0, 0.0, 1.0), 4, "white", 1.0),
        "steps 1:6, one value": ((1.0, 0.0, 0.0), (1.0, 0.0, 0.0), 1, "gauss-2", 6.0),
        "steps 1:6, fixed map and noise / the same": ((1.0, 0.0, 0.5), (1.0, 0.0, 0.5), 4, "gauss-2", 6.0),
    }
    print_row("a / b", "n_eff true", "n_eff median", "given", "rejected of given", "r_err / scatter", "r_err holds")
    print_row(*["---"] * 7)
    for name, (*amplitudes, number, kind, ratio) in cases.items():
        rng = np.random.default_rng(options.seed)
        field = Field(kind, options.side, margin=4)
        draws = (draw[: options.side, : options.side].ravel() for draw in field.draws(rng))
        x, y = np.repeat(column, number), np.repeat(ratio * row, number)
        results = []
        for _ in range(options.draws):
            maps = []
            for fixed, new, noise in amplitudes:
                values = fixed * np.repeat(next(draws), number) + noise * rng.standard_normal(x.size)
                maps.append(values + new * np.column_stack([next(draws) for _ in range(number)]).ravel())
            results.append(correlate(*maps, x, y, methods=()))
        r, error, p_value = (np.array([getattr(result, part) for result in results]) for part in ("r", "r_err", "p_value"))
        given = np.isfinite(p_value)
        print_row(
            name,
            f"{1.0 + 1.0 / np.mean(r**2):.0f}",
            f"{np.median([result.n_eff for result in results]):.0f}",
            float(given.mean()),
            float(np.mean(p_value[given] < 0.05)),
            float(np.median(error) / r.std()),
            float(np.mean(np.abs(r) < error)),
        )


STUDIES = {
    "size": study_size,
    "methods": study_methods,
    "power": study_power,
    "noise": study_noise,
    "rings": study_rings,
    "places": study_places,
}


def main() -> None:
    """Run one study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--pairs", nargs="*", help="of kinds of fields")
    parser.add_argument("--geometry", choices=("grid", "masked", "jittered"), default="grid")
    parser.add_argument("--side", type=int, default=SIDE, help="cells along each side")
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--resamples", type=int, default=400, help="of each method")
    parser.add_argument("--rho", type=float, default=0.3, help="injected correlation")
    parser.add_argument("--all-methods", action="store_true", help="power: coverage of the other methods too")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with threadpool_limits(1):
        STUDIES[options.study](options)


if __name__ == "__main__":
    main()
