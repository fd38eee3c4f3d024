"""Measure the bundled weights, and bring everything that is said of them up to date.

    python benchmarks/weights.py CBSD68       # a folder of the 68 pictures

Writes `evaluation.json` beside each set of bundled weights, and from these the marked parts of
the README and the model card in `examples/`. A test compares them.
"""

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

from dcpt import Restorer, from_pretrained
from dcpt.cases import load_clean_pictures
from dcpt.device import pick_device
from dcpt.evaluation import classify_synthetic, evaluate_synthetic
from dcpt.files import write_json
from dcpt.listing import format_weights
from dcpt.model_card import write_card
from dcpt.report import EVALUATION_FILE, read_report
from dcpt.weights import DEFAULT_WEIGHTS, ORGANISATION, PRETRAINED_PAIR, WEIGHTS

ROOT = Path(__file__).parent.parent
README, CARD = ROOT / "README.md", ROOT / "examples" / "model_card.md"


def measure(pictures, data, device):
    """Evaluate both sets of bundled weights and write down what comes out."""
    restorer = Restorer(DEFAULT_WEIGHTS, device=device)
    restoration = evaluate_synthetic(restorer.restore_batch, pictures, data=data, progress=tqdm)
    write_json(WEIGHTS[DEFAULT_WEIGHTS].folder / EVALUATION_FILE, restoration.as_dict())
    pair = from_pretrained(PRETRAINED_PAIR, with_head=True, device=pick_device(device))
    recognition = classify_synthetic(*pair, pictures, data=data, progress=tqdm)
    write_json(WEIGHTS[PRETRAINED_PAIR].folder / EVALUATION_FILE, recognition.as_dict())


def render_readme(text):
    """Return the README with its marked parts as the table of weights and the measurements say."""
    restoration, recognition = (read_report(WEIGHTS[name].measured) for name in (DEFAULT_WEIGHTS, PRETRAINED_PAIR))
    parts = {
        "list": f"```\n{format_weights()}\n```",
        "restoration": restoration.table(),
        "recognition": recognition.table(),
    }
    for name, part in parts.items():
        begin, end = f"<!-- {name}: by benchmarks/weights.py -->", f"<!-- end of {name} -->"
        if text.count(begin) != 1 or text.count(end) != 1:
            raise SystemExit(f"expected one part marked {name!r} in the README")
        before, after = text.partition(begin)[0], text.partition(end)[2]
        text = f"{before}{begin}\n\n{part}\n\n{end}{after}"
    return text


def render_card():
    """Return the model card of the bundled weights."""
    return write_card(WEIGHTS[DEFAULT_WEIGHTS].folder, f"{ORGANISATION}/{DEFAULT_WEIGHTS}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", help="Folder of clean pictures; without it nothing is measured.")
    parser.add_argument("--name", default="CBSD68", help="What to call the set of pictures.")
    parser.add_argument("--device")
    arguments = parser.parse_args()
    if arguments.data:
        measure(load_clean_pictures(arguments.data), arguments.name, arguments.device)
    README.write_text(render_readme(README.read_text(encoding="utf-8")), encoding="utf-8")
    CARD.write_text(render_card(), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
