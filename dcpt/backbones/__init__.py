"""Restoration networks, one paper per file, behind one registry."""

from dcpt.backbones import nafnet as nafnet
from dcpt.backbones import promptir as promptir
from dcpt.backbones import restormer as restormer
from dcpt.backbones import swinir as swinir
from dcpt.backbones.base import Backbone, create_backbone, list_backbones, register_backbone

__all__ = ["Backbone", "create_backbone", "list_backbones", "register_backbone"]
