"""Test the command line itself: usage, help, names, version and completion."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Annotated, Literal

import pytest
import typer
from conftest import Call, ingest_options
from typer.testing import CliRunner

from search.cli.application import HELP_OPTIONS, group
from search.cli.command import loading

Size = Literal["small", "large"]


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["-k", "7", "--least", "-0.5", "--size", "large", "--name", "a", "--name", "b", "--folder", "no such folder"],
        ["-k", " 7 "],  # Typer accepts it
        ["-k", "1_0"],
        ["-k", "0"],
        ["-k", "seven"],
        ["--least", "1e-3"],
        ["--least", "nan"],
        ["--size", "medium"],
        ["--folder", ""],
        ["--id", "٣"],
    ],
)
def test_values_are_those_of_typer(words: list[str]) -> None:
    """Our conversion of plain values changes neither values nor messages."""

    def run(app: typer.Typer) -> tuple[int, str, list[object]]:
        given: list[object] = []

        @app.command()
        def show(
            k: Annotated[int, typer.Option("-k", min=1)] = 10,
            least: Annotated[float | None, typer.Option(min=-1, max=1)] = None,
            size: Annotated[Size | None, typer.Option()] = None,
            name: Annotated[list[str] | None, typer.Option()] = None,
            image: Annotated[list[int] | None, typer.Option("--id")] = None,
            folder: Annotated[Path | None, typer.Option()] = None,
            loud: Annotated[bool, typer.Option("--loud")] = False,
        ) -> None:
            given.extend([k, least, size, name, image, folder, loud])

        done = CliRunner().invoke(app, words)
        return done.exit_code, done.output, [(type(each), repr(each)) for each in given]

    plain = typer.Typer(add_completion=False, rich_markup_mode=None, context_settings=HELP_OPTIONS)
    assert run(group("")) == run(plain)


@pytest.mark.parametrize("package", ["ingest", "search", "eval"])
def test_wrong_usage_is_exit_code_2(call: Call, package: str) -> None:
    assert call(package, "no-such-command")[0] == 2
    assert call(package, "--no-such-option")[0] == 2


@pytest.mark.parametrize("wrong", [["--dtype", "float8"], ["--prompt", "a photo"], ["--prompt", "{} {}"]])
def test_options_of_an_ingestion_that_make_no_sense(
    call: Call, photo_set: Path, clip_folder: Path, wrong: list[str]
) -> None:
    code, out, err = call("ingest", *ingest_options(photo_set, clip_folder, []), *wrong)
    assert (code, out) == (2, "")
    assert wrong[0] in err


@pytest.mark.parametrize(
    ("package", "commands"),
    [
        ("ingest", ["", "run", "demo", "download", "status", "drop", "copy", "backup", "restore", "export", "import"]),
        ("search", ["", "text", "image", "serve", "batch"]),
        ("eval", ["", "run", "bench ingest", "bench eval", "bench search", "bench scale"]),
    ],
)
def test_help_is_instant(package: str, commands: list[str]) -> None:
    """No help text waits for torch, the Qdrant client or numpy."""
    code = f"""
import sys
from {package}.__main__ import main
heavy = {{"torch", "sentence_transformers", "transformers", "qdrant_client", "qdrant_edge", "numpy", "fastapi",
             "rich", "tqdm", "PIL", "jinja2"}}
for command in {commands!r}:
    sys.argv = [{package!r}, *command.split(), "--help"]
    try:
        main()
    except SystemExit as end:
        assert not end.code, command
    assert not heavy & set(sys.modules), (command, heavy & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in commands:
        assert f"python -m {package} {command}".rstrip() in done.stdout


SCRIPTS = Path(sys.executable).parent


def run_script(*words: str, **environment: str) -> str:
    command = [str(SCRIPTS / words[0]), *words[1:]]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **environment})
    return done.stdout


def test_a_command_has_the_name_by_which_it_was_started() -> None:
    for package, command in (("ingest", "run"), ("search", "text"), ("eval", "compare")):
        by_script = run_script(f"coco-{package}", command, "-h")
        assert f"Usage: coco-{package} {command} " in by_script
        assert f"\nExamples:\n  coco-{package} {command} " in by_script
        by_module = run_script("python", "-m", package, command, "--help")
        assert by_module == by_script.replace(f"coco-{package}", f"python -m {package}")


def test_what_takes_long_to_load_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with loading("some/clip", after=0.01):
        threading.Event().wait(0.2)
    with loading("quick/clip"):
        pass
    assert capsys.readouterr() == ("", "loading the model some/clip\n")


def test_the_version() -> None:
    assert re.fullmatch(r"coco-search \d+\.\d+\.\d+\n", run_script("coco-eval", "--version"))


def test_shells_complete_the_console_scripts_and_leave_python_alone() -> None:
    script = run_script("coco-search", "--show-completion", "bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert "complete -o default -F _coco_search_completion coco-search" in script
    typed = {"_COCO_SEARCH_COMPLETE": "complete_bash", "COMP_WORDS": "coco-search text --min", "COMP_CWORD": "2"}
    assert run_script("coco-search", **typed).split() == ["--min-score", "--minus", "--minus-image"]
    assert "completion" not in run_script("python", "-m", "search", "--help")


def test_a_folder_of_photos_that_does_not_exist(call: Call) -> None:
    for command in (["search", "text", "a dog", "--html", "x"], ["search", "serve"], ["eval", "run", "--out", "x"]):
        code, _, err = call(*command, "--images", "nope")
        assert code == 2
        assert "'nope' does not exist" in " ".join(err.split())
