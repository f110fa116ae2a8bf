"""The Typer applications: help in groups with examples, the version, shell completion, and the program's name."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup

from search.cli.values import with_plain_values

HELP_OPTIONS = {"help_option_names": ["-h", "--help"]}
SCRIPTS = ("coco-ingest", "coco-search", "coco-eval")
METAVARS = {
    "<str>": "TEXT",
    "<list[str]>": "TEXT",
    "<int>": "N",
    "<list[int]>": "N",
    "<int range>": "N",
    "<float>": "X",
    "<float range>": "X",
    "<path>": "PATH",
    "<dir>": "PATH",
}

Rules = Mapping[str, Sequence[str]]
"""For each option, the other options that it depends on; all are written with their dashes."""


def application(help_text: str) -> Application:
    """Return the application of one package, which also has `--version`.

    It has shell completion if it was started as a console script: shells complete the arguments of a program, and that
    of `python -m search` is Python.
    """
    app = Application(help=help_text, add_completion=_is_script(), **_SETTINGS)

    @app.callback()
    def root(
        _version: Annotated[
            bool,
            typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
        ] = False,
    ) -> None: ...

    return app


def group(help_text: str) -> Application:
    """Return a group of commands within an application."""
    return Application(help=help_text, add_completion=False, **_SETTINGS)


def program(package: str) -> str:
    """Return the name of a package's command, as this process was started: `coco-search` or `python -m search`."""
    return f"coco-{package}" if _is_script() else f"python -m {package}"


class Command(TyperCommand):
    """A command whose help has a section for each group of options (`rich_help_panel`), and examples at its end.

    The examples are the lines of the epilog: what follows the name of the command.

    `needs` lists options that have an effect only with at least one of others, and `excludes` options that have one
    only without any of them. An option that would have no effect is refused as wrong usage.
    """

    needs: ClassVar[Rules] = {}
    excludes: ClassVar[Rules] = {}

    def invoke(self, ctx: Any) -> Any:
        given = {
            name
            for parameter in self.get_params(ctx)
            if ctx.get_parameter_source(parameter.name).name == "COMMANDLINE"
            for name in parameter.opts
        }
        for option, others in self.needs.items():
            if option in given and given.isdisjoint(others):
                raise typer.BadParameter(f"{option} has no effect without {' or '.join(others)}")
        for option, others in self.excludes.items():
            if option in given and (other := next((each for each in others if each in given), None)):
                raise typer.BadParameter(f"{option} has no effect with {other}")
        return super().invoke(ctx)

    def get_params(self, ctx: Any) -> Any:
        return with_plain_values(super().get_params(ctx))

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                plain = "Arguments" if parameter.param_type_name == "argument" else "Options"
                title = getattr(parameter, "rich_help_panel", None) or plain
                sections.setdefault(title, []).append((_with_short_metavar(record[0]), record[1]))
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        if self.epilog:
            with formatter.section("Examples"):
                for arguments in self.epilog.splitlines():
                    formatter.write(f"{'':>{formatter.current_indent}}{ctx.command_path} {arguments}\n")


class Group(TyperGroup):
    """A group of commands."""

    def get_params(self, ctx: Any) -> Any:
        return with_plain_values(super().get_params(ctx))


class Application(typer.Typer):
    """A Typer application whose commands are of the class `Command`."""

    def command(  # type: ignore[override]
        self,
        name: str | None = None,
        *,
        examples: Sequence[str] = (),
        needs: Rules | None = None,
        excludes: Rules | None = None,
    ) -> Callable[[Callable[..., None]], Callable[..., None]]:
        """Return a decorator that adds a command; `examples` are its arguments; for the others, see `Command`."""
        with_rules = type("Command", (Command,), {"needs": needs or {}, "excludes": excludes or {}})
        return super().command(name, cls=with_rules, epilog="\n".join(examples) or None)


_SETTINGS: dict[str, Any] = {
    "cls": Group,
    "no_args_is_help": True,
    "pretty_exceptions_enable": False,
    "rich_markup_mode": None,  # rich takes as long to import as all the rest
    "context_settings": HELP_OPTIONS,
}


def _with_short_metavar(names: str) -> str:
    for ours in METAVARS:
        names = names.replace(f" {ours}", f" {METAVARS[ours]}")
    return names


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"coco-search {version('coco-search')}")
        raise typer.Exit


def _is_script() -> bool:
    return Path(sys.argv[0]).stem in SCRIPTS
