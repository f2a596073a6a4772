"""Tables and sentences of the page of colour."""

from __future__ import annotations

import numpy as np
from astropy.table import Table

from permil.colour.detector import PATTERN
from permil.colour.moments import SCALES
from permil.colour.planes import SIGNIFICANCE
from permil.colour.run_colour import OF_SENSORS, OWN, SHARED, WHOLE
from permil.report.colour.inputs import ColourTables
from permil.report.kit.elements import Cell, Grid, count_cell, decimal_cell, grid, measured_cell, number_cell, text_cell
from permil.report.kit.results import MISSING, Measurement, format_chance, format_measurement, two_digits

_PAIR = ("LED", "over LED")
_PER_MIL = 1e3
_PER_METRE = 1e6


def facts(tables: ColourTables) -> tuple[tuple[str, str], ...]:
    """Return name and content of the facts below the heading."""
    vendors: dict[str, int] = {}
    for name in tables.detectors:
        vendor = tables.camera[name].vendor
        vendors[vendor] = vendors.get(vendor, 0) + 1
    return (
        ("LEDs", ", ".join(tables.label(led) for led in tables.leds)),
        ("detectors", str(len(tables.detectors))),
        ("sensors", ", ".join(f"{count} {vendor}" for vendor, count in sorted(vendors.items()))),
    )


def headline(tables: ColourTables) -> str:
    """Return the main results in a few sentences."""
    sentences = []
    each = tables.vendors[tables.vendors["over_led"] == "-"]
    if len(each):
        pair = f"{each['vendor'][0]} over {each['over_vendor'][0]}"
        shown = ", ".join(f"{format_measurement(float(row['ratio']), float(row['ratio_err']))} in {row['led']}" for row in each)
        sentences.append(f"{pair}: {shown} (these sensors).")
    sensor = [f"{row['led']} over {row['over_led']}" for row in tables.gradients if row["verdict"] == OF_SENSORS]
    if sensor:
        sentences.append(f"A gradient that the sensors have in common is found in {', '.join(sensor)}.")
    elif len(tables.gradients):
        sentences.append("No ratio has a common gradient that can be told from the colour of the light.")
    pattern = tables.variances[(tables.variances["scale"] == PATTERN) & (tables.variances["led"] == tables.leds[0])]
    if len(tables.waves) and len(pattern):
        rms = format_measurement(float(pattern["rms_per_mil"][0]), float(pattern["rms_per_mil_err"][0]))
        sentences.append(f"The periodic pattern in {tables.leds[0]} has an rms of {rms} ‰.")
    return " ".join(sentences)


def vendor_table(tables: ColourTables) -> Grid | None:
    """Return the ratio of vendors in each LED and its change between LEDs; None with sensors of one vendor."""
    if not len(tables.vendors):
        return None
    rows = []
    for row in tables.vendors:
        over = str(row["over_led"])
        rows.append(
            (
                text_cell(f"{row['vendor']} over {row['over_vendor']}"),
                text_cell(tables.label(str(row["led"])) if over == "-" else f"{row['led']} over {over}"),
                measured_cell(float(row["ratio"]), float(row["ratio_err"])),
                measured_cell(float(row["ratio"]), float(row["vendor_err"])),
                decimal_cell(_PER_MIL * float(row["sensor_scatter"]), 2),
                count_cell(row["sensors"]),
                count_cell(row["over_sensors"]),
            )
        )
    headings = ("sensors", "LED", "these sensors", "the vendors", "scatter of sensors (‰)", "sensors", "of the other")
    return grid(headings, rows, text_columns=(0, 1))


def detector_table(tables: ColourTables) -> Grid:
    """Return the ratio of neighbouring LEDs for each detector."""
    rows = []
    whole = tables.ratios[tables.ratios["amp"] == WHOLE]
    for name in tables.detectors:
        cells = [text_cell(name), text_cell(tables.camera[name].vendor)]
        for first, second in tables.pairs:
            own = whole[(whole["detector"] == name) & (whole["led"] == first) & (whole["over_led"] == second)]
            cells.append(measured_cell(float(own["ratio"][0]), float(own["ratio_err"][0])) if len(own) else Cell(MISSING))
        rows.append(cells)
    return grid(("detector", "vendor", *(f"{first} / {second}" for first, second in tables.pairs)), rows, text_columns=(0, 1))


def amplifier_table(tables: ColourTables) -> Grid:
    """Return the median response of each amplifier in each LED."""
    rows = []
    keys = dict.fromkeys((str(row["detector"]), str(row["amp"])) for row in tables.responses)
    place = {(str(row["detector"]), str(row["amp"]), str(row["led"])): row for row in tables.responses}
    for name, amp in keys:
        cells = [text_cell(name), text_cell(amp)]
        for led in tables.leds:
            row = place.get((name, amp, led))
            cells.append(Cell(MISSING) if row is None else measured_cell(float(row["response"]), float(row["response_err"])))
        rows.append(cells)
    return grid(("detector", "amplifier", *(tables.label(led) for led in tables.leds)), rows, text_columns=(0, 1))


def gradient_table(tables: ColourTables) -> Grid:
    """Return the common gradient of sensors and that of the light for each pair of LEDs."""
    rows = []
    for row in tables.gradients:
        cells = [text_cell(row["led"]), text_cell(row["over_led"])]
        cells += [
            measured_cell(float(row[f"{of}_{axis}"]), float(row[f"{of}_{axis}_err"]), scale=_PER_METRE)
            for of in ("sensor", "light")
            for axis in "xy"
        ]
        cells += [
            number_cell(format_chance(float(row["p_value"])), float(row["p_value"])),
            text_cell(row["verdict"]),
            number_cell(two_digits(_PER_MIL * float(row["light_rms"])), float(row["light_rms"])),
        ]
        rows.append(cells)
    headings = (
        *_PAIR, "sensors, X (10⁻⁶/mm)", "sensors, Y", "light, X", "light, Y", "p-value", "verdict", "light beyond it (‰ rms)",
    )  # fmt: skip
    return grid(headings, rows, text_columns=(0, 1, 7))


def linearity_sentences(tables: ColourTables) -> list[str]:
    """Return what non-linearity would do to each pair of LEDs."""
    found = []
    for row in tables.gradients:
        first, second, size = float(row["signal"]), float(row["over_signal"]), float(row["linearity"])
        if not (np.isfinite(first) and np.isfinite(second)):
            continue
        factor = abs(first - second) / 50_000
        sentence = (
            f"{row['led']} over {row['over_led']}: typical signals of {two_digits(first)} and {two_digits(second)} electrons. A loss "
            f"of 1 ‰ at 50,000 electrons that is not corrected would change this ratio by {two_digits(factor)} ‰ between amplifiers."
        )
        if np.isfinite(size):
            sentence += f" What is not known of the losses of amplifiers changes it by {two_digits(_PER_MIL * size)} ‰."
        found.append(sentence)
    return found


def variance_table(tables: ColourTables) -> Grid:
    """Return the rms of each LED on each scale: shared with others, and its own."""
    rows = []
    for scale in (*SCALES, PATTERN):
        of_scale = tables.variances[tables.variances["scale"] == scale]
        for part in (SHARED, OWN, PATTERN):
            of_part = of_scale[of_scale["part"] == part]
            if not len(of_part):
                continue
            by_led = {str(row["led"]): row for row in of_part}
            cells = [text_cell(scale), text_cell(part if part != PATTERN else "in each LED")]
            for led in tables.leds:
                row = by_led.get(led)
                cells.append(
                    Cell(MISSING) if row is None else measured_cell(float(row["rms_per_mil"]), float(row["rms_per_mil_err"]))
                )
            rows.append((*cells, count_cell(of_part["freedom"][0])))
    headings = ("scale", "part", *(f"{led} (‰)" for led in tables.leds), "degrees of freedom")
    return grid(headings, rows, text_columns=(0, 1))


def correlation_summary(tables: ColourTables) -> Grid:
    """Return the correlation of each pair of LEDs on each scale: the mean of detectors, or that of all together."""
    rows = []
    table = tables.correlations
    keys = dict.fromkeys(
        (str(row["scale"]), str(row["led"]), str(row["over_led"]), bool(row["pattern_removed"])) for row in table
    )
    for scale, first, second, apart in keys:
        own = table[
            (table["scale"] == scale)
            & (table["led"] == first)
            & (table["over_led"] == second)
            & (np.asarray(table["pattern_removed"], dtype=bool) == apart)
        ]
        known = own[np.isfinite(np.asarray(own["r"], dtype=float))]
        reason = str(own["reason"][0]) if not len(known) else ""
        rows.append(
            (
                text_cell(scale),
                text_cell(first),
                text_cell(second),
                text_cell("without" if apart else "with"),
                _mean_cell(known, "r", "r_err"),
                _mean_cell(known, "r_corrected", "r_corrected_err"),
                count_cell(len(known)) if str(own["detector"][0]) != WHOLE else text_cell("all together"),
                text_cell(reason or MISSING),
            )
        )
    headings = ("scale", *_PAIR, "periodic pattern", "r", "r without noise", "detectors", "why there is none")
    return grid(headings, rows, text_columns=(0, 1, 2, 3, 6, 7))


def _mean_cell(rows: Table, name: str, error: str) -> Cell:
    """Return the mean over detectors with the scatter's error, or of one the value with its own error."""
    values, errors = (np.asarray(rows[column], dtype=float) for column in (name, error))
    known = np.isfinite(values) & np.isfinite(errors)
    count = int(known.sum())
    if count == 0:
        return Cell(MISSING)
    from_scatter = values[known].std(ddof=1) / count**0.5 if count > 1 else 0.0
    own = float(np.sqrt(np.sum(errors[known] ** 2))) / count
    return measured_cell(float(values[known].mean()), max(float(from_scatter), own))


def wave_table(tables: ColourTables) -> Grid | None:
    """Return the waves of the periodic pattern of each detector; None without any."""
    if not len(tables.waves):
        return None
    rows = []
    for name, wave in dict.fromkeys((str(row["detector"]), int(row["wave"])) for row in tables.waves):
        own = tables.waves[(tables.waves["detector"] == name) & (tables.waves["wave"] == wave)]
        by_led = {str(row["led"]): row for row in own}
        cells = [
            text_cell(name),
            count_cell(wave),
            decimal_cell(float(own["period_mm"][0]), 3),
            decimal_cell(float(own["angle_deg"][0]), 1),
        ]
        for led in tables.leds:
            row = by_led.get(led)
            cells.append(
                Cell(MISSING)
                if row is None
                else measured_cell(float(row["amplitude"]), float(row["amplitude_err"]), scale=_PER_MIL)
            )
        rows.append(cells)
    return grid(("detector", "wave", "period (mm)", "angle (°)", *(f"{led} (‰)" for led in tables.leds)), rows)


def gradient_rule() -> str:
    """Return when a gradient is called one of the sensor."""
    return f"{100 * SIGNIFICANCE:g} %"


def colour_measurements(tables: ColourTables) -> list[Measurement]:
    """Return the results of colour for the summary."""
    found = []
    for row in tables.vendors:
        led = str(row["led"]) if row["over_led"] == "-" else f"{row['led']}/{row['over_led']}"
        found.append(Measurement("vendor_ratio", led, float(row["ratio"]), float(row["ratio_err"])))
    for row in tables.gradients:
        for axis in "xy":
            size = float(row[f"sensor_{axis}"]), float(row[f"sensor_{axis}_err"])
            found.append(Measurement(f"colour_gradient_{axis}", f"{row['led']}/{row['over_led']}", *size))
    for row in tables.ratios[tables.ratios["amp"] == WHOLE]:
        pair = f"{row['led']}/{row['over_led']}"
        found.append(Measurement("led_ratio", pair, float(row["ratio"]), float(row["ratio_err"]), str(row["detector"]), WHOLE))
    return found
