"""Sentences and tables of the page that compares stars with the flat, and of its section of the index page."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from astropy.table import Table

from permil.camera import Detector
from permil.compare.comparison import SINGLE
from permil.compare.hypotheses.results import KINDS, SUM
from permil.flat.metrics import WHOLE_DETECTOR
from permil.report.compare.inputs import (
    NAIVE,
    CompareProducts,
    CompareTables,
    number_in,
    text_in,
    total_fractions,
    whole_rows,
)
from permil.report.kit.elements import (
    Cell,
    Grid,
    ReasonList,
    count_cell,
    decimal_cell,
    grid,
    measured_cell,
    number_cell,
    text_cell,
)
from permil.report.kit.pages import group_name
from permil.report.kit.results import (
    MISSING,
    QUANTITIES,
    Measurement,
    format_chance,
    format_count,
    format_like,
    format_measurement,
    two_digits,
    with_minus,
)

_QUOTED = "quoted"
_METHODS = {
    _QUOTED: "effective number of stars from the covariance of neighbouring values, fitted to each map",
    NAIVE: "every star independent of its neighbours: for comparison only",
    "modified_t": "effective number from the measured covariances, without a fit (Clifford, Richardson and Hémon; Dutilleul)",
    "block_bootstrap": "scatter of r when whole blocks of the sensor are resampled",
    "block_jackknife": "jackknife over blocks of the sensor",
    "group_jackknife": "jackknife over exposures: noise of the exposures, not of the choice of the sensor area",
    "phases": "unrelated random maps with the texture of the real ones",
    "shifts": "one map shifted against the other, where both overlap",
    "rotations": "one map rotated and mirrored against the other",
}
"""Descriptions of methods; others are shown by name alone."""
_SLOPES = ("flux", "shift", "size")
_LEVELS = {
    "place": "smooth trend over the focal plane",
    "vendor": "between vendors",
    "raft": "between rafts",
    "detector": "between detectors",
    "amplifier": "between amplifiers",
    "cell": "within amplifiers",
    "measurement": "repeated measurements",
}
_GROUP_HEADINGS = (
    "r",
    "p",
    "measurements",
    "effective number",
    "slope",
    *(f"fraction {kind}" for kind in KINDS),
    "effect of the plain flat on the scatter",
)
_NOT_KNOWN = "Without an efficiency flat, the best possible is not known."
_REFERENCES = {"amplifier": "mean of its amplifier", "detector": "mean of the detector"}


def facts(products: CompareProducts, detector: Detector, band: str) -> tuple[tuple[str, str], ...]:
    """Return name and content of the facts below the heading of the page."""
    header = products.header

    def shown(card: str, unit: str = "") -> str:
        content = header.get(card)
        return MISSING if content is None else f"{content:g}{unit}" if isinstance(content, float) else f"{content}{unit}"

    compared, lost = header.get("NSTARS"), header.get("NLOST")
    stars = MISSING if compared is None else format_count(int(compared)) + (f" ({lost} left out)" if lost else "")
    reference = str(header.get("REFERENC", ""))
    return (
        ("sensor", f"{detector.serial}, {detector.kind}"),
        ("band of the stars", band or MISSING),
        ("LED of the flat", shown("LED")),
        ("exposures of stars", shown("NEXPOSUR")),
        ("measurements of stars", stars),
        ("structure subtracted above", shown("HIGHPASS", " pixels (sigma)")),
        ("cells of the maps", f"{products.cell} pixels"),
        ("flat is relative to", _REFERENCES.get(reference, reference or MISSING)),
        ("stars divided by the flat", {True: "yes", False: "no"}.get(header.get("FLATFLD"), MISSING)),
        ("seed", shown("SEED")),
    )


@dataclass(frozen=True)
class MethodLine:
    """Result of one method for the headline: name, description, error of r, p-value."""

    name: str
    what: str
    error: float
    chance: float
    is_limit: bool = False


def method_lines(headline: Table.Row) -> list[MethodLine]:
    """Return the quoted result and that of every method in a row of correlations: columns ``<name>_r_err``, ``<name>_p_value``."""
    lines = [MethodLine(_QUOTED, _METHODS[_QUOTED], number_in(headline, "r_err"), number_in(headline, "p_value"))]
    for column in headline.colnames:
        name = column.removesuffix("_r_err")
        if name in (column, "") or f"{name}_p_value" not in headline.colnames:
            continue
        error, chance = number_in(headline, column), number_in(headline, f"{name}_p_value")
        if math.isfinite(error) or math.isfinite(chance):
            is_limit = chance <= number_in(headline, f"{name}_p_floor") * (1.0 + 1e-9)
            lines.append(MethodLine(name.replace("_", " "), _METHODS.get(name, ""), error, chance, is_limit))
    return lines


def plain_sentence(sentence: str) -> str:
    """Return a sentence of a product in the notation of pages."""
    in_pages = sentence.replace("+-", "±").replace(" per mil", " ‰").replace(" sigma", " times its error")
    return re.sub(r"(?<=[ (])-\d", lambda found: with_minus(found.group()), in_pages)


def correlation_text(headline: Table.Row, compared: float) -> str:
    """Return the correlation of the headline with its meaning and the number of stars.

    Parameters
    ----------
    compared
        Number of compared measurements, NaN if unknown; the correlation may exclude the noisiest.
    """
    r, error = number_in(headline, "r"), number_in(headline, "r_err")
    n, n_eff, n_eff_test = (number_in(headline, name) for name in ("n", "n_eff", "n_eff_test"))
    naive = number_in(headline, f"{NAIVE}_r_err")
    sentence = (
        f"The correlation between star fluxes and the flat is r = {format_measurement(r, error)} (1: they vary in proportion, 0: "
        f"no relation, {with_minus('-1')}: they vary oppositely)."
    )
    if math.isfinite(n) and math.isfinite(n_eff):
        noisier = f" (of {format_count(round(compared))}; the noisiest are excluded)" if compared > n else ""
        sentence += (
            f" It uses {format_count(round(n))} measurements of stars{noisier}. Neighbouring measurements are correlated: r of unrelated "
            f"maps with this texture scatters like that of {format_count(round(n_eff))} independent values."
        )
        if math.isfinite(n_eff_test):
            sentence += (
                f" What the relation does not explain is equivalent to {format_count(round(n_eff_test))} independent values; the p-value "
                "is based on these."
            )
    if naive > 0 and math.isfinite(error):
        sentence += f" A test that ignores this gives an error {naive_text(error / naive)}."
    return sentence


def naive_text(ratio: float) -> str:
    """Compare a naive error with the quoted one; ``ratio`` is quoted over naive."""
    if ratio >= 1.05:
        return f"that is {ratio:.1f} times too small"
    return "that is about right" if ratio > 0.95 else f"that is {1 / ratio:.1f} times too large"


def chance_text(headline: Table.Row, coarser: Sequence[Table.Row]) -> str:
    """Return the meaning of the p-value; without one, the reason and the p-values of larger cells.

    Parameters
    ----------
    headline
        Row of single stars.
    coarser
        Rows of the same quantity in cells.
    """
    chance = number_in(headline, "p_value")
    if math.isfinite(chance):
        shown = format_chance(chance)
        sentence = f"Unrelated maps have a correlation of this size or larger with the probability p = {shown}"
        return sentence + (": stars and flat are related." if chance < 0.05 else ": this is consistent with chance.")
    reason = text_in(headline, "reason")
    sentence = "No p-value is given for single stars" + (f": {reason}." if reason else ".")
    given = [row for row in coarser if math.isfinite(number_in(row, "p_value"))]
    if given:
        found = ", ".join(
            f"p = {format_chance(number_in(row, 'p_value'))} ({number_in(row, 'cell'):.0f} pixels)" for row in given
        )
        sentence += f" Means over larger cells have one: {found}."
    return sentence


def slope_text(headline: Table.Row, *, divided: bool) -> str:
    """Return the meaning of the slope, "" without one; ``divided`` says whether fluxes were divided by the flat."""
    slope, error = number_in(headline, "slope"), number_in(headline, "slope_err")
    if not math.isfinite(slope):
        return ""
    efficient, large = (0, with_minus("-1")) if divided else (1, 0)
    return (
        f"Where the flat is higher by 1 ‰, stars are {format_measurement(slope, error)} ‰ brighter (slope, corrected for the noise of "
        f"both): {efficient} is expected if the flat shows the efficiency of pixels, {large} if it shows their area."
    )


def ring_text(header: dict[str, float], *, found: bool) -> str:
    """Return whether there are tree rings, with their centre.

    Parameters
    ----------
    header
        Cards RINGP, RINGNULL, RINGX, RINGXERR, RINGY, RINGYERR if present in the product.
    found
        Whether there is a profile.
    """
    chance = header.get("RINGP", math.nan)
    is_limit = chance <= 1.0 / (1.0 + header.get("RINGNULL", math.nan)) * (1.0 + 1e-9)
    chance_of_rings = (
        f"p {'<' if is_limit else '='} {format_chance(chance)} for a map without rings" if math.isfinite(chance) else ""
    )
    if not found:
        return (
            f"No tree rings were found in the flat ({chance_of_rings})."
            if chance_of_rings
            else "Tree rings were not searched for."
        )
    place = " and ".join(
        f"{axis} = {format_measurement(header.get(f'RING{axis.upper()}', math.nan), header.get(f'RING{axis.upper()}ERR', math.nan))}"
        for axis in "xy"
    )
    how = f"were found ({chance_of_rings}); their" if chance_of_rings else "have a centre given in the configuration; the"
    return f"Tree rings, the growth rings of the silicon crystal, {how} centre is at {place} pixels."


def amplifier_text(header: dict[str, float]) -> str:
    """Return the variation between amplifiers, from the cards AMPSLOPE, AMPSLERR, AMPRMS, AMPRMSER."""
    rms = 1e3 * header.get("AMPRMS", math.nan), 1e3 * header.get("AMPRMSER", math.nan)
    slope = header.get("AMPSLOPE", math.nan), header.get("AMPSLERR", math.nan)
    sentence = f"The means of the flat's amplifiers scatter by {format_measurement(*rms)} ‰" if math.isfinite(rms[0]) else ""
    if math.isfinite(slope[0]):
        sentence += "; the" if sentence else "The"
        return f"{sentence} means of the stars follow them with slope {format_measurement(*slope)}."
    return f"{sentence}; the stars of too few amplifiers can be compared." if sentence else ""


def headline_table(row: Table.Row) -> Grid:
    """Return the headline and the naive test that treats every star as independent."""
    r, naive_error = number_in(row, "r"), number_in(row, f"{NAIVE}_r_err")
    low, high = number_in(row, "r_low"), number_in(row, "r_high")
    has_naive = math.isfinite(naive_error)
    empty = Cell(MISSING)
    lines = (
        (
            "correlation r, with its standard error",
            _column_cell(row, "r"),
            measured_cell(r, naive_error) if has_naive else empty,
        ),
        (
            "68 % interval of r",
            _interval_cell(low, high, number_in(row, "r_err")),
            _interval_cell(r - naive_error, r + naive_error, naive_error),
        ),
        (
            "independent values: scatter of r of unrelated maps with this texture",
            count_cell(number_in(row, "n_eff")),
            count_cell(number_in(row, "n")) if has_naive else empty,
        ),
        ("independent values in what the relation does not explain, for p", count_cell(number_in(row, "n_eff_test")), empty),
        (
            "p: probability of such an r for unrelated maps",
            _chance_cell(number_in(row, "p_value")),
            _chance_cell(number_in(row, f"{NAIVE}_p_value")),
        ),
        ("correlation of ranks (Spearman, robust against outliers)", _column_cell(row, "rank"), empty),
        ("r without measurement errors", _column_cell(row, "r_corrected"), empty),
        ("slope, star flux on flat", _column_cell(row, "slope"), empty),
    )
    rows = [(text_cell(name), ours, naive) for name, ours, naive in lines]
    return grid(("single stars", "with correlated neighbours", "naive test: every star independent"), rows)


def method_table(row: Table.Row) -> Grid:
    """Return the error and the p-value of every method."""
    return grid(
        ("method", "what it does", "error of r", "p"), [_method_cells(line) for line in method_lines(row)], text_columns=(0, 1)
    )


def _method_cells(line: MethodLine) -> tuple[Cell, ...]:
    error = number_cell(two_digits(line.error), line.error)
    return text_cell(line.name), text_cell(line.what), error, _chance_cell(line.chance, is_limit=line.is_limit)


def pair_table(products: CompareProducts) -> Grid | None:
    """Return all correlations of a product, None without any."""
    table = products.tables.get("CORRELATIONS")
    if table is None:
        return None
    rows = []
    for row in table:
        cell = number_in(row, "cell")
        scale = "single stars" if text_in(row, "scale") == SINGLE else f"cells of {cell:.0f} px"
        rows.append(
            (
                text_cell(text_in(row, "quantity")),
                text_cell(text_in(row, "region")),
                number_cell(scale, cell),
                _column_cell(row, "r"),
                count_cell(number_in(row, "n")),
                count_cell(number_in(row, "n_eff")),
                _chance_cell(number_in(row, "p_value")),
                _chance_cell(number_in(row, f"{NAIVE}_p_value")),
                _column_cell(row, "r_corrected"),
                _column_cell(row, "slope"),
            )
        )
    headings = (
        "quantity", "region", "scale", "r", "values", "effective number", "p", "p, naive", "r without measurement errors", "slope",
    )  # fmt: skip
    return grid(headings, rows, text_columns=(0, 1))


def fraction_table(products: CompareProducts) -> Grid | None:
    """Return all fractions, one row per region and scale; None if there are none."""
    found: dict[tuple[str, str], dict[str, Table.Row]] = {}
    for row in products.rows("HYPOTHESES", figure="fraction"):
        found.setdefault((text_in(row, "region"), text_in(row, "scale")), {})[text_in(row, "of")] = row
    if not found:
        return None
    rows = []
    for (region, scale), of in found.items():
        some = next(iter(of.values()))
        cells = [_column_cell(of[kind], "value", error="error") if kind in of else Cell(MISSING) for kind in (*KINDS, SUM)]
        size = 1e3 * number_in(some, "flat_rms")
        rows.append(
            (
                text_cell(region),
                text_cell(scale),
                *cells,
                number_cell(two_digits(size), size),
                count_cell(number_in(some, "stars")),
            )
        )
    return grid(("region", "period", *KINDS, "sum of the three", "flat, rms (‰)", "measurements"), rows, text_columns=(0, 1))


def slope_table(products: CompareProducts) -> Grid | None:
    """Return the slopes by region below the expectation of each hypothesis; None without slopes."""
    found: dict[str, dict[str, Table.Row]] = {}
    for row in products.rows("HYPOTHESES", figure="slope"):
        found.setdefault(text_in(row, "region"), {})[text_in(row, "of")] = row
    if not found:
        return None
    divided = bool(products.header.get("FLATFLD", False))
    rows = []
    for number_of_kind, kind in enumerate(KINDS):
        expected = [float(number_of_kind == of) for of in range(len(KINDS))]
        expected[0] -= float(divided)
        rows.append((text_cell(f"expected: all {kind}"), *(measured_cell(slope, math.nan) for slope in expected)))
    for region, of in found.items():
        cells = [_column_cell(of[name], "value", error="error") if name in of else Cell(MISSING) for name in _SLOPES]
        rows.append((text_cell(f"found: {region}"), *cells))
    return grid(("slope of", "flux", "shift (dx, dy)", "size (XX, YY)"), rows)


def verdict_table(products: CompareProducts) -> Grid | None:
    """Return the effect of dividing by the flat, per region, None without verdicts."""
    table = products.tables.get("VERDICTS")
    if table is None:
        return None
    rows = []
    for row in table:
        before, after, strength, change_error = (
            number_in(row, name) for name in ("before", "after", "significance", "change_err")
        )
        rows.append(
            (
                text_cell(text_in(row, "region")),
                text_cell(text_in(row, "outcome")),
                number_cell(format_like(1e3 * before, 1e3 * change_error), before),
                number_cell(format_like(1e3 * after, 1e3 * change_error), after),
                _column_cell(row, "change", scale=1e3),
                decimal_cell(abs(strength), 1),
                count_cell(number_in(row, "stars")),
            )
        )
    headings = (
        "region", "effect on the scatter", "scatter before (‰)", "after (‰)", "change (‰)", "change over its error", "measurements",
    )  # fmt: skip
    return grid(headings, rows, text_columns=(0, 1))


@dataclass(frozen=True)
class LevelTable:
    """The split of one quantity into levels: what was split, the side of its cells, and its components."""

    of: str
    cells: str
    grid: Grid


def level_tables(levels: Table | None) -> tuple[LevelTable, ...]:
    """Return the variation of flats and stars by level, a table for each quantity that was split."""
    known: dict[str, list[Table.Row]] = {}
    for row in levels if levels is not None else ():
        if not text_in(row, "reason"):
            known.setdefault(text_in(row, "of"), []).append(row)
    return tuple(LevelTable(of, _cell_text(number_in(rows[0], "cell_mm")), _level_grid(rows)) for of, rows in known.items())


def _cell_text(side_mm: float) -> str:
    return f"means over cells of {two_digits(side_mm)} mm" if math.isfinite(side_mm) else ""


def _level_grid(known: Sequence[Table.Row]) -> Grid:
    has_stars = any(math.isfinite(number_in(row, "star_rms_per_mil")) for row in known)
    measured = ("flat_rms_per_mil", "star_rms_per_mil", "r", "slope") if has_stars else ("flat_rms_per_mil",)
    rows = []
    for row in known:
        freedom = number_in(row, "degrees_of_freedom")
        rows.append(
            (
                text_cell(_LEVELS.get(text_in(row, "level"), text_in(row, "level"))),
                text_cell(
                    {"both": "", "common": "common to all LEDs", "LED": "differs between LEDs"}.get(text_in(row, "part"), "")
                ),
                *(_column_cell(row, name) for name in measured),
                count_cell(freedom if freedom >= 0 else math.nan),
                text_cell(text_in(row, "origin")),
            )
        )
    names = ("flat, rms (‰)", "stars, rms (‰)", "r without noise", "slope")[: len(measured)]
    headings = ("level", "part", *names, "degrees of freedom", "origin")
    return grid(headings, rows, text_columns=(0, 1, len(headings) - 1))


def level_reasons(levels: Table | None) -> tuple[ReasonList, ...]:
    """Return the levels that cannot be separated, grouped by the reason."""
    groups: dict[str, list[str]] = {}
    for row in levels if levels is not None else ():
        if text_in(row, "reason"):
            groups.setdefault(text_in(row, "reason"), []).append(
                f"{text_in(row, 'of')}: {text_in(row, 'level')}, {text_in(row, 'part')}"
            )
    return tuple(ReasonList(reason, len(names), tuple(names)) for reason, names in groups.items())


def group_table(tables: CompareTables, addresses: Mapping[tuple[str, str], str]) -> Grid:
    """Return the most important results of each detector and band.

    Parameters
    ----------
    addresses
        Address of the page of each detector and band, "" without a page.
    """
    rows = []
    for detector, band in tables.groups:
        first = whole_rows(tables.correlations, detector, band, quantity="flux", cell=0)
        cells = _group_cells(
            first, total_fractions(tables.hypotheses, detector, band), whole_rows(tables.verdicts, detector, band)
        )
        rows.append((text_cell(detector, link=addresses[detector, band]), text_cell(band or MISSING), *cells))
    headings = ("detector", "band", *_GROUP_HEADINGS)
    return grid(headings, rows, text_columns=(0, 1, len(headings) - 1))


def headline_sentence(choice: str, verdicts: Sequence[Table.Row]) -> str:
    """Return the sentence at the top of a page: which flat to use, or without an efficiency flat what the plain flat does.

    Parameters
    ----------
    choice
        Which flat to use, "" without an efficiency flat.
    verdicts
        Verdict on the whole detector, if there is one.
    """
    if choice or not verdicts or not text_in(verdicts[0], "sentence"):
        return choice
    return f"{plain_sentence(text_in(verdicts[0], 'sentence'))} {_NOT_KNOWN}"


def group_sentences(tables: CompareTables, choices: Mapping[tuple[str, str], str]) -> list[tuple[str, str]]:
    """Return name and sentence of each detector and band.

    Parameters
    ----------
    choices
        Which flat to use, by detector and band.
    """
    sentences = {group: headline_sentence(choices.get(group, ""), whole_rows(tables.verdicts, *group)) for group in tables.groups}
    return [(group_name(*group), sentence) for group, sentence in sentences.items() if sentence]


def missing_chances(tables: CompareTables) -> list[tuple[str, str]]:
    """Return name and reason of each detector and band without a p-value."""
    return [
        (group_name(*group), text_in(row, "reason"))
        for group in tables.groups
        for row in whole_rows(tables.correlations, *group, quantity="flux", cell=0)
        if text_in(row, "reason") and not math.isfinite(number_in(row, "p_value"))
    ]


def _group_cells(
    headline: Sequence[Table.Row], hypotheses: Sequence[Table.Row], verdicts: Sequence[Table.Row]
) -> tuple[Cell, ...]:
    """Return the cells of a detector and band in the index: r, p, numbers of stars, slope, fractions, effect of dividing."""
    empty = Cell(MISSING)
    fractions = {text_in(row, "of"): row for row in hypotheses}
    outcome = text_cell(text_in(verdicts[0], "outcome")) if verdicts else empty
    first = headline[0] if headline else None
    return (
        _column_cell(first, "r") if first is not None else empty,
        _chance_cell(number_in(first, "p_value")) if first is not None else empty,
        count_cell(number_in(first, "n")) if first is not None else empty,
        count_cell(number_in(first, "n_eff")) if first is not None else empty,
        _column_cell(first, "slope") if first is not None else empty,
        *(_column_cell(fractions[kind], "value", error="error") if kind in fractions else empty for kind in KINDS),
        outcome,
    )


def compare_measurements(tables: CompareTables) -> list[Measurement]:
    """Return the most important results of all detectors and bands, without those that are NaN."""
    found = []
    for detector, band in tables.groups:
        figures = []
        for row in whole_rows(tables.correlations, detector, band, quantity="flux", cell=0):
            figures += [
                ("correlation", number_in(row, "r"), number_in(row, "r_err")),
                ("correlation_without_noise", number_in(row, "r_corrected"), number_in(row, "r_corrected_err")),
                ("flux_slope", number_in(row, "slope"), number_in(row, "slope_err")),
            ]
        for row in total_fractions(tables.hypotheses, detector, band):
            figures.append((f"fraction_{text_in(row, 'of').replace(' ', '_')}", number_in(row, "value"), number_in(row, "error")))
        for row in whole_rows(tables.verdicts, detector, band):
            figures.append(("flux_scatter_change", number_in(row, "change"), number_in(row, "change_err")))
        found += [
            Measurement(metric, band, value, error, detector, WHOLE_DETECTOR)
            for metric, value, error in figures
            if metric in QUANTITIES and math.isfinite(value)
        ]
    return found


def _column_cell(row: Table.Row, name: str, *, scale: float = 1.0, error: str = "") -> Cell:
    return measured_cell(number_in(row, name), number_in(row, error or f"{name}_err"), scale=scale)


def _chance_cell(chance: float, *, is_limit: bool = False) -> Cell:
    return number_cell(format_chance(chance, is_limit=is_limit), chance)


def _interval_cell(low: float, high: float, error: float) -> Cell:
    if not math.isfinite(low + high):
        return Cell(MISSING)
    return number_cell(f"{format_like(low, error)} to {format_like(high, error)}", low)
