"""Heads on top of backbone features."""

from dcpt.heads.degradation_classifier import DegradationClassifier

__all__ = ["DegradationClassifier"]
