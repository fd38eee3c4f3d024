"""Restoration networks, one paper per file, behind one registry."""

from dcpt.backbones import nafnet as nafnet
from dcpt.backbones.base import Backbone, create_backbone, list_backbones, register_backbone

__all__ = ["Backbone", "create_backbone", "list_backbones", "register_backbone"]
