"""Everything a user can do wrong, as a handful of exception kinds.

Each message is one sentence: what was expected, what was got and what to do. The command
line prints it on one line and exits with code 1; nothing here ever needs a traceback.
"""


class DcptError(Exception):
    """Base of all errors that a user can cause and mend."""


class UnknownName(DcptError, KeyError):
    """A backbone, degradation, weights, recipe or option name that does not exist."""

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError would print the repr, quotes and all


class InvalidImage(DcptError, ValueError):
    """A picture or batch that cannot be read or has the wrong shape, type or range."""


class InvalidData(DcptError, ValueError):
    """A data folder or packed file that cannot serve for training or evaluation."""


class InvalidSetting(DcptError, ValueError):
    """A setting or option whose value is out of range."""


class CheckpointMismatch(DcptError, ValueError):
    """Weights that are damaged or belong to another network."""


class OutOfMemory(DcptError, MemoryError):
    """A picture that does not fit into memory, not even in the smallest tiles."""


class OutputError(DcptError, OSError):
    """A result that cannot be written where it was asked for."""


class HubError(DcptError, OSError):
    """Weights that the Hub does not give or take, or that are not what they should be."""


class HubUnreachable(HubError):
    """The Hub does not answer: no connection, an outage, too many requests, no access."""


class NotOnHub(HubError):
    """A repository that does not exist, or that the Hub hides because it is private."""


class RunStopped(DcptError):
    """A training that was asked to stop, and can be resumed."""


class MissingExtra(DcptError, ImportError):
    """A package that only some uses need is not installed."""
