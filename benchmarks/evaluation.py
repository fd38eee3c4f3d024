"""Time an evaluation beside the bare forward passes of the same pictures.

    python benchmarks/evaluation.py CBSD68 [--limit 68] [--device cpu]

Elapsed time, one thread for the network; the ratio is what making, measuring and hashing pictures,
which a second thread does meanwhile, add to the network's own work.
"""

import argparse
import time
from pathlib import Path

import torch

import dcpt
from dcpt.cases import load_clean_pictures, synthetic_benchmark
from dcpt.evaluation import evaluate


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    restorer = dcpt.Restorer(device=arguments.device)
    pictures = load_clean_pictures(arguments.pictures, limit=arguments.limit)
    benchmark = synthetic_benchmark("synthetic-5d", pictures)
    restorer.restore_batch(pictures[0])

    inputs = [case.load()[0].to(arguments.device) for case in benchmark.cases]
    started = time.perf_counter()
    with torch.inference_mode():
        for lq in inputs:
            restorer.backbone(lq)
    if arguments.device != "cpu":
        torch.cuda.synchronize()
    bare = time.perf_counter() - started

    started = time.perf_counter()
    evaluate(restorer.restore_batch, benchmark)
    whole = time.perf_counter() - started
    print(f"{len(inputs)} pictures: forward passes {bare:.1f} s, evaluation {whole:.1f} s, ratio {whole / bare:.2f}")


if __name__ == "__main__":
    main()
