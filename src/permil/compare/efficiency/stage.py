"""Tasks of the efficiency flats of a run, and the table of the scatter on left-out dithers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table

from permil.camera import Detector, shared_camera
from permil.compare.efficiency.filtering import filter_flat, fit_filter, predict_components
from permil.compare.efficiency.product import EFFICIENCY_FORMAT, EfficiencyResult, write_efficiency_flat
from permil.compare.efficiency.proof import choose_flat, prove
from permil.compare.files import StarsProduct, read_flat, read_stars
from permil.compare.regions import Region, RegionWidths, region_image
from permil.compare.rings.profile import RingProfile
from permil.compare.stars.flat_at_stars import relative_flat
from permil.config import Config
from permil.context import Run
from permil.engine import End, Task, Work
from permil.errors import CompareError
from permil.products import ImageProduct, RunFolder, fingerprint_card, is_usable, write_table
from permil.products.folder import CompareFolder, SpotsFolder

_OWN_FRACTIONS = (Region.EDGE, Region.MID_LINE, Region.AMPLIFIER_BOUNDARY)
"""Regions that may have separate fractions; tree rings are a separate component."""


_CHOICE_COLUMNS = {
    "stars": "NLEFTOUT", "exposures": "NLEFTEXP", "use_for_fluxes": "USEFLUX", "use_for_sky": "USESKY", "left_in_sky": "AREARMS",
    "left_in_sky_err": "AREAERR", "sentence": "CHOICE",
}  # fmt: skip
"""Columns of the table, with the cards of the product that hold their values."""


@dataclass(frozen=True)
class EfficiencyRequest:
    """The efficiency flat of one detector and band: folders of its flat and stars, and folder of the output."""

    config: Config
    folder: RunFolder
    flats: Path
    stars: Path
    detector: str
    band: str
    led: str
    fingerprint: str


def make_efficiency_flat(
    stars: StarsProduct, plain: ImageProduct, detector: Detector, config: Config, rings: RingProfile | None
) -> EfficiencyResult:
    """Return the efficiency flat of a detector, and its proof on left-out dithers.

    Parameters
    ----------
    stars, plain
        Stars and flat of the detector.
    detector
        Detector of both.
    config
        Configuration of the run.
    rings
        Profile around the axis of tree rings, None without.

    Raises
    ------
    CompareError
        If stars or flat cannot be used, or there are too few exposures to leave some out.
    """
    options = config.compare
    usable = is_usable(plain.mask) & np.isfinite(plain.image) & np.isfinite(plain.variance)
    amplifiers = detector.amplifier_map()
    flat = relative_flat(plain.image, plain.variance, usable, amplifiers)
    components = predict_components(
        stars.stars, flat, stars.response, amplifiers=amplifiers, rings=rings, periods=tuple(options.periods_px)
    )
    widths = RegionWidths(options.edge_mm, options.mid_line_mm, options.amplifier_boundary_mm)
    labels = region_image(detector, widths=widths)
    regions = {region.title: labels == region for region in _OWN_FRACTIONS if (labels == region).any()}
    model = fit_filter(components, regions, flat_fielded=options.flat_fielded)
    proof = prove(model, regions, seed=config.seed, flat_fielded=options.flat_fielded)
    efficiency = filter_flat(flat, model)
    return EfficiencyResult(flat, efficiency, proof, choose_flat(proof, efficiency), tuple(regions))


def read_rings(path: Path) -> RingProfile | None:
    """Return the profile of the tree rings in a comparison, None if it has none."""
    with fits.open(path, memmap=False) as hdus:
        if "RINGS" not in hdus:
            return None
        header, table = hdus[0].header, Table(hdus["RINGS"].data)
        columns = (np.asarray(table[name], dtype=np.float64) for name in ("radius", "level", "error", "count"))
        return RingProfile((float(header["RINGX"]), float(header["RINGY"])), *columns)


def write_efficiency(request: EfficiencyRequest) -> None:
    """Make and write the efficiency flat of a detector and band.

    Raises
    ------
    CompareError
        As in `make_efficiency_flat`.
    """
    detector = shared_camera(request.config.camera)[request.detector]
    plain = read_flat(RunFolder(request.flats), request.led, detector)
    stars = read_stars(SpotsFolder(request.stars), request.detector, request.band)
    rings = read_rings(CompareFolder(request.folder.root).comparison(request.detector, request.band))
    try:
        result = make_efficiency_flat(stars, plain, detector, request.config, rings)
    except CompareError as error:
        if error.path is None:
            error.path = str(stars.path)
        raise
    header: dict[str, Any] = {
        **fingerprint_card(request.fingerprint),
        "BAND": (request.band or None, "band of the stars"),
        "NEXPOSUR": (len(stars.exposures), "exposures of stars"),
        "SEED": (request.config.seed, "seed of the parts left out"),
    }
    write_efficiency_flat(request.folder.efficiency_flat(request.led, request.detector), result, plain, detector, header=header)


def efficiency_tasks(run: Run, comparisons: Sequence[Task], led_of: dict[str, str], flats: Path, stars: Path) -> list[Task]:
    """Declare the efficiency flat of each detector and LED with stars.

    Where stars of several bands are compared with one LED, the flat is that of the first.

    Parameters
    ----------
    run
        The run.
    comparisons
        Tasks of the comparisons.
    led_of
        LED of the flat by band of the stars.
    flats, stars
        Folders of the flats and the stars.
    """
    first = {(task.key[1], led_of[task.key[2]]): task for task in reversed(comparisons)}
    return [_task(run, task, led, flats, stars) for (_, led), task in reversed(first.items())]


def efficiency_messages(ends: Sequence[End]) -> list[str]:
    """Return which flat to use for each efficiency flat, and why others are missing."""
    messages = []
    for end in ends:
        name = " ".join(part for part in end.task.key[1:3] if part)
        if end.is_there:
            messages.append(f"{name}: {fits.getheader(end.task.outputs[0], 0)['CHOICE']}")
        elif end.error is not None:
            messages.append(f"{name}: there is no efficiency flat: {end.error}")
    return messages


def _task(run: Run, comparison: Task, led: str, flats: Path, stars: Path) -> Task:
    _, detector, band = comparison.key

    def work(task: Task) -> Work:
        request = EfficiencyRequest(run.config, run.folder, flats, stars, detector, band, led, task.fingerprint)
        return Work(write_efficiency, [request])

    return Task(
        ("efficiency", detector, band, led),
        "efficiency flats",
        work,
        outputs=(run.folder.efficiency_flat(led, detector),),
        options=comparison.options,
        facts=EFFICIENCY_FORMAT,
        files=comparison.files,
        needs=(comparison,),
        leaves_out=(CompareError,),
    )


def efficiency_table_task(run: Run, tasks: Sequence[Task]) -> Task:
    """Declare the table of the scatter on left-out dithers of all efficiency flats."""
    path = CompareFolder(run.folder.root).efficiency

    def write(task: Task) -> tuple[str, ...]:
        rows = []
        for need in task.needs:
            _, detector, band, led = need.key
            with fits.open(run.folder.efficiency_flat(led, detector), memmap=False) as hdus:
                header, table = hdus[0].header, Table(hdus["SCATTER"].data)
            for row in table:
                entry = {name: row[name] for name in table.colnames} | {"division": str(row["division"]).strip()}
                rows.append(
                    {"detector": detector, "band": band or "-", "led": led}
                    | entry
                    | {name: header[card] for name, card in _CHOICE_COLUMNS.items()}
                )
        table = Table(rows=rows)
        table.meta = {"fingerprint": task.fingerprint}
        write_table(path, table)
        return ()

    return Task(
        ("efficiency table",),
        "table of efficiency flats",
        lambda task: Work.here(lambda: write(task)),
        outputs=(path,),
        needs=tuple(tasks),
        tolerant=True,
    )
