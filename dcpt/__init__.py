"""All-in-one image restoration by degradation classification pre-training.

    import dcpt
    clean = dcpt.restore("rainy.jpg")

Importing this package loads nothing else: each name below is fetched when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dcpt.backbones import Backbone as Backbone
    from dcpt.backbones import create_backbone as create_backbone
    from dcpt.backbones import list_backbones as list_backbones
    from dcpt.backbones import register_backbone as register_backbone
    from dcpt.degradations import degrade as degrade
    from dcpt.degradations import list_degradations as list_degradations
    from dcpt.degradations import register_degradation as register_degradation
    from dcpt.diagnosis import Diagnosis as Diagnosis
    from dcpt.diagnosis import diagnose as diagnose
    from dcpt.errors import DcptError as DcptError
    from dcpt.finetuning import finetune as finetune
    from dcpt.heads import DegradationClassifier as DegradationClassifier
    from dcpt.hub import from_pretrained as from_pretrained
    from dcpt.pretraining import dcpt_pretrain_step as dcpt_pretrain_step
    from dcpt.pretraining import pretrain as pretrain
    from dcpt.recipe import load_recipe as load_recipe
    from dcpt.restoration import Restorer as Restorer
    from dcpt.restoration import restore as restore
    from dcpt.restoration_run import restore_folder as restore_folder
    from dcpt.weights import list_weights as list_weights

__version__ = "0.1.0"

_HOME = {
    "Backbone": "backbones",
    "create_backbone": "backbones",
    "list_backbones": "backbones",
    "register_backbone": "backbones",
    "degrade": "degradations",
    "list_degradations": "degradations",
    "register_degradation": "degradations",
    "Diagnosis": "diagnosis",
    "diagnose": "diagnosis",
    "DcptError": "errors",
    "finetune": "finetuning",
    "DegradationClassifier": "heads",
    "from_pretrained": "hub",
    "dcpt_pretrain_step": "pretraining",
    "pretrain": "pretraining",
    "load_recipe": "recipe",
    "Restorer": "restoration",
    "restore": "restoration",
    "restore_folder": "restoration_run",
    "list_weights": "weights",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'dcpt' has no attribute {name!r}")
    value = getattr(import_module(f"dcpt.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
