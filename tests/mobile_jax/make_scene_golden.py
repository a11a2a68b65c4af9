"""Selects recorded scene models: `python -m tests.mobile_jax.make_scene_golden`."""

import pathlib

import numpy as np
from safetensors.numpy import load_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
SOURCE = ROOT.parent / "shared" / "fixtures" / "scenes"
OUT = ROOT / "tests" / "golden"
CHOSEN = {
  "cp_mobile": "cpmobile_rand_0",
  "cp_resnet": "cpresnet_rand_1",
  "passt": "passt_tiny",
}


def main():
  for ours, theirs in CHOSEN.items():
    arrays = load_file(SOURCE / f"{theirs}.safetensors")
    # Ten seconds are large, and tested from the complete fixtures.
    arrays = {name: x for name, x in arrays.items() if "10s" not in name}
    np.savez_compressed(OUT / f"scene_{ours}.npz", **arrays)


if __name__ == "__main__":
  main()
