"""Kind, run and quality of a file or folder, and a picture of it. `permil show` and `permil plot`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table

from permil.beam.stage import load_beam
from permil.config.load import RECORD
from permil.errors import InputError, OutputError, PermilError
from permil.flat.flat import Flat
from permil.flat.joint.file import is_converged
from permil.products import check_output, read_any_image, read_table
from permil.products.atomic import atomic_output
from permil.products.folder import CompareFolder
from permil.products.images import read_headers
from permil.products.sensor_identity import product_kind
from permil.results import RunResults, open_run

Facts = dict[str, Any]

_TABLES = (".ecsv", ".parquet")


def product_facts(path: str | Path) -> Facts:
    """Return the essentials of a product, a folder of a run, or a raw file.

    Parameters
    ----------
    path
        FITS file, table, ``run.yaml``, or folder of a run.

    Returns
    -------
    dict
        ``kind`` and ``run`` (the folder of the run, None outside one), and what is known of this kind; plain values.

    Raises
    ------
    InputError
        If it does not exist or cannot be read.
    """
    path = Path(path)
    if not path.exists():
        raise InputError("this file does not exist", path=path, remedy="check the path")
    if path.is_dir() or path.name == RECORD:
        return _of_run(open_run(path if path.is_dir() else path.parent))
    found = _of_table(read_table(path)) if path.suffix in _TABLES else _of_fits(path)
    return {"kind": found.pop("kind"), "run": _run_of(path)} | found


def describe_product(facts: Facts) -> str:
    """Return the essentials as text, one line each."""
    return "\n".join(f"{name.replace('_', ' '):<20}{_text(value)}" for name, value in facts.items() if value not in (None, ""))


def plot_product(path: str | Path, out: str | Path) -> None:
    """Draw a product and write the picture.

    Parameters
    ----------
    path
        Flat, image product or beam model.
    out
        Picture to write; its suffix (png, pdf, svg) sets the format.

    Raises
    ------
    InputError
        If it cannot be read, or is of a kind without a picture.
    OutputError
        If the picture cannot be written.
    """
    path, out = Path(path), Path(out)
    check_output(out, inputs=[path])
    if out.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise OutputError(f"no format of a picture for suffix {out.suffix!r}", path=out, remedy="use .png, .pdf or .svg")
    kind = product_facts(path)["kind"]
    draw = _drawing(path, kind)
    if draw is None:
        raise InputError(f"a {kind} cannot be plotted", path=path, remedy="give a flat, an image or a beam model")
    from permil.plotting import own_settings  # before matplotlib

    with own_settings():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7.0, 6.0), layout="constrained")
        draw(figure.add_subplot())
        with atomic_output(out) as temporary:
            figure.savefig(temporary, format=out.suffix[1:].lower(), dpi=120)


def _drawing(path: Path, kind: str) -> Callable[[Any], Any] | None:
    if kind == "flat":
        return Flat.read(path).plot
    if kind == "beam model":
        return load_beam(path).plot
    if kind in ("superbias", "image"):
        return lambda ax: _draw_image(ax, path)
    return None


def _draw_image(ax: Any, path: Path) -> None:
    from permil.plotting import draw_image

    draw_image(ax, read_any_image(path).image)
    ax.set(title=path.name, xlabel="x (pixels)", ylabel="y (pixels)")


def _of_run(run: RunResults) -> Facts:
    leds = run.leds
    facts: Facts = {
        "kind": "run",
        "run": str(run.folder.root),
        "camera": run.camera.name,
        "LEDs": list(map(str, leds["led"])),
        "exposures": int(leds["scan_exposures"].sum() + leds["pointing_exposures"].sum()),
        "beam_models": int(leds["has_beam"].sum()),
        "flats": int(leds["flats"].sum()),
    }
    if run.folder.summary.is_file():
        verdicts = Counter(map(str, run.summary["pass"]))
        facts["specifications"] = {name: verdicts[name] for name in sorted(verdicts) if name not in ("", "-")}
    choices = CompareFolder(run.folder.root).efficiency
    if choices.is_file():
        table = read_table(choices, columns=("detector", "band", "use_for_fluxes", "use_for_sky"))
        for use in ("fluxes", "sky"):
            facts[f"flat_for_{use}"] = {_stars_of(row): str(row[f"use_for_{use}"]) for row in table}
    return facts


def _stars_of(row: Table.Row) -> str:
    """Return detector and band of a row."""
    return " ".join(str(row[name]) for name in ("detector", "band") if str(row[name]) != "-")


def _of_table(table: Table) -> Facts:
    columns = {name: str(table[name].unit or "") for name in table.colnames}
    plain = {key: value for key, value in table.meta.items() if isinstance(value, str | int | float) and not key.startswith("_")}
    return {"kind": "table", "rows": len(table), "columns": columns} | plain


def _of_fits(path: Path) -> Facts:
    headers = read_headers(path)
    names = {str(header.get("EXTNAME", "")) for header in headers}
    primary = headers[0]
    facts: Facts = {"kind": _kind(names, primary, headers)}
    cards = (
        ("detector", "DETECTOR"), ("sensor", "LSST_NUM"), ("LED", "LED"), ("band", "BAND"), ("wavelength_nm", "WAVELEN"),
        ("filter", "FILTER"), ("camera", "CAMERA"), ("runs", "RUNNUM"), ("first_exposure", "DATE-BEG"), ("last_exposure", "DATE-END"),
        ("exposures", "NEXPOSUR"), ("valid_from", "VALIDBEG"), ("valid_until", "VALIDEND"), ("made_by", "ORIGIN"),
        ("version", "PERMILVE"), ("written", "DATE"), ("configuration_digest", "CONFDIG"), ("fingerprint", "FINGERPR"),
    )  # fmt: skip
    facts |= {name: primary[card] for name, card in cards if card in primary}
    try:
        return facts | _quality(path, facts["kind"], primary)
    except PermilError as error:
        return facts | {"damage": error.what}


def _kind(names: set[str], primary: fits.Header, headers: list[fits.Header]) -> str:
    if {"BEAM", "NODES", "KERNELS"} <= names:
        return "beam model"
    if {"EXPOSURES", "BUDGET"} <= names:
        return "joint solution"
    if "SUPERPIXELS" in names:
        return "signals on super-pixels"
    if "SPOTS" in names:
        return "calibration of spots" if "RESIDUALS" in names or "METHOD" in primary else "catalog of spots"
    if any(str(name).startswith("Segment") for name in names):
        return "raw file"
    return product_kind(primary, *headers[1:2]) or "image"


def _quality(path: Path, kind: str, primary: fits.Header) -> Facts:
    if kind == "flat":
        choice = (("flat_for_fluxes", "USEFLUX"), ("flat_for_sky", "USESKY"), ("which_flat_to_use", "CHOICE"))
        return dict(Flat.read(path).facts()) | {name: primary[card] for name, card in choice if card in primary}
    if kind == "beam model":
        return {"summary": load_beam(path).describe()}
    if kind == "joint solution":
        errors = (
            ("passes", "PASSES"),
            ("reduced_chi_square", "REDCHI2"),
            ("left_out", "NLEFTOUT"),
            ("photodiode_noise", "PDNOISE"),
        )
        return {name: primary[card] for name, card in errors if card in primary} | {"converged": is_converged(primary)}
    if kind in ("superbias", "image"):
        product = read_any_image(path)
        known = product.image[np.isfinite(product.image)]
        size = f"{product.image.shape[1]} x {product.image.shape[0]}"
        return {
            "pixels": size,
            "median": float(np.median(known)) if known.size else math.nan,
            "without_data": int(product.image.size - known.size),
        }
    return {}


def _run_of(path: Path) -> str | None:
    """Return the folder of the run that a file lies in."""
    return next((str(folder) for folder in path.absolute().parents if (folder / RECORD).is_file()), None)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        # Columns with their units, or counts of verdicts.
        return ", ".join(
            f"{entry} {name}" if isinstance(entry, int) else f"{name} ({entry})" if entry else name
            for name, entry in value.items()
        )
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)
