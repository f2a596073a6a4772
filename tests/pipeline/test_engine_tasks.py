"""Single tasks from the command line, alone and side by side."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from astropy.table import vstack

from permil.config import load_config
from permil.context import Run
from permil.exposures import BIAS, SPOT
from permil.pipeline import run_pipeline
from permil.products import RunFolder, read_table, write_table
from permil.stages import STAGES
from permil.tasks import CommandGroup, declared_tasks, list_jobs, list_tasks

from .conftest import DETECTOR, Permil, linked
from .test_engine_run import QUICK, products

GROUPS = ("superbias", "beam", "signals", "solution", "flat", "composite", "stability", "defects", "finish")


@pytest.fixture(scope="module")
def indexed(one_ccd: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a campaign of one CCD and its index."""
    folder = linked(one_ccd, tmp_path_factory.mktemp("indexed") / "run")
    run_pipeline(load_config(folder / "config.yaml", ["pipeline.workers=1"]), stages=("index",))
    return folder


@pytest.fixture
def fresh(indexed: Path, tmp_path: Path) -> Path:
    """Return the configuration of a folder of its own whose index leads to the same raw files."""
    shutil.copytree(indexed, tmp_path / "run", ignore=shutil.ignore_patterns("raw"))
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace("- raw", f"- {indexed / 'raw'}"))
    return config


def _groups(config: Path, *overrides: str) -> list[CommandGroup]:
    chosen = [*QUICK, *overrides]
    return list_tasks(load_config(config, chosen), config, chosen)


def _all_at_once(commands: list[str]) -> list[subprocess.CompletedProcess[str]]:
    def run(command: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", *shlex.split(command)]
        return subprocess.run(words, capture_output=True, text=True, check=False, timeout=600)  # noqa: S603

    with ThreadPoolExecutor(len(commands)) as threads:
        return list(threads.map(run, commands))


def test_tasks_one_by_one_make_what_a_run_makes(fresh: Path, permil: Permil) -> None:
    groups = _groups(fresh)
    assert [group.name for group in groups] == list(GROUPS)
    for group in groups[:-1]:
        # One task is begun twice at the same time: the second finds it done, or waits for it.
        if group.name == "flat":
            for process in _all_at_once([command for command in group.commands for _ in range(2)]):
                assert process.returncode == 0, process.stderr
        else:
            for command in group.commands:
                code, _, messages = permil(*shlex.split(command)[1:])
                assert code == 0, messages
    by_tasks = products(fresh.parent)
    reports = run_pipeline(load_config(fresh, [*QUICK, "pipeline.workers=1"]), stages=("index", "isr", "beam", "flat", "defects"))
    assert [report.done for report in reports if report.stage != "index"] == [0, 0, 0, 0]
    for stage in ("calib", "beam", "flat", "defects"):
        shutil.rmtree(fresh.parent / stage)
    run_pipeline(load_config(fresh, [*QUICK, "pipeline.workers=1"]), stages=("isr", "beam", "flat", "defects"))
    by_run = products(fresh.parent)
    # The last command of the list writes the tables of all detectors: gains, and the linearity that solutions measure.
    del by_run["calib/gains.ecsv"], by_run["calib/measured_linearity.ecsv"]
    assert sorted(by_tasks) == sorted(by_run)
    assert [name for name in by_tasks if by_tasks[name] != by_run[name]] == []


@pytest.mark.full
def test_makefile_makes_what_a_run_makes(fresh: Path, permil: Permil) -> None:
    overrides = (*QUICK, "report.detector_pages=false")
    code, out, messages = permil("tasks", fresh, *overrides, "--format", "make")
    assert code == 0, messages
    (fresh.parent / "Makefile").write_text(out)
    # The largest memory of a process, in a process that has no other children.
    watched = (
        "from resource import RUSAGE_CHILDREN, getrusage\n"
        "import subprocess\n"
        "subprocess.check_call(['make', '-j2'])\n"
        "print(getrusage(RUSAGE_CHILDREN).ru_maxrss)"
    )
    command = [sys.executable, "-c", watched]
    made = subprocess.run(command, cwd=fresh.parent, capture_output=True, text=True, check=False, timeout=600)  # noqa: S603
    assert made.returncode == 0, made.stderr
    assert (fresh.parent / "report" / "index.html").is_file()
    # All other tasks were up to date when the last one came.
    assert "flat: 0 done, 4 up to date" in made.stderr
    limit = int(re.findall(r"up to (\d+) MiB", out)[0])
    assert limit / 3 < int(made.stdout.split()[-1]) / 1024 < limit
    by_make = products(fresh.parent)
    for stage in ("calib", "beam", "flat"):
        shutil.rmtree(fresh.parent / stage)
    run_pipeline(load_config(fresh, [*overrides, "pipeline.workers=1"]), stages=("isr", "beam", "flat"))
    by_run = products(fresh.parent)
    assert sorted(by_make) == sorted(by_run)
    assert [name for name in by_make if by_make[name] != by_run[name]] == []


def test_submissions_hold_the_declared_graph(fresh: Path, permil: Permil) -> None:
    config = load_config(fresh, list(QUICK))
    jobs = {job.name: job for job in list_jobs(config, fresh, list(QUICK))}
    flat, last = f"flat_red_{DETECTOR}", "finish"
    assert list(jobs) == [
        f"superbias_{DETECTOR}",
        "beam_red",
        f"signals_red_{DETECTOR}",
        "solution_red",
        flat,
        "composite_red",
        "stability_red",
        f"defects_{DETECTOR}",
        last,
    ]
    assert jobs["beam_red"].needs == (f"superbias_{DETECTOR}",)
    assert set(jobs[f"signals_red_{DETECTOR}"].needs) == {f"superbias_{DETECTOR}", "beam_red"}
    assert set(jobs[flat].needs) == {"solution_red", f"signals_red_{DETECTOR}"}
    assert set(jobs[f"defects_{DETECTOR}"].needs) == {"composite_red", f"superbias_{DETECTOR}"}
    assert set(jobs[last].needs) == set(jobs) - {last}
    listed = [shlex.split(command)[1:] for group in list_tasks(config, fresh, list(QUICK)) for command in group.commands]
    assert [list(job.words) for job in jobs.values()][:-1] == listed[:-1]
    for form, sign in (("condor-dag", f"PARENT {flat} CHILD composite_red"), ("slurm-array", "afterok:$job_flat_red ")):
        assert sign in permil("tasks", fresh, *QUICK, "--format", form)[1]
    assert (fresh.parent / ".state" / "jobs").is_dir()
    code, _, messages = permil("tasks", fresh, "--format", "make", "--groups")
    assert (code, "--format prints all tasks in one file" in messages) == (2, True)


def test_second_led_and_stars_have_commands(fresh: Path) -> None:
    path = RunFolder(fresh.parent).exposures
    table = read_table(path)
    second, stars = table[table["led"] == "red"], table[table["purpose"] == BIAS]
    for rows, changes in ((second, {"led": "uv"}), (stars, {"purpose": SPOT, "filter": "red"})):
        rows["obsid"] = [f"{name}_again" for name in rows["obsid"]]
        for name, value in changes.items():
            rows[name] = [value] * len(rows)
    write_table(path, vstack([table, second, stars]))
    lines = {group.name: group.commands for group in _groups(fresh)}
    more = ("colour", "colour_tables", "catalog", "spots", "comparison")
    assert tuple(lines) == (*GROUPS[:-1], *more, "finish")
    options = " ".join(map(shlex.quote, QUICK))
    assert [lines[name] for name in more] == [
        (f"permil {words[0]} {fresh} {options} {' '.join(words[1:])}",)
        for words in (
            ("colour", "--detector", DETECTOR),
            ("colour", "--step", "colour_tables"),
            ("spots", "--detector", DETECTOR),
            ("spots", "--step", "spots"),
            ("compare", "--detector", DETECTOR),
        )
    ]
    jobs = {job.name: job for job in list_jobs(load_config(fresh, list(QUICK)), fresh, list(QUICK))}
    composites = {"composite_red", "composite_uv"}
    needs = {
        f"colour_{DETECTOR}": composites,
        "colour_tables": composites | {f"colour_{DETECTOR}"},
        f"catalog_{DETECTOR}": {f"superbias_{DETECTOR}"},
        "spots": {f"catalog_{DETECTOR}"},
        f"comparison_{DETECTOR}": composites | {"spots"},
        "finish": set(jobs) - {"finish"},
    }
    assert {name: set(jobs[name].needs) for name in needs} == needs
    for task in declared_tasks(Run.from_config(load_config(fresh, list(QUICK)))):
        if task.command and task.key[0] != "nodes":
            stage, options = STAGES[task.command[0]], dict(zip(task.command[1::2], task.command[2::2], strict=True))
            assert options.pop("--step", stage.default_step) == task.key[0]
            assert tuple(f"--{name}" for name in stage.steps[task.key[0]]) == tuple(options)
    # Stars of another light are not compared.
    led_of = list_tasks(load_config(fresh, [*QUICK, "compare.led_of={red: blue}"]), fresh, [])
    assert "comparison" not in [group.name for group in led_of]


def test_list_of_tasks_is_ready_for_a_shell(fresh: Path, permil: Permil) -> None:
    code, out, _ = permil("tasks", fresh, "flat.solver=divide")
    assert code == 0
    lines = out.splitlines()
    groups = ["# superbias", "# beam", "# flat", "# composite", "# stability", "# defects", "# finish"]
    assert [line for line in lines if line.startswith("#")] == groups
    assert f"permil flat {fresh} flat.solver=divide --step flat --led red --detector {DETECTOR}" in lines
    assert permil("tasks", fresh, "--groups")[1].split() == list(GROUPS)
    code, out, _ = permil("tasks", fresh, "--group", "superbias")
    assert out.splitlines() == [f"permil isr {fresh} --detector {DETECTOR}"]
    code, _, messages = permil("tasks", fresh, "--group", "nonsense")
    assert (code, "groups are superbias, beam" in messages) == (2, True)


def test_task_says_what_must_run_before(fresh: Path, permil: Permil) -> None:
    def refused(*arguments: str) -> str:
        code, _, messages = permil(arguments[0], fresh, *QUICK, *arguments[1:])
        assert code == 2
        assert messages.count("\n") == 1
        return messages

    of_detector = ("--led", "red", "--detector", DETECTOR)
    assert f"run `permil isr CONFIG --detector {DETECTOR}` first" in refused("flat", *of_detector)
    assert f"run `permil isr CONFIG --detector {DETECTOR}` first" in refused("beam", "--led", "red")
    assert permil("isr", fresh, "--detector", DETECTOR)[0] == 0
    assert "run `permil beam CONFIG --led red` first" in refused("flat", *of_detector)
    assert permil("beam", fresh, "--led", "red")[0] == 0
    signals = ("--step", "signals", *of_detector)
    for arguments in (of_detector, ("--step", "solution", "--led", "red"), ("--step", "composite", "--led", "red")):
        assert f"run `permil flat CONFIG {' '.join(signals)}` first" in refused("flat", *arguments)
    assert permil("flat", fresh, *QUICK, *signals)[0] == 0
    for arguments in (of_detector, ("--step", "composite", "--led", "red")):
        assert "run `permil flat CONFIG --step solution --led red` first" in refused("flat", *arguments)
    # What was made with other options counts as not made.
    code, _, messages = permil("beam", fresh, "isr.overscan_skip_first=4", "--led", "red")
    assert (code, "missing or out of date" in messages) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("flat", "--detector", DETECTOR), "the LED of this task is missing; name it with --led"),
        (("flat", "--step", "signals", "--led", "red"), "the step signals is of one detector; name one with --detector"),
        (
            ("flat", "--step", "solution", "--led", "red", "--detector", DETECTOR),
            "is of all detectors of an LED; leave --detector out",
        ),
        (("flat", "--step", "dance", "--led", "red"), "there is no step dance; steps are signals, solution, flat, composite"),
        (("flat", "--step", "composite", "--led", "ultraviolet"), "LED ultraviolet has no pointings"),
        (("isr", "--detector", "R99_S99"), "R99_S99"),
        (("isr", "--detector", "R22_S12"), "there is no bias exposure of R22_S12"),
        (("isr", "isr.bias=none", "--detector", DETECTOR), "there is no superbias to make with isr.bias=none"),
        (("isr", "--step", "noise", "--detector", DETECTOR), "no gains are measured with isr.photon_transfer=false"),
        (("colour", "--detector", DETECTOR), "no science detector has flats in two LEDs"),
        (("colour", "--step", "colour_tables", "--detector", DETECTOR), "is of all detectors; leave --detector out"),
        (("spots", "--detector", DETECTOR), "there are no spot exposures"),
        (("compare", "--detector", DETECTOR, "--no-flat-out"), "there are no residuals of stars"),
        (("beam", "--led", "blue"), "blue"),
    ],
)
def test_task_that_does_not_exist(fresh: Path, permil: Permil, arguments: tuple[str, ...], sentence: str) -> None:
    code, _, messages = permil(arguments[0], fresh, *arguments[1:])
    assert code == 2
    assert sentence in messages
    assert messages.count("\n") == 1


def test_steps_of_the_joint_solution_are_not_of_divide(fresh: Path, permil: Permil) -> None:
    run_pipeline(load_config(fresh, ["pipeline.workers=1"]), stages=("isr", "beam"))
    code, _, messages = permil("flat", fresh, "flat.solver=divide", "--step", "solution", "--led", "red")
    assert (code, "divide has no such step; continue with the step flat" in messages) == (2, True)
    assert permil("flat", fresh, "flat.solver=divide", "--led", "red", "--detector", DETECTOR)[0] == 0
    code, _, messages = permil("flat", fresh, "flat.solver=divide", "--led", "red", "--detector", DETECTOR)
    assert (code, "0 done, 1 up to date" in messages) == (0, True)
    assert permil("flat", fresh, "flat.solver=divide", "--step", "composite", "--led", "red")[0] == 0
    assert RunFolder(fresh.parent).metrics("red").is_file()


def test_options_may_come_before_the_configuration(fresh: Path, permil: Permil) -> None:
    code, _, messages = permil("flat", "--led", "red", "--detector", DETECTOR, fresh)
    assert (code, "superbias" in messages) == (2, True)
