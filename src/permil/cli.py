"""The command line; a user's mistake gives one sentence and exit code 2."""

from __future__ import annotations

import contextlib
import errno
import gc
import io
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from inspect import Parameter, Signature
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from permil.errors import FileWarning, PermilError
from permil.stages import STAGES, Stage

if TYPE_CHECKING:
    from permil.products import Description

_INTERRUPTED = 130
"""Exit code after an interrupt by the user."""
_OF_THE_MACHINE = {
    errno.EACCES, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ELOOP, errno.EMFILE, errno.ENAMETOOLONG, errno.ENFILE, errno.ENOENT,
    errno.ENOSPC, errno.ENOTDIR, errno.EPERM, errno.EROFS, errno.ESTALE,
}  # fmt: skip
"""Errors of disks and file systems that any access to a file may raise."""


def _path(text: str | Path) -> Path:
    """Return the path of an argument or its default: shells do not expand the ~ of --out=~/x."""
    from permil.config.base import located

    try:
        return located(str(text))
    except ValueError as error:
        raise typer.BadParameter(f"{text!r}: {error}") from error


def _path_or_uri(text: str) -> str:
    """Return an argument as a path or as the URI of a dataset."""
    from permil.config.base import is_uri

    return text if is_uri(text) else str(_path(text))


def _repository(text: str) -> str:
    """Return an argument as a Butler repository: a URI, a label or a path."""
    from permil.config.base import located_repository

    try:
        return located_repository(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r}: {error}") from error


ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="configuration file (YAML)", parser=_path)]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="SECTION.KEY=VALUE", help="options that override the file")]
Scheduler = Annotated[
    str | None, typer.Option("--scheduler", metavar="tcp://HOST:PORT", help="Dask scheduler whose workers run the tasks")
]
OfDetector = Annotated[str, typer.Option("--detector", help="detector (name, number or serial number) of files that name none")]
OfCamera = Annotated[str, typer.Option("--camera", help="camera of files that name none (default: lsstcam)")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON, for programs")]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="folder of a run", parser=_path)]
_STAGE_OPTIONS: dict[str, Any] = {
    "detector": Annotated[str | None, typer.Option("--detector", help="run only the task of this detector, such as R22_S11")],
    "led": Annotated[str | None, typer.Option("--led", help="run only this LED")],
    "flat_out": Annotated[
        bool | None,
        typer.Option("--flat-out/--no-flat-out", help="make the efficiency flats, or not; default: as in compare.flat_out"),
    ],
}
"""Options of the commands of stages."""
Begin = Annotated[str, typer.Option(metavar="DATE", help="begin of the validity, TAI (default: from the run, else no bound)")]
End = Annotated[str, typer.Option(metavar="DATE", help="end of the validity, TAI (default: from the run, else no bound)")]
Out = Annotated[Path, typer.Option("--out", metavar="PATH", help="file to write", parser=_path)]


_ORDER = ("run", "tasks", "demo", *STAGES)
"""Commands in the order of the help; others follow."""


class _Examples:
    """Help that ends with examples, one line each."""

    epilog: str | None

    def format_epilog(self, _ctx: Any, formatter: Any) -> None:
        if self.epilog:
            with formatter.section("Examples"):
                for line in self.epilog.splitlines():
                    formatter.write(f"{'':{formatter.current_indent}}{line}\n")


class _Command(_Examples, TyperCommand):
    """A command with examples."""


class _CommandGroup(_Examples, TyperGroup):
    """A group whose help lists commands by purpose (their `rich_help_panel`)."""

    def format_commands(self, _ctx: Any, formatter: Any) -> None:
        purposes: dict[str, list[tuple[str, str]]] = {}
        order = (*_ORDER, *self.commands)
        names = sorted(self.commands, key=order.index)
        shown = [(name, self.commands[name]) for name in names if not self.commands[name].hidden]
        width = max(len(name) for name, _ in shown)
        for name, command in shown:
            panel = getattr(command, "rich_help_panel", None)
            purpose = panel if isinstance(panel, str) else "Commands"
            # Names of all sections are padded alike, so that their columns agree.
            purposes.setdefault(purpose, []).append((name.ljust(width), command.get_short_help_str(formatter.width - 6 - width)))
        for purpose, rows in purposes.items():
            with formatter.section(purpose):
                formatter.write_dl(rows)


class _StageGroup(_CommandGroup):
    """A command of a stage that also has subcommands: `permil flat CONFIG` and `permil flat apply ...`."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0].startswith("-") and args[0] not in ctx.help_option_names:
            args = ["run", *args]
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.commands:
            args = ["run", *args]
        return super().resolve_command(ctx, args)

    def format_usage(self, ctx: Any, formatter: Any) -> None:
        formatter.write_usage(ctx.command_path, " ".join(self.commands["run"].collect_usage_pieces(ctx)))
        formatter.write_usage(ctx.command_path, "COMMAND [ARGS]...", prefix="       ")

    def format_options(self, ctx: Any, formatter: Any) -> None:
        self.commands["run"].format_options(ctx, formatter)
        self.format_commands(ctx, formatter)


class _App(typer.Typer):
    """An application or group of commands, in plain text and with examples."""

    def __init__(
        self, help_text: str, *, group: type[TyperGroup] = _CommandGroup, examples: Sequence[str] = (), **options: Any
    ) -> None:
        super().__init__(cls=group, help=help_text, epilog="\n".join(examples) or None, rich_markup_mode=None, **options)

    def has(
        self, name: str | None = None, *, purpose: str | None = None, examples: Sequence[str] = (), **options: Any
    ) -> Callable[..., Any]:
        """Add a command, listed under a purpose."""
        return self.command(name, cls=_Command, epilog="\n".join(examples) or None, rich_help_panel=purpose, **options)


_ALL, _SINGLE, _TOOLS, _PLAN, _LOOK, _EXCHANGE, _SETUP = (
    "Reduce a campaign",
    "Single stages of a run",
    "Single files",
    "Plan and simulate",
    "Look at results",
    "Exchange with the LSST stack",
    "Configurations",
)
app = _App(
    "Composite flat fields at the per-mil level from a scanned-beam projector.",
    examples=(
        "permil demo                          simulate a small campaign, reduce it, compare with the truth",
        "permil run config.yaml               reduce a campaign; repeat only what has changed",
        "permil show out/flat/red/R22_S11.fits",
        "permil config example                every key of a configuration",
    ),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
beam_app = _App(
    "Fit the beam of a run (beam CONFIG), or of a table of nodes.",
    group=_StageGroup,
    examples=("permil beam config.yaml --led red", "permil beam fit nodes.ecsv --out beam.fits"),
)
flat_app = _App(
    "Make the flats of a run (flat CONFIG), or use a flat.",
    group=_StageGroup,
    examples=(
        "permil flat config.yaml",
        "permil flat config.yaml --led red --detector R22_S11",
        "permil flat apply flat.fits image.fits --out flattened.fits",
        "permil flat diff a.fits b.fits",
    ),
)
spots_app = _App(
    "Calibrate the artificial stars of a run (spots CONFIG) or of catalogs.",
    group=_StageGroup,
    examples=("permil spots config.yaml", "permil spots grid catalog.fits --out grid.fits --columns 49 --rows 49"),
)
_STAGE_APPS = {"beam": beam_app, "flat": flat_app, "spots": spots_app}
"""Groups of the stages that have subcommands."""
simulate_app = _App(
    "Simulate raw files with known truth: beam scan and pointings (simulate CONFIG), or stars.",
    group=_StageGroup,
    examples=("permil simulate config.yaml simulate.seed=3 output=campaign",),
)
config_app = _App(
    "Print an example configuration, or convert one of the old analysis.", examples=("permil config example > config.yaml",)
)
butler_app = _App(
    "Read raw files from Butler repositories, and put products into them.",
    examples=(
        "permil butler index config.yaml",
        "permil butler put out --repo /repo/main --collection u/me/flats --begin 2021-12-01 --end 2022-02-01",
    ),
)
plan_app = _App("Predict the errors of planned pointings, and improve the plan.", examples=("permil plan check plan.yaml",))


def _run(config: Path, overrides: list[str] | None, scheduler: str | None, stages: tuple[str, ...] | None = None) -> None:
    gc.disable()
    try:
        from permil.config import load_config
        from permil.engine import prepare_workers

        loaded = load_config(config, [*(overrides or []), *([f"pipeline.scheduler={scheduler}"] if scheduler else [])])
        # Both take a second to load their libraries.
        prepare_workers(loaded.pipeline)
        from permil.pipeline import run_pipeline

        # Importing the modules of the stages.
        tuple(STAGES[name].functions for name in stages or ())
        # Loaded modules stay until the end: garbage collection would visit them again and again.
        gc.freeze()
    finally:
        gc.enable()
    run_pipeline(loaded, stages=stages)


def _show_version(wanted: bool) -> None:
    if wanted:
        from permil import __version__

        typer.echo(f"permil {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="print the version and exit", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Composite flat fields at the per-mil level from a scanned-beam projector."""


@app.has(purpose=_ALL, examples=("permil run config.yaml", "permil run config.yaml flat.leds=[red] pipeline.workers=4"))
def run(config: ConfigPath, overrides: Overrides = None, scheduler: Scheduler = None) -> None:
    """Run all stages from the index to the report, and skip those that are up to date."""
    _run(config, overrides, scheduler)


@app.has(
    purpose=_ALL,
    examples=(
        "permil tasks config.yaml",
        "permil tasks config.yaml --group flat",
        "permil tasks config.yaml --format make > Makefile",
    ),
)
def tasks(
    config: ConfigPath,
    overrides: Overrides = None,
    group: Annotated[str | None, typer.Option(help="print only the tasks of this group")] = None,
    groups: Annotated[bool, typer.Option("--groups", help="print the names of the groups instead")] = False,
    form: Annotated[
        Literal["condor-dag", "slurm-array", "make"] | None,
        typer.Option("--format", help="print a submission of all tasks with their dependencies instead"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print one command per task, grouped (run the groups in order), or a submission to a batch system."""
    from permil.config import load_config
    from permil.errors import ConfigError
    from permil.tasks import list_tasks, submission

    if form is not None:
        if group is not None or groups or as_json:
            raise ConfigError("--format prints all tasks in one file", remedy="leave --group, --groups and --json out")
        typer.echo(submission(load_config(config, overrides), config, overrides or [], form), nl=False)
        return
    listed = list_tasks(load_config(config, overrides), config, overrides or [])
    names = [entry.name for entry in listed]
    if groups:
        _print(names, "\n".join(names), as_json=as_json)
        return
    if group is not None and group not in names:
        raise ConfigError(f"there is no group {group}", remedy=f"groups are {', '.join(names)}", value=group, allowed=names)
    if as_json:
        _print({entry.name: entry.commands for entry in listed if group in (None, entry.name)}, "", as_json=True)
        return
    for entry in listed:
        if group is None:
            typer.echo(f"# {entry.name}")
        if group in (None, entry.name):
            typer.echo("\n".join(entry.commands))


def _stage_command(stage: Stage) -> Callable[..., None]:
    """Return the command that runs a whole stage or one of its tasks, with the options of its steps."""
    names = {"step", *chain(*stage.steps.values())}

    def command(config: Path, overrides: list[str] | None = None, scheduler: str | None = None, **options: Any) -> None:
        given = {name: value for name, value in options.items() if value is not None}
        of_task = {} if given.keys() <= stage.keys.keys() else {name: given[name] for name in given if name in names}
        settings = [stage.keys[name].format(value) for name, value in given.items() if name not in of_task]
        changed = [*(overrides or []), *settings]
        if not of_task:
            _run(config, changed, scheduler, (stage.name,))
            return
        from permil.config import load_config
        from permil.tasks import run_single

        run_single(load_config(config, changed), stage.name, **of_task)

    every: dict[str, Any] = {"config": ConfigPath, "overrides": Overrides, "scheduler": Scheduler}
    every |= {name: _STAGE_OPTIONS[name] for name in sorted({*stage.keys, *names} - {"step"})}
    if len(stage.steps) > 1:
        *first, last = stage.steps
        text = f"{', '.join(first)} or {last} (default with --detector: {stage.default_step})"
        every["step"] = Annotated[str | None, typer.Option(help=text)]
    parameters = [
        Parameter(name, Parameter.POSITIONAL_OR_KEYWORD, default=Parameter.empty if name == "config" else None, annotation=kind)
        for name, kind in every.items()
    ]
    command.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = every
    command.__doc__ = stage.purpose
    return command


def _index_command(
    sources: Annotated[list[str], typer.Argument(metavar="CONFIG | ROOT...", help="a configuration, or folders of raw files")],
    out: Annotated[Path | None, typer.Option("--out", help="index to write (with folders)", parser=_path)] = None,
    camera: Annotated[str, typer.Option(help="camera (with folders)")] = "lsstcam",
) -> None:
    if sources[0].endswith((".yaml", ".yml")):
        _run(_path(sources[0]), sources[1:], None, ("index",))
        return
    from permil.indexing import index_folders

    index_folders([_path(source) for source in sources], camera=camera, out=out or Path("exposures.parquet"))


for _stage in STAGES.values():
    if _stage.name in _STAGE_APPS:
        _STAGE_APPS[_stage.name].has("run", hidden=True)(_stage_command(_stage))
    else:
        app.has(
            _stage.name,
            purpose=_SINGLE,
            examples=(f"permil {_stage.name} config.yaml", *_stage.examples),
            help=_stage.purpose,
        )(_index_command if _stage.name == "index" else _stage_command(_stage))


@app.has(purpose=_TOOLS, examples=("permil assemble raw.fits --out image.fits",))
def assemble(
    raw: Annotated[Path, typer.Argument(metavar="RAW", help="raw multi-extension file", parser=_path)],
    out: Out,
    camera: Annotated[str, typer.Option(help="camera of the file")] = "lsstcam",
    checksums: Annotated[
        Literal["refuse", "warn", "off"], typer.Option(help="action if the data do not match DATASUM")
    ] = "refuse",
) -> None:
    """Trim, flip and mosaic a raw file to the detector frame, without any correction."""
    from permil.camera import load_camera
    from permil.exposures.files import assemble_file

    assemble_file(raw, out, load_camera(camera), checksums=checksums)


@beam_app.has("fit")
def beam_fit(
    nodes: Annotated[Path, typer.Argument(metavar="NODES.ecsv", help="table with x_mm, y_mm, signal ...", parser=_path)],
    out: Out,
    amp: Annotated[str | None, typer.Option(help="use only the rows of this amplifier")] = None,
    camera: Annotated[str, typer.Option(help="camera of tables with positions as detector, amp, row, column, box")] = "lsstcam",
    as_json: AsJson = False,
) -> None:
    """Fit a beam model to a table of nodes."""
    from permil.beam.tables import fit_table
    from permil.camera import load_camera

    _print_result(fit_table(nodes, out, amp=amp, camera=load_camera(camera)), as_json=as_json)


@beam_app.has("predict")
def beam_predict(
    beam: Annotated[Path, typer.Argument(metavar="BEAM.fits", help="beam model", parser=_path)],
    points: Annotated[Path, typer.Argument(metavar="POINTS.ecsv", help="table with x_mm, y_mm ...", parser=_path)],
    out: Out,
    as_json: AsJson = False,
) -> None:
    """Evaluate a beam model at the positions of a table."""
    from permil.beam.tables import predict_table

    _print_result(predict_table(beam, points, out), as_json=as_json)


@flat_app.has("apply")
def flat_apply(
    flat: Annotated[
        str, typer.Argument(metavar="FLAT", help="flat of one detector: file, or URI of a dataset", parser=_path_or_uri)
    ],
    image: Annotated[
        str, typer.Argument(metavar="IMAGE", help="image of the same detector, assembled: file or URI", parser=_path_or_uri)
    ],
    out: Out,
    detector: OfDetector = "",
    camera: OfCamera = "",
    as_json: AsJson = False,
) -> None:
    """Divide an image by a flat, with errors and masks; both may come from any program."""
    from permil.flat.flat import Flat

    with _files((flat, image), detector, camera) as ((flat_path, image_path), known, datasets):
        done = Flat.read(flat_path, detector=known, camera=camera).apply_to_file(image_path, out)
    _print_result(_of_datasets(done, datasets), as_json=as_json)


@flat_app.has(
    "diff",
    examples=(
        "permil flat diff a.fits b.fits --out ratio.fits",
        "permil flat diff a.fits theirs.npy --detector R22_S11 --smooth illumination.fits",
        "permil flat diff a.fits 'butler:REPO?collection=u/me/flats&dataset_type=permil_flat&detector=R22_S11'",
    ),
)
def flat_diff(
    first: Annotated[str, typer.Argument(metavar="A", help="flat: file, or URI of a dataset", parser=_path_or_uri)],
    second: Annotated[str, typer.Argument(metavar="B", help="flat of the same detector", parser=_path_or_uri)],
    *,
    out: Annotated[Path | None, typer.Option("--out", help="write the ratio map here (FITS)", parser=_path)] = None,
    smooth: Annotated[
        Path | None,
        typer.Option("--smooth", help="write the smooth ratio, the illumination correction, here (FITS)", parser=_path),
    ] = None,
    degree: Annotated[int, typer.Option(help="degree of the smooth ratio in x and y")] = 4,
    super_pixel_mm: Annotated[float, typer.Option(help="side of a super-pixel, mm")] = 0.64,
    detector: OfDetector = "",
    camera: OfCamera = "",
    as_json: AsJson = False,
) -> None:
    """Compare two flats from any program: smooth ratio, amplifier steps, small-scale ratio, gradient."""
    from permil.compare.flats import DiffOptions, diff_files

    with _files((first, second), detector, camera) as ((first_path, second_path), known, datasets):
        done = diff_files(first_path, second_path, DiffOptions(out, smooth, known, camera, super_pixel_mm, degree))
    _print_result(_of_datasets(done, datasets), as_json=as_json)


@simulate_app.has("run", hidden=True)
def simulate_bench(config: ConfigPath, overrides: Overrides = None) -> None:
    """Simulate raw files of a beam scan and pointings with known truth (section `simulate`)."""
    from permil.config import load_config
    from permil.pipeline import simulate_run

    simulate_run(load_config(config, overrides))


@simulate_app.has("spots")
def simulate_spots(config: ConfigPath, overrides: Overrides = None) -> None:
    """Simulate raw files of artificial stars with known truth (section `simulate_spots`)."""
    from permil.config import load_config
    from permil.pipeline import simulate_spots_run

    simulate_spots_run(load_config(config, overrides))


@spots_app.has("grid")
def spots_grid(
    catalog: Annotated[Path, typer.Argument(metavar="CATALOG", help="catalog of one exposure (FITS)", parser=_path)],
    out: Out,
    columns: Annotated[int, typer.Option(min=3, help="spots of the mask along x")] = 49,
    rows: Annotated[int, typer.Option(min=3, help="spots of the mask along y")] = 49,
    degree: Annotated[int, typer.Option(min=1, max=12, help="degree of the polynomial of the optical distortion")] = 3,
    as_json: AsJson = False,
) -> None:
    """Identify the spots of a catalog with the holes of the mask."""
    from permil.spots.files import grid_file

    _print_result(grid_file(catalog, out, columns=columns, rows=rows, degree=degree), as_json=as_json)


@spots_app.has("calibrate")
def spots_calibrate(
    catalogs: Annotated[
        list[Path],
        typer.Argument(metavar="CATALOG...", help="catalogs of one detector and band, or folders of them", parser=_path),
    ],
    out: Out,
    camera: Annotated[str, typer.Option(help="camera of the catalogs")] = "lsstcam",
    columns: Annotated[int, typer.Option(min=3, help="spots of the mask along x")] = 49,
    rows: Annotated[int, typer.Option(min=3, help="spots of the mask along y")] = 49,
    as_json: AsJson = False,
) -> None:
    """Calibrate the spots of a mask from catalogs: flux, position and width of each, with errors."""
    from permil.camera import load_camera
    from permil.config.spots import SpotsConfig
    from permil.spots.stage import calibrate_files

    options = SpotsConfig(columns=columns, rows=rows)
    _print_result(calibrate_files(catalogs, out, options=options, camera=load_camera(camera)), as_json=as_json)


@plan_app.callback()
def plan() -> None:
    """Predict the errors of planned pointings, write their acquisition files, and improve the plan."""


@plan_app.has("check")
def plan_check(config: ConfigPath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Predict the errors of a flat from the planned pointings."""
    from permil.camera import load_camera
    from permil.config import load_config
    from permil.plan.stage import write_plan_check
    from permil.products import RunFolder

    loaded = load_config(config, overrides)
    folder, has_photodiode = RunFolder(loaded.output), loaded.isr.photodiode == "header"
    check = write_plan_check(loaded.plan, load_camera(loaded.camera), folder, has_photodiode=has_photodiode, seed=loaded.seed)
    _print_result(check, as_json=as_json)


@plan_app.has("write", examples=("permil plan write plan.yaml --out acquisition",))
def plan_write(
    config: ConfigPath,
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="folder for the files", parser=_path)] = Path("acquisition"),
    as_json: AsJson = False,
) -> None:
    """Write the acquisition files of a plan, with time, data volume and predicted errors.

    Positions are those of the section plan; LEDs, exposure times and the division into files those of plan.files.
    """
    from permil.camera import load_camera
    from permil.config import load_config
    from permil.plan.stage import write_acquisition_files

    loaded = load_config(config, overrides)
    written = write_acquisition_files(
        loaded.plan,
        load_camera(loaded.camera),
        out,
        has_photodiode=loaded.isr.photodiode == "header",
        seed=loaded.seed,
        inputs=[config],
    )
    _print_result(written, as_json=as_json)


@plan_app.has("improve", examples=("permil plan improve plan.yaml plan.photodiode_drift=1e-3 plan.budget_hours=4",))
def plan_improve(config: ConfigPath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Change order, fiducials and images of a plan within a time budget to minimise the effect of drift.

    The drift of the photodiode is plan.photodiode_drift, the budget plan.budget_hours (by default the time of the plan). Each change is
    listed with its gain; the improved configuration is written for permil plan write.
    """
    from permil.camera import load_camera
    from permil.config import load_config
    from permil.plan.stage import write_improvement

    loaded = load_config(config, overrides)
    _print_result(write_improvement(loaded, load_camera(loaded.camera)), as_json=as_json)


@app.has(purpose=_ALL, examples=("permil demo", "permil demo /tmp/demo --seed 2"))
def demo(
    out: Annotated[Path, typer.Argument(metavar="[OUT]", help="folder to make", parser=_path)] = Path("demo"),
    seed: Annotated[int, typer.Option(min=0, help="seed of the simulation")] = 1,
) -> None:
    """Simulate a small campaign, reduce it, compare with the truth."""
    from permil.demo import run_demo

    run_demo(out, seed=seed)


@config_app.has("example")
def config_example() -> None:
    """Print a configuration with every key, its default and its meaning."""
    from permil.config.example import example_yaml

    typer.echo(example_yaml(), nl=False)


@config_app.has("import")
def config_import(
    old: Annotated[
        list[Path], typer.Argument(metavar="OLD.yaml...", help="files of the old analysis (step 1, step 2 or both)", parser=_path)
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="file to write; without it the result is printed", parser=_path)
    ] = None,
) -> None:
    """Convert configuration files of the old analysis."""
    from permil.config.legacy import import_legacy

    if out is None:
        typer.echo(import_legacy(old), nl=False)
        return
    from permil.products import atomic_output, check_output

    check_output(out, inputs=old)
    text = import_legacy(old)
    with atomic_output(out) as temporary:
        temporary.write_text(text, encoding="utf-8")


@app.has(purpose=_LOOK, examples=("permil show out", "permil show out/beam/red.fits --json"))
def show(
    product: Annotated[Path, typer.Argument(metavar="PRODUCT", help="product, raw file, or folder of a run", parser=_path)],
    as_json: AsJson = False,
) -> None:
    """Describe a file or folder: its content, its run and its quality."""
    from permil.product_summary import describe_product, product_facts

    facts = product_facts(product)
    _print(facts, describe_product(facts), as_json=as_json)


@app.has(purpose=_LOOK, examples=("permil plot out/flat/red/R22_S11.fits --out flat.png",))
def plot(
    product: Annotated[Path, typer.Argument(metavar="PRODUCT", help="flat, image or beam model", parser=_path)], out: Out
) -> None:
    """Draw a product."""
    from permil.product_summary import plot_product

    plot_product(product, out)


@butler_app.callback()
def butler() -> None:
    """Read raw files from Butler repositories, and put products into them."""


@butler_app.has("index")
def butler_index(config: ConfigPath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """List the raw files that the query in `exposures.butler` finds, without reading them."""
    from permil.butler.raws import find_raws
    from permil.camera import load_camera
    from permil.config import load_config
    from permil.errors import ConfigError

    loaded = load_config(config, overrides)
    if not loaded.exposures.butler.repo:
        raise ConfigError(
            "no repository is named", path=config, remedy="name it in exposures.butler.repo", key="exposures.butler"
        )
    selection = find_raws(loaded.exposures.butler, load_camera(loaded.camera))
    _print(selection.facts(), "\n".join(selection.describe()), as_json=as_json)


@butler_app.has("put")
def butler_put(
    run: RunPath,
    repo: Annotated[str, typer.Option(help="repository: folder, URI or label", parser=_repository)],
    collection: Annotated[str, typer.Option(help="calibration collection to certify the products in")],
    begin: Begin = "",
    end: End = "",
    instrument: Annotated[str, typer.Option(help="instrument in the repository, if it has several")] = "",
    filters: Annotated[
        list[str] | None, typer.Option("--filter", metavar="LED=NAME", help="physical filter for the flats of an LED")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="replace different products that are valid on these dates")] = False,
) -> None:
    """Put the flats and other products of a run into a repository and certify them; repeating it changes nothing."""
    from permil.butler.put import PutOptions, put_run
    from permil.errors import ConfigError

    named = {}
    for entry in filters or []:
        led, separator, name = entry.partition("=")
        if not (separator and led and name) or led in named:
            raise ConfigError(f"the option --filter {entry} is not LED=NAME, or repeats an LED", remedy="write --filter red=NAME")
        named[led] = name
    options = PutOptions(
        repo=repo, collection=collection, begin=begin, end=end, instrument=instrument, filters=named, replace=replace
    )
    typer.echo("\n".join(put_run(run, options)))


@app.has(purpose=_EXCHANGE, examples=("permil export out --curated calibrations --begin 2021-12-01",))
def export(
    run: RunPath,
    curated: Annotated[Path, typer.Option("--curated", metavar="DIR", help="folder of the tree to write", parser=_path)],
    begin: Begin = "",
    end: End = "",
    instrument: Annotated[str, typer.Option(help="name of the instrument")] = "LSSTCam",
) -> None:
    """Write the flats and other products of a run as a tree of curated calibrations."""
    from permil.butler.export import export_curated

    typer.echo("\n".join(export_curated(run, curated, begin=begin, end=end, instrument=instrument)))


@app.has(purpose=_LOOK, examples=("permil trend run1 run2 run3", "permil trend run4 --database trends.sqlite --out trends.html"))
def trend(
    runs: Annotated[list[Path] | None, typer.Argument(metavar="RUN", help="folders of runs to add", parser=_path)] = None,
    database: Annotated[
        str,
        typer.Option(
            "--database",
            metavar="PATH|URL",
            help="results of all runs: SQLite file, or postgresql://USER@HOST/NAME",
            parser=_path_or_uri,
        ),
    ] = "trends.sqlite",
    out: Annotated[Path, typer.Option("--out", metavar="PATH", help="page to write (HTML)", parser=_path)] = Path("trends.html"),
    as_json: AsJson = False,
) -> None:
    """Add runs to a database of results; plot each result against run and date, and list results that deviate."""
    from permil.report.stage import follow_runs

    _print_result(follow_runs(runs or [], database, out), as_json=as_json)


@contextlib.contextmanager
def _files(places: Sequence[str], detector: str, camera: str) -> Iterator[tuple[list[Path], str, list[str]]]:
    """Yield files named by path or URI, their detector if known, and descriptions of the datasets."""
    from permil.config.base import is_uri

    if not any(map(is_uri, places)):
        yield [Path(place) for place in places], detector, []
        return
    from permil.butler.datasets import dataset_files, detector_of
    from permil.camera import load_camera

    with dataset_files([place if is_uri(place) else Path(place) for place in places]) as files:
        known = detector_of(files, load_camera(camera or "lsstcam"), detector)
        yield [each.path for each in files], known, [str(each) for each in files if each.description]


def _of_datasets(done: Description, datasets: list[str]) -> Description:
    """Add the names of the datasets to a result."""
    from permil.products import Description

    if not datasets:
        return done
    return Description("\n".join([done, *(f"  {each}" for each in datasets)]), done.facts | {"datasets": datasets})


def _print(facts: Any, text: str, *, as_json: bool) -> None:
    if as_json:
        import json

        from permil.products import plain_facts

        text = json.dumps(plain_facts(facts), indent=2, allow_nan=False)
    typer.echo(text)


def _print_result(result: Description, *, as_json: bool) -> None:
    _print(result.facts, result, as_json=as_json)


for _group, _name, _purpose in (
    *((group, name, _SINGLE) for name, group in _STAGE_APPS.items()),
    (plan_app, "plan", _PLAN),
    (simulate_app, "simulate", _PLAN),
    (butler_app, "butler", _EXCHANGE),
    (config_app, "config", _SETUP),
):
    app.add_typer(_group, name=_name, rich_help_panel=_purpose)


def _show_warning(
    otherwise: Callable[..., None], message: Warning | str, category: type[Warning], *place: Any, **more: Any
) -> None:
    """Show a warning about a file as a sentence, any other warning as Python does."""
    if issubclass(category, FileWarning):
        _tell(f"warning: {message}")
    else:
        otherwise(message, category, *place, **more)


def main() -> None:
    """Run the command line; a user's mistake is one sentence on standard error and exit code 2."""
    # Work is spread over processes: threads of numerical libraries on top of them wait for each other, up to ten times as long.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    for stream in (sys.stdout, sys.stderr):
        # A terminal without Unicode, or a file name that is no text, is no reason to stop.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    shown = warnings.showwarning
    warnings.showwarning = partial(_show_warning, shown)
    try:
        app()
    except PermilError as error:
        _end(str(error))
    except OSError as error:
        if error.errno not in _OF_THE_MACHINE:
            raise
        _end(_of_the_machine(error))
    except MemoryError as error:
        _end(f"the memory does not suffice ({str(error) or 'no more of it'}); use fewer workers, or options that need less")
    except UnicodeEncodeError as error:
        _end(f"{error.object!r} cannot be written in the encoding {error.encoding}; set LC_ALL to a UTF-8 locale such as C.UTF-8")
    except SystemExit as end:
        # Typer turns an interrupt into this code, without a word.
        if end.code == _INTERRUPTED:
            _tell("interrupted; nothing is lost, run the same command again to continue")
        raise
    finally:
        warnings.showwarning = shown


def _of_the_machine(error: OSError) -> str:
    if error.filename:
        return f"{error.filename}: {error.strerror}"
    try:
        Path.cwd()
    except OSError:
        return "the working folder is no longer there; change to another one"
    return f"{error.strerror or error}; nothing is lost, run the same command again"


def _end(sentence: str) -> NoReturn:
    _tell(sentence)
    sys.exit(2)


def _tell(sentence: str) -> None:
    # Standard error may be closed, or a full disk.
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            sys.stderr.write(f"permil: {sentence}\n")
            sys.stderr.flush()
