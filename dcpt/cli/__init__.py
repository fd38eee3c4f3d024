"""The command line: one verb, one short function. Heavy imports happen inside the verbs."""

from dcpt.cli import diagnosis, evaluation, pictures, training, weights  # noqa: F401  (they add their commands)
from dcpt.cli.base import main as main
