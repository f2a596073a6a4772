"""The pages that compare stars with flats, and their section of the index page: tables, sentences, and declaration."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import itemgetter
from typing import Any

from astropy.table import Row, Table

from permil.camera import Detector
from permil.compare.comparison import SINGLE, WHOLE
from permil.compare.hypotheses.results import KINDS, SUM
from permil.flat.metrics import WHOLE_DETECTOR
from permil.products import RunFolder
from permil.products.folder import CompareFolder
from permil.report.compare import figures
from permil.report.compare.efficiency import choice_measurements, choice_table, efficiency_part, efficiency_source, read_choices
from permil.report.compare.inputs import (
    NAIVE,
    CompareProducts,
    CompareTables,
    headline,
    read_compare_tables,
    read_comparison,
    total_fractions,
    whole_rows,
)
from permil.report.compare.sensors import sensors_page, sensors_path
from permil.report.kit.elements import (
    Cell,
    Column,
    Grid,
    ReasonList,
    chance_column,
    count_column,
    decimal_column,
    measured_cell,
    measured_column,
    number_cell,
    number_column,
    number_in,
    table_of,
    text_cell,
    text_column,
    text_in,
)
from permil.report.kit.pages import (
    Declaration,
    IndexPart,
    Page,
    PageKind,
    RunProducts,
    group_addresses,
    group_links,
    group_name,
    group_path,
    index_address,
    render,
)
from permil.report.kit.results import (
    MISSING,
    QUANTITIES,
    Measurement,
    format_chance,
    format_count,
    format_like,
    format_measurement,
    plain_sentence,
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
_PARTS = {"common": "common to all LEDs", "LED": "differs between LEDs"}
_HEADLINE_COLUMNS = (
    measured_column("r"),
    chance_column("p"),
    count_column("measurements", "n"),
    count_column("effective number", "n_eff"),
    measured_column("slope"),
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


def correlation_text(headline: Row, compared: float) -> str:
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
                f" The residuals of the relation are equivalent to {format_count(round(n_eff_test))} independent values; the p-value "
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


def chance_text(headline: Row, coarser: Sequence[Row]) -> str:
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


def slope_text(headline: Row, *, divided: bool) -> str:
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


def headline_table(row: Row) -> Grid:
    """Return the headline and the naive test that treats every star as independent."""
    has_naive = math.isfinite(number_in(row, f"{NAIVE}_r_err"))

    def interval(low: float, high: float, error: float) -> Cell:
        shown = f"{format_like(low, error)} to {format_like(high, error)}" if math.isfinite(low + high) else MISSING
        return number_cell(shown, low)

    def quoted_interval(row: Row) -> Cell:
        return interval(*(number_in(row, name) for name in ("r_low", "r_high", "r_err")))

    def naive_interval(row: Row) -> Cell:
        r, error = number_in(row, "r"), number_in(row, f"{NAIVE}_r_err")
        return interval(r - error, r + error, error)

    none, independent = Column("", lambda _: Cell(MISSING)), "independent values"
    lines = (
        ("correlation r, with its standard error", measured_column("r"), measured_column("r", error=f"{NAIVE}_r_err")),
        ("68 % interval of r", Column("", quoted_interval), Column("", naive_interval)),
        (f"{independent}: scatter of r of unrelated maps with this texture", count_column("n_eff"), count_column("n")),
        (f"{independent} in the residuals of the relation, for p", count_column("n_eff_test"), none),
        ("p: probability of such an r for unrelated maps", chance_column("p"), chance_column("p", f"{NAIVE}_p_value")),
        ("correlation of ranks (Spearman, robust against outliers)", measured_column("rank"), none),
        ("r without measurement errors", measured_column("r_corrected"), none),
        ("slope, star flux on flat", measured_column("slope"), none),
    )
    columns = (
        text_column("single stars", itemgetter(0)),
        Column("with correlated neighbours", lambda line: line[1].cell(row)),
        Column("naive test: every star independent", lambda line: (line[2] if has_naive else none).cell(row)),
    )
    return table_of(lines, columns)


def method_table(row: Row) -> Grid:
    """Return the error and the p-value of the quoted result and of every method in a row of correlations.

    Columns of a method are ``<name>_r_err``, ``<name>_p_value``, and ``<name>_p_floor`` where its p-value may be a limit.
    """
    names = [name.removesuffix("_r_err") for name in row.colnames if name.endswith("_r_err") and name != "_r_err"]
    methods = {name: f"{name}_" for name in names if f"{name}_p_value" in row.colnames}

    def is_known(prefix: str) -> bool:
        return any(math.isfinite(number_in(row, f"{prefix}{figure}")) for figure in ("r_err", "p_value"))

    def chance(prefix: str) -> Cell:
        p_value = number_in(row, f"{prefix}p_value")
        is_limit = p_value <= number_in(row, f"{prefix}p_floor") * (1.0 + 1e-9) if prefix else False
        return number_cell(format_chance(p_value, is_limit=is_limit), p_value)

    columns = (
        text_column("method", lambda method: method[0].replace("_", " ")),
        text_column("description", lambda method: _METHODS.get(method[0], "")),
        number_column("error of r", lambda method: number_in(row, f"{method[1]}r_err"), two_digits),
        Column("p", lambda method: chance(method[1])),
    )
    known = [(name, prefix) for name, prefix in methods.items() if is_known(prefix)]
    return table_of([(_QUOTED, ""), *known], columns)


def pair_table(products: CompareProducts) -> Grid | None:
    """Return all correlations of a product, None without any."""
    table = products.tables.get("CORRELATIONS")
    if table is None:
        return None

    def scale(row: Row) -> Cell:
        cell = number_in(row, "cell")
        return number_cell("single stars" if text_in(row, "scale") == SINGLE else f"cells of {cell:.0f} px", cell)

    columns = (
        text_column("quantity"),
        text_column("region"),
        Column("scale", scale),
        measured_column("r"),
        count_column("values", "n"),
        count_column("effective number", "n_eff"),
        chance_column("p"),
        chance_column("p, naive", f"{NAIVE}_p_value"),
        measured_column("r without measurement errors", "r_corrected"),
        measured_column("slope"),
    )
    return table_of(table, columns)


def fraction_table(products: CompareProducts) -> Grid | None:
    """Return all fractions, one row per region and scale; None if there are none."""
    found: dict[tuple[str, str], dict[str, Row]] = {}
    for row in products.rows("HYPOTHESES", figure="fraction"):
        found.setdefault((text_in(row, "region"), text_in(row, "scale")), {})[text_in(row, "of")] = row

    def any_of(key: tuple[str, str]) -> Row:
        return next(iter(found[key].values()))

    columns = (
        text_column("region", itemgetter(0)),
        text_column("period", itemgetter(1)),
        *(_value_column(kind if kind != SUM else "sum of the three", found, kind) for kind in (*KINDS, SUM)),
        number_column("flat, rms (‰)", lambda key: 1e3 * number_in(any_of(key), "flat_rms"), two_digits),
        count_column("measurements", lambda key: number_in(any_of(key), "stars")),
    )
    return table_of(found, columns) if found else None


def slope_table(products: CompareProducts) -> Grid | None:
    """Return the slopes by region below the expectation of each hypothesis; None without slopes."""
    found: dict[str, dict[str, Row]] = {}
    for row in products.rows("HYPOTHESES", figure="slope"):
        found.setdefault(text_in(row, "region"), {})[text_in(row, "of")] = row
    divided = float(bool(products.header.get("FLATFLD", False)))
    lines = []
    for number, kind in enumerate(KINDS):
        expected = [float(number == of) - (divided if of == 0 else 0.0) for of in range(len(KINDS))]
        lines.append((f"expected: all {kind}", *(measured_cell(slope, math.nan) for slope in expected)))
    for region, of in found.items():
        cells = [measured_cell(number_in(of.get(name), "value"), number_in(of.get(name), "error")) for name in _SLOPES]
        lines.append((f"found: {region}", *cells))
    headings = ("flux", "shift (dx, dy)", "size (XX, YY)")
    columns = [Column(heading, itemgetter(place)) for place, heading in enumerate(headings, start=1)]
    return table_of(lines, (text_column("slope of", itemgetter(0)), *columns)) if found else None


def verdict_table(products: CompareProducts) -> Grid | None:
    """Return the effect of dividing by the flat, per region, None without verdicts."""
    table = products.tables.get("VERDICTS")

    def scatter(name: str) -> Callable[[Row], Cell]:
        return lambda row: number_cell(
            format_like(1e3 * number_in(row, name), 1e3 * number_in(row, "change_err")), number_in(row, name)
        )

    columns = (
        text_column("region"),
        text_column("effect on the scatter", "outcome"),
        Column("scatter before (‰)", scatter("before")),
        Column("after (‰)", scatter("after")),
        measured_column("change (‰)", "change", scale=1e3),
        decimal_column("change over its error", lambda row: abs(number_in(row, "significance")), 1),
        count_column("measurements", "stars"),
    )
    return None if table is None else table_of(table, columns)


def level_tables(levels: Table | None) -> list[tuple[str, str, Grid]]:
    """Return the variation of flats and stars by level: each quantity that was split, its cells, and a table."""
    known: dict[str, list[Row]] = {}
    for row in levels if levels is not None else ():
        if not text_in(row, "reason"):
            known.setdefault(text_in(row, "of"), []).append(row)
    sides = {of: number_in(rows[0], "cell_mm") for of, rows in known.items()}
    cells = {of: f"means over cells of {two_digits(side)} mm" if math.isfinite(side) else "" for of, side in sides.items()}
    return [(of, cells[of], _level_grid(rows)) for of, rows in known.items()]


def _level_grid(known: Sequence[Row]) -> Grid:
    has_stars = any(math.isfinite(number_in(row, "star_rms_per_mil")) for row in known)
    of_stars = (
        measured_column("stars, rms (‰)", "star_rms_per_mil"),
        measured_column("r without noise", "r"),
        measured_column("slope"),
    )
    freedom = "degrees_of_freedom"
    columns = (
        text_column("level", lambda row: _LEVELS.get(text_in(row, "level"), text_in(row, "level"))),
        text_column("part", lambda row: _PARTS.get(text_in(row, "part"), "")),
        measured_column("flat, rms (‰)", "flat_rms_per_mil"),
        *(of_stars if has_stars else ()),
        count_column("degrees of freedom", lambda row: number_in(row, freedom) if number_in(row, freedom) >= 0 else math.nan),
        text_column("origin"),
    )
    return table_of(known, columns)


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
    headlines = {
        group: next(iter(whole_rows(tables.correlations, *group, quantity="flux", cell=0)), None) for group in tables.groups
    }
    verdicts = {group: next(iter(whole_rows(tables.verdicts, *group)), None) for group in tables.groups}
    fractions = {
        group: {text_in(row, "of"): row for row in total_fractions(tables.hypotheses, *group)} for group in tables.groups
    }

    columns = (
        Column("detector", lambda group: text_cell(group[0], link=addresses[group]), is_text=True),
        text_column("band", itemgetter(1), absent=MISSING),
        *(column.of(headlines.get) for column in _HEADLINE_COLUMNS),
        *(_value_column(f"fraction {kind}", fractions, kind) for kind in KINDS),
        text_column("effect of the plain flat on the scatter", "outcome", absent=MISSING).of(verdicts.get),
    )
    return table_of(tables.groups, columns)


def _value_column(heading: str, found: Mapping[Any, Mapping[str, Row]], of: str) -> Column:
    """Return a column of one kind of value, by the key of a row."""
    return measured_column(heading, lambda key: (number_in(found[key].get(of), "value"), number_in(found[key].get(of), "error")))


def headline_sentence(choice: str, verdicts: Sequence[Row]) -> str:
    """Return the sentence at the top of a page: which flat to use, or without an efficiency flat the effect of the plain flat.

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


_EXPECTED_TABLES = {
    "CORRELATIONS": "the table of correlations (CORRELATIONS)",
    "NULL": "correlations of unrelated maps (NULL)",
    "BLOCKS": "the error against the size of blocks (BLOCKS)",
    "HYPOTHESES": "fractions and slopes (HYPOTHESES)",
    "VERDICTS": "the effect of dividing by the flat (VERDICTS)",
}


def compare_pages(run: RunProducts) -> list[Page]:
    """Return one page for each detector and band with a comparison."""
    tables = read_compare_tables(run.folder)
    if tables is None:
        return []
    groups = tuple(tables.groups)
    options = {"camera": run.config.camera, "groups": groups}
    pages = []
    for detector, band in groups:
        make = partial(make_compare_page, run.folder, groups, run.camera[detector], band)
        efficiency = efficiency_source(run.folder, detector, band)
        sources = (CompareFolder(run.folder.root).comparison(detector, band), *([] if efficiency is None else [efficiency]))
        pages.append(Page(sources, options, make, group_path(run.folder, COMPARE_PAGES.folder, detector, band)))
    together = sensors_page(run, COMPARE_PAGES.folder)
    return [*pages, together] if together is not None else pages


def make_compare_page(
    folder: RunFolder, groups: Sequence[tuple[str, str]], detector: Detector, band: str, fingerprint: str
) -> str:
    """Return the page of one detector and band as HTML.

    Parameters
    ----------
    groups
        All detectors and bands of the run.

    Raises
    ------
    InputError
        If the comparison is missing or cannot be read.
    """
    products = read_comparison(CompareFolder(folder.root).comparison(detector.name, band))
    absent = [name for table, name in _EXPECTED_TABLES.items() if table not in products.tables]
    efficiency = efficiency_part(folder, detector.name, band)
    return render(
        "compare.html",
        __name__,
        fingerprint=fingerprint,
        title=f"{group_name(detector.name, band)}, stars against flat - permil",
        links=group_links(folder, COMPARE_PAGES.folder, (detector.name, band), groups, home="all detectors and bands"),
        facts=facts(products, detector, band),
        sentence=headline_sentence(efficiency.sentence if efficiency else "", products.rows("VERDICTS", region=WHOLE)),
        detector=detector,
        band=band,
        products=products,
        cards={str(card.keyword): float(card.value) for card in products.header.cards if isinstance(card.value, int | float)},
        first=headline(products),
        efficiency=efficiency,
        figures=figures,
        scatter=figures.scatter_picture(products, absent),
        maps=figures.map_pictures(products, absent),
        absent=absent,
    )


def declare_section(run: RunProducts) -> Declaration | None:
    """Declare the section of the index page, None if the run compares no stars with flats."""
    tables = read_compare_tables(run.folder)
    if tables is None:
        return None
    products = CompareFolder(run.folder.root)
    sources = (
        products.correlations, products.hypotheses, products.verdicts, products.levels, products.sensors, products.efficiency,
    )  # fmt: skip
    return Declaration(sources, {}, partial(make_section, run, tables))


def make_section(run: RunProducts, tables: CompareTables) -> IndexPart:
    """Return the section of the index page."""
    choices = read_choices(run.folder)
    together = sensors_path(run.folder, COMPARE_PAGES.folder) if CompareFolder(run.folder.root).sensors.is_file() else None
    content = render(
        "compare_section.html",
        __name__,
        together=index_address(run.config, run.folder, together) if together else "",
        sentences=group_sentences(tables, {(choice.detector, choice.band): choice.sentence for choice in choices}),
        addresses=group_addresses(run, COMPARE_PAGES.folder, tables.groups),
        tables=tables,
        choices=choice_table(choices),
    )
    return IndexPart(content, [*compare_measurements(tables), *choice_measurements(choices)])


def correlation_texts(products: CompareProducts) -> list[str]:
    """Return the sentences about correlation, significance and slope of single stars, none without a correlation."""
    row = headline(products)
    if row is None:
        return []
    coarser = [entry for entry in products.rows("CORRELATIONS", quantity="flux", region=WHOLE) if number_in(entry, "cell") > 0]
    sentences = (
        correlation_text(row, float(products.header.get("NSTARS", math.nan))),
        chance_text(row, coarser),
        slope_text(row, divided=bool(products.header.get("FLATFLD", False))),
    )
    return [sentence for sentence in sentences if sentence]


COMPARE_PAGES = PageKind(
    "compare",
    "pages of stars against flats",
    compare_pages,
    section=declare_section,
    link="Stars against flats",
    heading="Do the stars see what the flat sees?",
)
