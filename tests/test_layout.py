"""Rules of the house that a machine can check, over the syntax trees of the package."""

import ast
from pathlib import Path

import pytest

import dcpt

PACKAGE = Path(dcpt.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# A module imports only from strictly lower layers; within a folder, bases before users.
LAYERS = [
    {"errors"},
    {"registry", "files", "device", "memory", "data.batches"},
    {"published"},
    {"recipe", "processes"},
    {"gradients", "strips", "photographs.color", "photographs.completeness", "photographs.png", "photographs.ppm"},
    {"photographs.containers", "photographs.metadata"},
    {"photographs.samples", "photographs.sixteen_bit", "photographs.tiff"},
    {"photographs.encoding"},
    {"photographs.photograph"},
    {"photographs"},
    {"layers", "losses", "metrics", "extra_metrics", "tiling", "image", "report", "repository"},
    {"weights", "protocols"},
    {"backbones.base", "heads.degradation_classifier", "degradations.base"},
    {"backbones.transformer"},
    {"backbones.nafnet", "backbones.promptir", "backbones.restormer", "backbones.swinir",
     "degradations.noise", "degradations.blur", "degradations.compression", "degradations.mosaic",
     "degradations.light", "degradations.masking"},
    {"degradations.weather"},
    {"backbones", "heads", "degradations"},
    {"checkpoint", "dialects"},
    {"calibration", "conversion", "data.crops", "model_card", "run_folder"},
    {"data.synthetic", "data", "runs", "step_log", "validation"},
    {"data.folders"},
    {"data.layouts", "data.shards"},
    {"data.mixture"},
    {"hub"},
    {"preparation", "cases", "diagnosis", "features"},
    {"probe_report", "steering"},
    {"training"},
    {"restoration", "pretraining", "finetuning", "evaluation", "listing", "publishing", "diagnosis_picture",
     "probing"},
    {"restoration_journal"},
    {"restoration_plan"},
    {"restoration_report"},
    {"restoration_run"},
    {"report_files"},
    {"cli.base"},
    {"cli.diagnosis", "cli.pictures", "cli.weights", "cli.training", "cli.evaluation"},
    {"cli"},
    {"__init__", "__main__"},
]  # fmt: skip
# A network saves and publishes itself, and asks for those who can only then.
LATE_ALLOWED = {("backbones.base", "checkpoint"), ("backbones.base", "publishing")}
DEPTH = {name: depth for depth, layer in enumerate(LAYERS) for name in layer}


def module_name(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def imported_modules(tree):
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("dcpt"):
            continue
        base = node.module.removeprefix("dcpt").lstrip(".")
        for alias in node.names:
            full = f"{base}.{alias.name}".lstrip(".")
            yield full if full in DEPTH else base or "__init__"


def functions(tree):
    return [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]


@pytest.fixture(scope="module")
def trees():
    return {module_name(path): ast.parse(path.read_text(encoding="utf-8")) for path in FILES}


def test_every_module_has_a_layer_and_every_layer_a_module(trees):
    assert set(trees) == set(DEPTH)


def test_imports_point_down(trees):
    offences = [
        f"{name} imports {used}"
        for name, tree in trees.items()
        if name not in ("__init__", "__main__")
        for used in imported_modules(tree)
        if DEPTH[used] >= DEPTH[name] and (name, used) not in LATE_ALLOWED
    ]
    assert not offences


def test_no_module_imports_an_init_that_encloses_it(trees):
    offences = [
        f"{name} imports {used}"
        for name, tree in trees.items()
        for used in imported_modules(tree)
        if name.startswith(f"{used}.") or (used == "__init__" and name != "__main__")
    ]
    assert not offences


def test_files_and_functions_are_short():
    for path in FILES:
        source = path.read_text(encoding="utf-8")
        assert source.count("\n") <= 450, path
        for function in functions(ast.parse(source)):
            length = function.end_lineno - function.lineno + 1
            assert length <= 80, f"{path.name}: {function.name} has {length} lines"


def test_every_module_and_public_name_is_documented_and_typed(trees):
    missing = []
    for module, tree in trees.items():
        if not ast.get_docstring(tree):
            missing.append(module)
        for node in tree.body:
            overload = any(getattr(d, "id", "") == "overload" for d in getattr(node, "decorator_list", []))
            public = not getattr(node, "name", "_").startswith("_") and not overload
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and public and not ast.get_docstring(node):
                missing.append(f"{module}.{node.name}")
            if isinstance(node, ast.FunctionDef) and public:
                arguments = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
                if node.returns is None or any(argument.annotation is None for argument in arguments):
                    missing.append(f"{module}.{node.name} (types)")
    assert not missing


def test_files_are_not_named_after_nothing():
    banned = {"utils", "util", "helpers", "helper", "common", "manager", "opt", "misc"}
    assert not banned & {path.stem for path in FILES}


def test_public_names_are_few_and_all_exist():
    assert len(dcpt.__all__) <= 21
    for name in dcpt.__all__:
        assert getattr(dcpt, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'restor'"):
        _ = dcpt.restor
