"""Fit the calibration of the bundled pair, and measure how far its diagnoses can be trusted.

    python benchmarks/diagnosis.py fit CROPS.safetensors [--cache DESCRIPTIONS.safetensors]
    python benchmarks/diagnosis.py measure TESTDATA [-o confusion.png] [--device cpu]

Fitting takes clean photographs that `dcpt pack` made one file of, degrades patches of them once, twice
or three times, and needs a quarter of a second for each of 4500; the cache keeps what they look like to
the pair. Every fifth of the crops, the last ones, is held out for temperatures and thresholds. TESTDATA
has the folders clean/kodak24 and pairs; nothing of it is ever fitted on.
"""

import argparse
import io
from collections import Counter
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps
from torch import nn
from tqdm import tqdm

import dcpt
from dcpt.calibration import Calibration, Describer, save_calibration
from dcpt.cases import degrade_frozen, load_clean_pictures, synthetic_labels
from dcpt.checkpoint import read_tensors, write_tensors
from dcpt.data.crops import find_photographs, load_crops, sample_patches
from dcpt.data.synthetic import MARGIN
from dcpt.degradations import apply_degradations, list_degradations
from dcpt.diagnosis import Diagnoser
from dcpt.recipe import CLEAN, load_recipe
from dcpt.report import NOISE_25
from dcpt.weights import PRETRAINED_PAIR, WEIGHTS

COUNT, CLEAN_COUNT, BLOCK, HELD_EVERY = 3750, 750, 150, 5
SIZES, SIZE_SHARES = (224, 160, 96), (0.65, 0.25, 0.1)
NUMBER_SHARES = (0.14, 0.5, 0.24, 0.12)  # of pictures with no, one, two and three degradations
STORED_SHARE, STORED_QUALITY = 0.25, (88, 99)  # as cameras and websites store what counts as clean
CLEAN_RATE, UNKNOWN_RATE = 0.95, 0.01
HIDDEN, EPOCHS = 256, 60
BINS = 10


def draw_picture(crops, seed):
    """Degrade a patch; return it, (1, 3, P, P), and which degradations it has."""
    generator = torch.Generator().manual_seed(seed)
    gt = draw_patch(crops, generator)
    number = draw_index(NUMBER_SHARES, generator)
    names = list_degradations()
    chosen = torch.randperm(len(names), generator=generator)[:number].tolist()
    share = 0.7 if number > 1 else 1.0
    severities = {names[i]: share * draw(generator) for i in chosen}
    lq = apply_degradations(gt, severities, generator)
    present = torch.zeros(len(names) + 1)
    present[chosen or [-1]] = 1
    return finish(lq, generator), present


def draw_clean(crops, seed):
    """Change only brightness, contrast and colourfulness of a patch, as photographs differ in them anyway."""
    generator = torch.Generator().manual_seed(seed)
    picture = draw_patch(crops, generator) ** draw(generator, 0.75, 1.35)
    mean, grey = picture.mean(), picture.mean(1, keepdim=True)
    picture = mean + (picture - mean) * draw(generator, 0.75, 1.2)
    picture = grey + (picture - grey) * draw(generator, 0.6, 1.3)
    present = torch.zeros(len(list_degradations()) + 1)
    present[-1] = 1
    return finish(picture.clamp(0, 1), generator), present


def draw(generator, low=0.0, high=1.0):
    return low + (high - low) * float(torch.rand((), generator=generator))


def draw_index(shares, generator):
    return int(torch.multinomial(torch.tensor(shares), 1, generator=generator))


def draw_patch(crops, generator):
    size = SIZES[draw_index(SIZE_SHARES, generator)]
    return sample_patches(crops, 1, size + 2 * MARGIN, generator)


def finish(picture, generator):
    """Cut the margin off and store the picture in a file, without loss or nearly so."""
    picture = (picture[..., MARGIN:-MARGIN, MARGIN:-MARGIN] * 255).round() / 255
    if draw(generator) >= STORED_SHARE:
        return picture
    quality = int(torch.randint(*STORED_QUALITY, (), generator=generator))
    buffer = io.BytesIO()
    to_pil(picture).save(buffer, ("JPEG", "WEBP")[int(torch.randint(2, (), generator=generator))], quality=quality)
    return to_tensor(Image.open(buffer))


def to_pil(picture):
    return Image.fromarray((picture[0] * 255).round().byte().permute(1, 2, 0).numpy())


def to_tensor(image):
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None] / 255


@torch.inference_mode()
def describe_crops(path, describer):
    """Return what the pair sees in degraded patches, which degradations they have, and which are held out."""
    kept, held = load_crops([path]).split(1 / HELD_EVERY)
    rows, labels, held_out = [], [], []
    for seed in tqdm(range(COUNT + CLEAN_COUNT)):
        held_out.append(seed // BLOCK % HELD_EVERY == HELD_EVERY - 1)
        make = draw_picture if seed < COUNT else draw_clean
        lq, present = make(held if held_out[-1] else kept, seed)
        rows.append(describer(lq))
        labels.append(present)
    return {"x": torch.cat(rows), "y": torch.stack(labels), "held": torch.tensor(held_out)}


def fit(path, cache):
    backbone, head = dcpt.from_pretrained(PRETRAINED_PAIR, with_head=True)
    describer = Describer(backbone, head).eval()
    if cache and cache.exists():
        data = read_tensors(cache)
    else:
        data = describe_crops(path, describer)
        if cache:
            write_tensors(cache, data)
    held = data["held"]
    x, y, x_held, y_held = data["x"][~held], data["y"][~held], data["x"][held], data["y"][held]
    num_usual = describer.width - describer.embedding.start
    calibration = Calibration(describer.width, y.shape[1], hidden=HIDDEN, num_usual=num_usual)
    calibration.mean, calibration.spread = x.mean(0), x.std(0).clamp(min=1e-6)
    train(calibration, x, y)
    with torch.no_grad():
        set_temperatures(calibration, x_held, y_held)
        set_unknown(calibration, x, x_held)
        set_clean_threshold(calibration, x_held, y_held)
    save_calibration(calibration, WEIGHTS[PRETRAINED_PAIR].folder)


def train(calibration, x, y, *, batch_size=64, lr=2e-3, weight_decay=0.01):
    torch.manual_seed(0)
    calibration.hidden.reset_parameters()
    calibration.output.reset_parameters()
    x = calibration.standardize(x).clamp(-8, 8)
    layers = [nn.Dropout(0.15), calibration.hidden, nn.ReLU(), nn.Dropout(0.3), calibration.output]
    network = nn.Sequential(*layers)
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=weight_decay)
    steps = EPOCHS * len(x) // batch_size
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, steps)
    for _ in tqdm(range(steps)):
        chosen = torch.randint(len(x), (batch_size,))
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(network(x[chosen]), y[chosen]).backward()
        optimizer.step()
        schedule.step()


def set_temperatures(calibration, x, y):
    """Choose for each degradation the temperature, 0.5 to 2, of the highest likelihood on held-out pictures."""
    logits, candidates = calibration(x), torch.logspace(-0.3, 0.3, 61)
    losses = [F.binary_cross_entropy_with_logits(logits / t, y, reduction="none").mean(0) for t in candidates]
    calibration.temperature = candidates[torch.stack(losses).argmin(0)]
    print("temperatures", [round(t, 2) for t in calibration.temperature.tolist()])


def set_unknown(calibration, x, x_held, *, ridge=0.01):
    z = calibration.standardize(x)[:, -calibration.num_usual :]
    covariance = torch.cov(z.T) + ridge * torch.eye(z.shape[1])
    calibration.whitening = torch.linalg.cholesky(torch.linalg.inv(covariance))
    calibration.unknown_threshold = calibration.distance(x_held).quantile(1 - UNKNOWN_RATE)


def set_clean_threshold(calibration, x, y):
    probability, clean = calibration(x)[:, -1].sigmoid(), y[:, -1] == 1
    calibration.clean_threshold = probability[clean].quantile(1 - CLEAN_RATE)
    missed = (probability[~clean] >= calibration.clean_threshold).float().mean()
    print(f"clean from {calibration.clean_threshold:.3f}: {CLEAN_RATE:.0%} of held-out clean pictures look clean, "
          f"and {missed:.1%} of degraded ones")  # fmt: skip


def truth(label):
    return "noise" if label == NOISE_25 else label


def answer(diagnosis):
    return CLEAN if diagnosis.clean else max(diagnosis.probabilities, key=diagnosis.probabilities.get)


def expected_calibration_error(confidence, correct):
    """Mean gap between confidence and share of right answers, over bins of equal width by their counts."""
    confidence, correct = np.asarray(confidence), np.asarray(correct, float)
    which = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = [abs(confidence[which == b].sum() - correct[which == b].sum()) for b in range(BINS)]
    return sum(gaps) / len(confidence)


def average_precision(scores, present):
    """Mean precision at the rank of each picture that has the degradation."""
    hits = np.asarray(present, float)[np.argsort(-np.asarray(scores), kind="stable")]
    return float((hits.cumsum() / np.arange(1, len(hits) + 1) * hits).sum() / hits.sum())


def measure_single(diagnoser, pictures, output):
    labels, columns = synthetic_labels("synthetic-10d"), [*list_degradations(), CLEAN]
    counts, top, each = {label: Counter() for label in labels}, [], []
    unknown = 0
    for label in tqdm(labels):
        true = truth(label)
        for index, gt in enumerate(pictures):
            found = diagnoser.diagnose(degrade_frozen(gt, label, index))
            counts[label][answer(found)] += 1
            if label != true:  # sigma 25 is shown, but noise counts once
                continue
            unknown += found.unknown
            values = found.probabilities | {CLEAN: found.clean_probability}
            best = max(values, key=values.get)
            top.append((values[best], best == true))
            each += [(value, name == true) for name, value in values.items()]
    right = {label: counts[label][truth(label)] for label in labels}
    accuracy = sum(right[label] for label in columns) / len(top)
    print(f"\nsynthetic-10d of {len(pictures)} pictures: accuracy {accuracy:.1%}; expected calibration error of the")
    print(f"most probable answer {expected_calibration_error(*zip(*top)):.3f}, of all probabilities", end=" ")
    print(f"{expected_calibration_error(*zip(*each)):.3f}; called unlike anything: {unknown} of {len(top)}\n")
    print("| picture | right | taken for |\n|---|---|---|")
    for label in labels:
        wrong = ", ".join(f"{name} {n}" for name, n in counts[label].most_common() if name != truth(label))
        print(f"| {label} | {right[label] / len(pictures):.0%} | {wrong or '-'} |")
    if output:
        draw_confusion(counts, columns, len(pictures)).save(output)


def draw_confusion(counts, columns, total, cell=52, left=170, top=130):
    sheet = Image.new("RGB", (left + cell * len(columns) + 16, top + cell * len(counts) + 16), "white")
    draw, font, large = ImageDraw.Draw(sheet), ImageFont.load_default(14), ImageFont.load_default(16)
    for j, name in enumerate(columns):
        text = Image.new("L", (top, 20))
        ImageDraw.Draw(text).text((4, 10), name.replace("_", " "), 255, font, anchor="lm")
        sheet.paste("black", (left + cell * j + cell // 2 - 10, 0), text.rotate(90, expand=True))
    for i, (label, row) in enumerate(counts.items()):
        y = top + cell * i
        draw.text((left - 8, y + cell // 2), label.replace("_", " "), "black", font, anchor="rm")
        for j, name in enumerate(columns):
            share = row[name] / total
            x, shade = left + cell * j, (round(255 - 225 * share), round(255 - 155 * share), round(255 - 95 * share))
            draw.rectangle((x, y, x + cell - 2, y + cell - 2), fill=shade)
            if row[name]:
                ink = "white" if share > 0.5 else "black"
                draw.text((x + cell // 2, y + cell // 2), str(row[name]), ink, large, anchor="mm")
    return sheet


def mix(gt, seed):
    """Degrade by two or three of the ten, at a frozen seed; return the picture and their names."""
    generator, names = torch.Generator().manual_seed(700_000 + seed), list_degradations()
    chosen = [names[i] for i in torch.randperm(len(names), generator=generator)[: 2 + seed % 2].tolist()]
    severities = {name: 0.7 * float(torch.rand((), generator=generator)) for name in chosen}
    return (apply_degradations(gt, severities, generator) * 255).round() / 255, chosen


def measure_mixtures(diagnoser, pictures):
    cdd = [label for label in load_recipe("cdd11").labels if "_" in label]
    names = {label: [part.replace("low", "low_light") for part in label.split("_")] for label in cdd}
    frozen = [(degrade_frozen(gt, label, i), names[label]) for label in cdd for i, gt in enumerate(pictures)]
    free = [mix(gt, 5 * i + k) for i, gt in enumerate(pictures) for k in range(5)]
    print("\n| mixtures of two and three | pictures | mean average precision | all named (over 50 %), no other |")
    print("|---|---|---|---|")
    for title, cases in (("synthetic-cdd11", frozen), ("any of the ten", free)):
        found = [diagnoser.diagnose(lq).probabilities for lq, _ in tqdm(cases)]
        occurring = sorted({name for _, names in cases for name in names})
        precisions = [
            average_precision([p[name] for p in found], [name in names for _, names in cases]) for name in occurring
        ]
        exact = sum({n for n, v in p.items() if v >= 0.5} == {*names} for p, (_, names) in zip(found, cases))
        print(f"| {title} | {len(cases)} | {np.mean(precisions):.3f} | {exact / len(cases):.0%} |")


def measure_pairs(diagnoser, folder):
    print("\n| real pairs | pictures | degraded: recognised as | clean one: recognised as |\n|---|---|---|---|")
    for label in sorted(path.name for path in folder.iterdir() if path.is_dir()):
        answers = {}
        for kind in ("lq", "gt"):
            found = [diagnoser.diagnose(path) for path in tqdm(sorted((folder / label).glob(f"*_{kind}.*")))]
            answers[kind] = Counter(answer(x) + (" (unknown)" if x.unknown else "") for x in found)
        words = [", ".join(f"{n} {name}" for name, n in tally.most_common()) for tally in answers.values()]
        print(f"| {label} | {sum(answers['lq'].values())} | {words[0]} | {words[1]} |")


def measure_clean_and_unknown(diagnoser, pictures):
    def text_page(picture):
        page = Image.new("RGB", picture.size, "white")
        draw = ImageDraw.Draw(page)
        draw.multiline_text((8, 8), "\n".join(["the quick brown fox jumps over the lazy dog"] * 20), "black")
        return page

    noise = np.random.default_rng(0)
    unseen = {
        "clean": lambda image: image,
        "uniform random pixels": lambda i: Image.fromarray(noise.integers(0, 256, (i.height, i.width, 3), np.uint8)),
        "page of text": text_page,
        "outlines of a photograph": lambda image: image.filter(ImageFilter.FIND_EDGES),
        "negative": ImageOps.invert,
        "posterised to 2 levels per channel": lambda image: ImageOps.posterize(image, 1),
        "pixelated 8x8": lambda image: image.resize((32, 32), Image.Resampling.BOX).resize(image.size, 0),
        "embossed": lambda image: image.filter(ImageFilter.EMBOSS),
        "black and white dots": lambda image: image.convert("1"),
        "16 colours, dithered": lambda image: image.quantize(16).convert("RGB"),
        "one flat colour": lambda image: image.resize((1, 1), Image.Resampling.BOX).resize(image.size),
    }
    print("\n| whole Kodak crop | looks clean | unlike anything trained on |\n|---|---|---|")
    for name, change in unseen.items():
        found = [diagnoser.diagnose(change(to_pil(gt))) for gt in pictures]
        rates = [sum(getattr(x, which) for x in found) / len(found) for which in ("clean", "unknown")]
        print(f"| {name} | {rates[0]:.0%} | {rates[1]:.0%} |")


def measure_whole_pictures(diagnoser, folder):
    """Clean photographs as they are, not their centres: parts that are blurred by nature are among them."""
    paths = find_photographs([folder])
    clean = [diagnoser.diagnose(path).clean for path in paths]
    print(f"\nwhole clean pictures that look clean: {sum(clean)} of {len(clean)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["fit", "measure"])
    parser.add_argument("data", type=Path)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    if arguments.task == "fit":
        return fit(arguments.data, arguments.cache)
    diagnoser = Diagnoser(device=arguments.device)
    pictures = load_clean_pictures(arguments.data / "clean" / "kodak24")
    measure_single(diagnoser, pictures, arguments.output)
    measure_clean_and_unknown(diagnoser, pictures)
    measure_whole_pictures(diagnoser, arguments.data / "clean" / "kodak24")
    measure_mixtures(diagnoser, pictures)
    return measure_pairs(diagnoser, arguments.data / "pairs")


if __name__ == "__main__":
    main()
