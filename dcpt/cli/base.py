"""What all commands share: the group, common options, and how options are read."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

import click

from dcpt.errors import DcptError

PATH = click.Path(path_type=Path)
DEVICE = click.option("--device", help="cpu, cuda or mps; default: the fastest there is.")
OPTION = click.option(
    "--option", "options", multiple=True, metavar="KEY=VALUE",
    help="What a checkpoint file does not tell of its network, such as attention=softmax.",
)  # fmt: skip


class Commands(click.Group):
    """A group that turns a user's mistake into one line and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # its retries; what comes of them is said in one line
        warnings.showwarning = lambda message, *_, **__: click.echo(f"warning: {message}", err=True)
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # nobody reads on; click ends quietly with exit code 1
            raise
        except (DcptError, OSError) as error:
            message = " ".join(str(error).split()) or type(error).__name__
        except (RuntimeError, MemoryError) as error:
            from dcpt.memory import is_out_of_memory  # loads torch, as what ran out of memory has

            if not is_out_of_memory(error):
                raise
            message = "out of memory; try a smaller --tile-size, another --device, or close other programs"
        raise click.ClickException(message) from None


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="dcpt", prog_name="dcpt")
def main() -> None:
    """Restore photographs, whatever is wrong with them."""


def print_facts(facts: dict[str, Any], as_json: bool) -> None:
    """Print plain data as JSON, or line by line."""
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    for name, value in facts.items():
        values = [f"{key}={entry}" for key, entry in value.items()] if isinstance(value, dict) else value
        click.echo(f"{name:18}{', '.join(map(str, values)) if isinstance(values, (list, tuple)) else values}")


def parse_settings(settings: tuple[str, ...]) -> dict[str, str]:
    """Split KEY=VALUE settings."""
    for setting in settings:
        if "=" not in setting:
            raise DcptError(f"expected a setting as KEY=VALUE, got {setting!r}")
    return {key: value for key, value in (setting.split("=", 1) for setting in settings)}


def parse_options(options: tuple[str, ...]) -> dict[str, Any]:
    """Split KEY=VALUE options, whose values are written as in YAML: numbers, words, true, [1, 2]."""
    import yaml

    try:
        values = {key: yaml.safe_load(value) for key, value in parse_settings(options).items()}
    except yaml.YAMLError as error:
        raise DcptError(f"expected an option as KEY=VALUE, got {' '.join(options)}: {error}") from None
    return {key: convert_number(value) for key, value in values.items()}


def convert_number(value: Any) -> Any:
    """Return the number that a word such as 1e-6, a string to YAML, stands for; anything else as it is."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value
