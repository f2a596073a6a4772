"""Response of stars to a flat: kernels of flux, position and size, pixel by pixel, and their application to maps.

To first order a measurement m of a star changes by ``sum_x k_m(x) dI(x)`` when its light changes by dI. For the flux in a circle, k is
the part of each pixel in the circle over the flux; for adaptive moments, defined by ``sum W I g = 0``, it is ``-J^-1 W g`` with
``J = d(sum W I g) / d(parameters)`` (implicit function theorem). With the star's light p per pixel and ``F - 1 = laplacian(phi)``,

- efficiency Q = F - 1 changes the light by ``p Q``: kernel ``k p`` on F - 1;
- pixel area, ``d = -grad phi``, by ``-div(p d)``: kernel ``div(p grad k)`` on phi;
- diffusion, ``delta sigma^2 = 2 phi``, by ``laplacian(p phi)``: kernel ``p laplacian(k)`` on phi.

Charge is moved across the borders of pixels, with p on them to sixth order. The background under a star (glow, sky) goes through the
same sensor: it adds uniform light to p, less the part of its structure that the subtracted background follows.

The subtracted background under stars acts as a filter on uniform light. The background was measured between the stars
(`permil.spots.background`): planes in boxes, joined by a spline. It follows waves much longer than the boxes, which leave no residual.
For shorter waves the pixels between the stars sample the opposite phase: the background then has the wrong sign, and the residual at a
star is larger than the wave itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.spatial import cKDTree
from scipy.special import j0, j1

from permil._kernels import compare as kernels
from permil._kernels import spots as spot_kernels
from permil.arrays import BoolArray, Float32Array, FloatArray, IntArray
from permil.compare.scales import Band, laplacian_eigenvalues
from permil.compare.stars.profile import StarProfile
from permil.engine import threaded_map
from permil.errors import CompareError
from permil.spots.background import fit_background

_BOXES = 9
"""Number of boxes along a side of the test square."""
_RIM = 2.5
"""Width of its border without stars, boxes."""
_DIRECTIONS = 9
_PERIODS_PER_OCTAVE = 4
_SHORTEST, _LONGEST = 0.4, 6.0
"""Limits of the tested periods, in boxes: shorter waves are not followed, longer ones completely."""
_LEAST_SEEN = 0.3
"""Smallest response of uniform light in the aperture to a wave for which the background is relevant."""

FLUX, DX, DY, XX, YY, XY = range(6)
QUANTITIES = ("flux", "dx", "dy", "xx", "yy", "xy")
"""Measured quantities of a star: flux as ratio, position in pixels, moments in pixel^2."""
SIGNATURE = (0, 1, 1, 2, 2)
"""Index of the kind (efficiency, pixel area, diffusion) whose signature is flux, dx, dy, xx and yy."""
MARGIN = 5
"""Pixels that a stamp must reach beyond the circle and beyond the weight."""
WEIGHT_REACH = 5.0
"""Sigmas at which the weight of the moments ends."""
_PARTS = 2
"""Number of parts of the stars processed concurrently; fixed, so that sums are identical without threads."""
_ROWS_TOGETHER = 64.0
"""Height of the strips in which stars are processed from left to right, pixels."""
_NOISE_GRID = 512
"""Side of the square (pixels) on which noise of the flat is propagated."""


@dataclass(frozen=True)
class BackgroundFilter:
    """Parameters of the measurement of the background under stars; lengths in pixels.

    Attributes
    ----------
    box
        Side of the boxes.
    mask_radius
        Radius around each star that was excluded from the background.
    pitch
        Distance of neighbouring stars.
    """

    box: float = 64.0
    mask_radius: float = 28.0
    pitch: float = 65.0

    def unseen(self, shortest: float, longest: float, radius: float) -> float:
        """Return the residual response of uniform light in an aperture to a band of periods, after background subtraction.

        All modes of the band have equal weight.

        Parameters
        ----------
        shortest, longest
            Limits of the band, pixels.
        radius
            Radius of the aperture, pixels.
        """
        if np.isinf(longest):
            longest = 4 * shortest
        periods = np.geomspace(max(shortest, 1.0), longest, 31)[1::2]
        angle = 2 * np.pi * radius / periods
        seen = 2 * j1(angle) / angle
        known, followed = _followed(self)
        at = np.interp(np.log(periods), np.log(known), followed, left=0.0, right=1.0)
        left = 1 - np.where(seen > _LEAST_SEEN, at / np.maximum(seen, _LEAST_SEEN), 0.0)
        # A map has more modes at the shorter periods.
        return float(np.average(left, weights=periods**-2.0))


def typical_pitch(x: FloatArray, y: FloatArray, exposure: IntArray) -> float:
    """Return the median nearest-neighbour distance of stars in the exposure with the most stars; NaN for single stars."""
    numbers, counts = np.unique(exposure, return_counts=True)
    members = exposure == numbers[np.argmax(counts)]
    if members.sum() < 2:
        return float("nan")
    points = np.stack([x[members], y[members]], axis=1)
    distance, _ = cKDTree(points).query(points, k=2)
    return float(np.median(np.asarray(distance)[:, 1]))


@lru_cache(maxsize=8)
def _followed(background: BackgroundFilter) -> tuple[FloatArray, FloatArray]:
    """Return periods, and the response of the background at stars, averaged over directions and positions in boxes."""
    box = round(background.box)
    side = _BOXES * box
    rng = np.random.default_rng(0)
    periods = np.geomspace(_SHORTEST * box, _LONGEST * box, round(_PERIODS_PER_OCTAVE * np.log2(_LONGEST / _SHORTEST)))
    found = np.zeros((_DIRECTIONS, periods.size))
    along = np.arange(side, dtype=np.float64)
    part, image = np.empty((side, side)), np.empty((side, side), dtype=np.float32)
    for number in range(_DIRECTIONS):
        x, y = _lattice(background.pitch, side, rng)
        free = _between(x, y, background.mask_radius, side)
        inside = (np.abs(x - side / 2) < side / 2 - _RIM * box) & (np.abs(y - side / 2) < side / 2 - _RIM * box)
        x, y = x[inside], y[inside]
        direction = np.pi * (number + rng.random()) / _DIRECTIONS
        for column, period in enumerate(periods):
            kx, ky = 2 * np.pi / period * np.cos(direction), 2 * np.pi / period * np.sin(direction)
            cos_x, sin_x, cos_y, sin_y = (wave(k * along) for k in (kx, ky) for wave in (np.cos, np.sin))
            level = []
            # Real and imaginary part of a plane wave.
            for along_y in ((cos_y, -sin_y), (sin_y, cos_y)):
                np.matmul(np.stack(along_y, axis=1), np.stack([cos_x, sin_x]), out=part)
                image[:] = part
                level.append(fit_background(image, free, box=box).at(x, y))
            found[number, column] = ((level[0] + 1j * level[1]) * np.exp(-1j * (kx * x + ky * y))).real.mean()
    return periods, found.mean(axis=0)


def _lattice(pitch: float, side: int, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Return a square lattice, slightly rotated and randomly shifted, that covers a square with a margin."""
    reach = np.arange(-np.ceil(side / pitch), np.ceil(side / pitch) + 1)
    i, j = (node.ravel() + shift for node, shift in zip(np.meshgrid(reach, reach), rng.random(2), strict=True))
    angle = rng.uniform(-0.1, 0.1)
    x = side / 2 + pitch * (np.cos(angle) * i - np.sin(angle) * j)
    y = side / 2 + pitch * (np.sin(angle) * i + np.cos(angle) * j)
    return x, y


def _between(x: FloatArray, y: FloatArray, radius: float, side: int) -> BoolArray:
    free = np.ones((side, side), dtype=bool)
    spot_kernels.clear_discs(free, x, y, radius)
    return free


@dataclass(frozen=True)
class StarShapes:
    """Stars in the form of the compiled kernels: positions, profiles, and method of measurement.

    Attributes
    ----------
    x, y : ndarray, shape (n,)
        Positions, pixels.
    glow : ndarray, shape (n,)
        Uniform light per pixel under each star, divided by its flux in the aperture.
    fractions : ndarray, shape (components,)
        Fraction of the light in each Gaussian component.
    covariances : ndarray, shape (n, components, 3)
        xx, yy and xy of each component, pixel^2.
    moments : ndarray, shape (n, 3)
        Adaptive moments xx, yy, xy, pixel^2.
    radius
        Radius of the aperture of the flux, pixels.
    adaptive
        Whether positions and moments are adaptive; otherwise they are unweighted in the aperture.
    half
        Half the side of the stamp of a star, pixels.
    """

    x: FloatArray
    y: FloatArray
    glow: FloatArray
    fractions: FloatArray
    covariances: FloatArray
    moments: FloatArray
    radius: float
    adaptive: bool
    half: int


@dataclass(frozen=True)
class StarPlaces:
    """Positions and widths of stars; arrays of shape (n,).

    Attributes
    ----------
    x, y
        Positions, pixels.
    xx, yy, xy
        Adaptive moments, pixel^2, including the pixel: preferably those of the spot, which are less noisy; NaN: the mean star.
    glow
        Background per pixel under each star divided by its flux in the aperture, which also responds to the flat; None: none.
    """

    x: FloatArray
    y: FloatArray
    xx: FloatArray
    yy: FloatArray
    xy: FloatArray
    glow: FloatArray | None = None

    @classmethod
    def round(cls, x: FloatArray, y: FloatArray) -> StarPlaces:
        """Return positions of stars that all have the shape of the mean star."""
        unknown = np.full(x.size, np.nan)
        return cls(np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64), unknown, unknown, unknown)

    def __len__(self) -> int:
        """Return the number of stars."""
        return self.x.size

    def __getitem__(self, rows: slice | BoolArray | NDArray[np.integer]) -> StarPlaces:
        """Return some of the stars."""
        glow = None if self.glow is None else self.glow[rows]
        return StarPlaces(self.x[rows], self.y[rows], self.xx[rows], self.yy[rows], self.xy[rows], glow)

    @property
    def even_light(self) -> FloatArray:
        """Glow of each star; 0 if unknown."""
        return np.zeros(self.x.size) if self.glow is None else np.maximum(np.nan_to_num(self.glow), 0.0)


@dataclass(frozen=True)
class StarTemplates:
    """Predictions for stars, band by band, if the flat were of one kind.

    Attributes
    ----------
    templates : ndarray, shape (n, 6, 3, bands)
        Change of each quantity (`permil.compare.stars.response.QUANTITIES`) for efficiency, pixel area, diffusion.
    instruments : ndarray, shape (n, 6, bands)
        The signature of each kind with equal weight for all wavelengths: flux (efficiency), dx and dy (pixel area), xx and yy
        (diffusion); 0 for xy.
    """

    templates: FloatArray
    instruments: FloatArray


@dataclass(frozen=True)
class StarResponse:
    """The measurement of a star: its profile, the aperture of its flux, and the method for position and size.

    Attributes
    ----------
    profile
        Light of the mean star.
    aperture
        Radius of the aperture of the flux, pixels.
    adaptive
        Adaptive moments (HSM, ``SdssShape``); otherwise unweighted moments in the aperture.
    background
        Filter of the background under the stars, which removes the part of uniform light that it follows. None: no filter.
    """

    profile: StarProfile
    aperture: float = 12.0
    adaptive: bool = True
    background: BackgroundFilter | None = field(default_factory=BackgroundFilter)

    def __post_init__(self) -> None:
        """Check the aperture.

        Raises
        ------
        CompareError
            If the aperture is not positive.
        """
        if not self.aperture > 0:
            raise CompareError(
                "the aperture of the stars is not positive", remedy="give its radius in pixels", value=self.aperture
            )

    def half(self, moments: FloatArray) -> int:
        """Return half the side of the stamp for stars with these moments (n, 3), pixels."""
        widest = float(moments[:, :2].max()) if len(moments) else self.profile.moment
        reach = max(self.aperture, WEIGHT_REACH * math.sqrt(widest)) if self.adaptive else self.aperture
        return math.ceil(reach) + MARGIN

    def moments(self, places: StarPlaces) -> FloatArray:
        """Return adaptive moments (n, 3); those of the mean star if unknown."""
        mean = (self.profile.moment, self.profile.moment, 0.0)
        given = (places.xx, places.yy, places.xy)
        known = np.isfinite(places.xx) & np.isfinite(places.yy) & np.isfinite(places.xy)
        return np.stack([np.where(known, moment, typical) for moment, typical in zip(given, mean, strict=True)], axis=1)

    def predict(
        self, places: StarPlaces, excess: Float32Array, potential: Float32Array, bands: tuple[Band, ...] | None = None
    ) -> StarTemplates:
        """Return the response of stars to bands of a flat.

        Parameters
        ----------
        places
            Stars on the detector.
        excess, potential : ndarray, shape (bands, ny, nx)
            ``F - 1`` of each band and its potential, ``laplacian(potential) = F - 1``, pixel^2.
        bands
            Bands of periods, for the background filter; None: the background follows none of them.
        """
        templates = np.zeros((len(places), 6, 3, len(excess)))
        instruments = np.zeros((len(places), 6, len(excess)))
        unseen = self._unseen(bands, len(excess))

        order = _neighbours_together(places)

        def predict_part(rows: slice) -> None:
            shapes = self.shapes(places[order[rows]])
            kernels.predict_stars(shapes, excess, potential, unseen, templates[rows], instruments[rows])

        limits = np.linspace(0, len(places), _PARTS + 1).astype(int)
        list(threaded_map(predict_part, [slice(*pair) for pair in pairwise(limits)]))
        back = np.argsort(order)
        return StarTemplates(templates[back], instruments[back])

    def spread(
        self, places: StarPlaces, weights: FloatArray, shape: tuple[int, int], *, cell: int, bands: tuple[Band, ...] | None = None
    ) -> Float32Array:
        """Return the weight maps of weighted sums over stars, on efficiency and on the potentials of area and diffusion.

        Parameters
        ----------
        places
            Stars on the detector.
        weights : ndarray, shape (n, 5, bands)
            Weights of flux, dx, dy, xx, yy.
        shape
            Shape of the detector, pixels.
        cell
            Side of the square cells of the maps, pixels.
        bands
            As in `predict`.

        Returns
        -------
        ndarray, shape (3, 3, bands, rows, columns)
            For the map of each kind: sums over fluxes, over both shifts, over both sizes.
        """
        rows, columns = -(-shape[0] // cell), -(-shape[1] // cell)
        maps = np.zeros((3, 3, weights.shape[2], rows, columns), dtype=np.float32)
        unseen = self._unseen(bands, weights.shape[2])

        def spread_part(rows: IntArray) -> None:
            kernels.spread_weights(self.shapes(places[rows]), cell, shape, unseen, np.ascontiguousarray(weights[rows]), maps)

        reach = 2 * self.half(self.moments(places)) + 2 * cell + 2
        order = _neighbours_together(places)
        for strips in _apart(places.y[order], reach):
            list(threaded_map(spread_part, [order[strip] for strip in strips]))
        return maps

    def kernels(self) -> tuple[FloatArray, FloatArray]:
        """Return the kernels (3, 6, size, size) of the mean star centred on a pixel, and those of uniform light of glow 1."""
        shapes = self.shapes(StarPlaces.round(np.zeros(1), np.zeros(1)))
        size = 2 * shapes.half + 1
        of_star, of_glow = np.empty((3, 6, size, size)), np.empty((3, 6, size, size))
        flux = kernels.fill_kernels(shapes, of_star, of_glow)
        return of_star, flux * of_glow

    def _unseen(self, bands: tuple[Band, ...] | None, count: int) -> FloatArray:
        """Return the residual response of uniform light under a star to each band, after background subtraction."""
        if bands is None or self.background is None:
            return np.ones(count)
        return np.array([self.background.unseen(band.shortest, band.longest, self.aperture) for band in bands])

    def transfer(self, wavenumber: FloatArray) -> FloatArray:
        """Return the damping of structure of a wavenumber (radian per pixel) in the flux of the mean star."""
        kernel = self.kernels()[0][0, FLUX]
        half = kernel.shape[0] // 2
        radius = np.hypot(*np.mgrid[-half : half + 1, -half : half + 1]).ravel()
        return np.asarray((kernel.ravel() * j0(np.asarray(wavenumber)[..., None] * radius)).sum(axis=-1))

    @lru_cache(maxsize=8)  # noqa: B019
    def noise_products(self, bands: tuple[Band, ...]) -> tuple[FloatArray, FloatArray]:
        """Return the covariance of instruments with templates of the same star for white noise of variance 1 in the flat.

        Both are linear in the glow, so that their covariance is a polynomial in it.

        Parameters
        ----------
        bands
            Bands of periods; noise at periods too long for a square of 512 pixels is negligible.

        Returns
        -------
        products : ndarray, shape (3 powers of the glow, 5, 3, bands)
            For the instruments of flux, dx, dy, xx, yy and the templates of the three kinds.
        squares : ndarray, shape (3 powers of the glow, 5, bands)
            Variance of the template of the kind with its signature in each of these.
        """
        # Kernels are real: half of the modes suffice, with weight 2 for those whose opposite is not among them.
        along_y = 2 * np.pi * np.fft.fftfreq(_NOISE_GRID).astype(np.float64)[:, None]
        along_x = 2 * np.pi * np.fft.rfftfreq(_NOISE_GRID).astype(np.float64)[None, :]
        wavenumber = np.hypot(along_y, along_x)
        weight = np.where((along_x == 0) | (along_x == np.pi), 1.0, 2.0) / _NOISE_GRID**2
        eigenvalues = laplacian_eigenvalues(along_y, along_x)
        inverse = np.divide(1.0, eigenvalues, out=np.zeros_like(eigenvalues), where=eigenvalues != 0)
        inside, unseen = [band.holds(wavenumber) for band in bands], self._unseen(bands, len(bands))
        products, squares = np.zeros((3, 5, 3, len(bands))), np.zeros((3, 5, len(bands)))
        kernels = self.kernels()
        for row, kind in enumerate(SIGNATURE):
            # Template of each kind for the light of the star and for uniform light.
            templates = [
                [fft.rfft2(lit[of, row], (_NOISE_GRID, _NOISE_GRID)) * (inverse if of else 1.0) for of in range(3)]
                for lit in kernels
            ]
            # Area times -laplacian, diffusion times laplacian^2.
            power = (1.0, -eigenvalues, eigenvalues**2)[kind]
            for first in range(2):
                instrument = templates[first][kind] * (power * weight)
                for second in range(2):
                    for of in range(3):
                        product = (np.conj(instrument) * templates[second][of]).real
                        damped = [
                            product[modes].sum() * factor ** (first + second)
                            for modes, factor in zip(inside, unseen, strict=True)
                        ]
                        products[first + second, row, of] += damped
                    square = (np.conj(templates[first][kind]) * templates[second][kind]).real * weight
                    squares[first + second, row] += [
                        square[modes].sum() * factor ** (first + second) for modes, factor in zip(inside, unseen, strict=True)
                    ]
        return products, squares

    def shapes(self, places: StarPlaces) -> StarShapes:
        """Return stars in the form of the compiled kernels."""
        moments = self.moments(places)
        return StarShapes(
            x=np.ascontiguousarray(places.x, dtype=np.float64),
            y=np.ascontiguousarray(places.y, dtype=np.float64),
            glow=np.ascontiguousarray(places.even_light, dtype=np.float64),
            fractions=np.array(self.profile.fractions),
            covariances=self.profile.covariances(places.xx, places.yy, places.xy),
            moments=moments,
            radius=self.aperture,
            adaptive=self.adaptive,
            half=self.half(moments),
        )


def _neighbours_together(places: StarPlaces) -> IntArray:
    """Return an order in which the pixels of a star are still in the cache when its neighbours need them."""
    return np.lexsort([places.x, np.floor(places.y / _ROWS_TOGETHER)])


def _apart(y: FloatArray, reach: float) -> list[list[IntArray]]:
    """Return groups of strips of stars; strips of one group are more than ``reach`` pixels apart, so that threads never overlap."""
    limits = np.quantile(y, np.linspace(0, 1, 2 * _PARTS + 1)) if y.size else np.zeros(2)
    if np.diff(limits).min() <= reach:
        return [[np.arange(y.size)]]
    strip = np.clip(np.searchsorted(limits, y, side="right") - 1, 0, 2 * _PARTS - 1)
    strips = [np.flatnonzero(strip == number) for number in range(2 * _PARTS)]
    return [strips[0::2], strips[1::2]]
