#!/bin/sh
# From clean photographs to restored pictures, the whole method in a few minutes on a CPU.
#
#     sh examples/from_scratch.sh PHOTOS SCRATCH
#
# PHOTOS: a folder of clean photographs of at least 256x256 pixels. SCRATCH: a folder to work in.
set -eu
photos=$1
scratch=$2
mkdir -p "$scratch"

dcpt pack "$photos" -o "$scratch/crops.safetensors"

# 1. Teach a small network to say which of four degradations a picture has.
dcpt pretrain "$scratch/crops.safetensors" -o "$scratch/pretrain" --recipe tiny-4d
dcpt runs show "$scratch/pretrain"

# 2. Teach it to restore them.
dcpt finetune "$scratch/crops.safetensors" -o "$scratch/finetune" --recipe tiny-4d --from "$scratch/pretrain/model"
dcpt runs show "$scratch/finetune"

# 3. Measure it, on all ten degradations: it knows four.
dcpt evaluate synthetic-10d --data "$photos" --limit 4 --model "$scratch/finetune/model"

# 4. Write the weights to one file, and restore what was degraded with them.
dcpt export "$scratch/finetune/model" -o "$scratch/tiny.safetensors"
picture=$(find "$photos" -type f | sort | head -n 1)
dcpt degrade "$picture" -o "$scratch/dark.png" --low-light 0.5 --overwrite
dcpt restore "$scratch/dark.png" -o "$scratch/restored.png" --model "$scratch/tiny.safetensors" --option pooling=global \
  --overwrite
echo "$scratch/restored.png"
