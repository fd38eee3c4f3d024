"""Photograph files in and out, with nothing lost but what was to be removed."""

from dcpt.photographs.photograph import Photograph, open_photograph

__all__ = ["Photograph", "open_photograph"]
