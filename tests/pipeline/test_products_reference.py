"""The reference of products agrees with the products of a run."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

from astropy.io import fits

from permil.products import read_table

EXTENSIONS = Path(__file__).resolve().parents[2] / "docs" / "extensions"


def _products() -> list[dict[str, Any]]:
    spec = importlib.util.spec_from_file_location("reference_pages", EXTENSIONS / "reference_pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.products()


def _pattern(path: str) -> re.Pattern[str]:
    """Return the pattern of the files of a product: <CCD> is any name, [_<band>] may be missing."""
    text = re.escape(path).replace(re.escape("[_<band>]"), "(_[^/]+)?")
    return re.compile(re.sub(r"<\w+>", "[^/]+", text))


def _names(listed: dict[str, Any]) -> set[str]:
    return {name for names in listed for name in names.split(", ")}


def _columns(hdus: dict[str, Any], extension: str) -> set[str] | None:
    """Return the columns that are listed for an extension; None if they are not listed one by one."""
    content = next((content for names, content in hdus.items() if extension in names.split(", ")), None)
    return _names(content) if isinstance(content, dict) else None


def test_products_are_listed_with_their_extensions_and_columns(reduced: Path) -> None:
    listed = {path: product for product in _products() for path in product["path"].split(", ")}
    # A name such as joint.fits goes before the pattern that it fits as well.
    patterns = {_pattern(path): listed[path] for path in sorted(listed, key=lambda path: path.count("<"))}
    seen = 0
    for path in sorted(reduced.rglob("*")):
        name = str(path.relative_to(reduced))
        if path.suffix not in (".fits", ".ecsv", ".parquet") or name.startswith("truth"):
            continue
        product = next((product for pattern, product in patterns.items() if pattern.fullmatch(name)), None)
        assert product is not None, name
        seen += 1
        if path.suffix != ".fits":
            assert set(read_table(path).colnames) - _names(product["columns"]) == set(), name
            continue
        with fits.open(path) as hdus:
            for hdu in hdus[1:]:
                assert hdu.name in _names(product["hdus"]), (name, hdu.name)
                columns = _columns(product["hdus"], hdu.name)
                if isinstance(hdu, fits.BinTableHDU) and columns is not None:
                    assert set(hdu.columns.names) - columns == set(), (name, hdu.name)
    assert seen > 15
