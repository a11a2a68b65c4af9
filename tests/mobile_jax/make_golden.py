"""Writes tests/golden/mobile_{mn01,dymn01,units,training}.npz from the complete fixtures.

    python -m tests.mobile_jax.make_golden ../shared/fixtures/mobile

Only arrays of random weights and random inputs are taken, which may be passed on. The published
checkpoint and the recordings stay out; the tests that need them read the complete fixtures.
"""

import pathlib
import sys

import numpy as np
from safetensors.numpy import load_file

from tests.mobile_jax.fixtures import GOLDEN, PACKED

# One or two of each kind of block; the tests run the others from the complete fixtures.
UNITS = (
  *("contextgen_s1_16x10", "contextgen_s2_13x25"),
  *("dyconv_pw", "dyconv_dw_s2", "dyconv_dw_dil2", "dyrelu_M1", "dyrelu_M2", "dyrelu_M3"),
  *("coordatt", "se_c", "se_t", "se_f", "se_cft_max", "se_cft_avg", "se_cft_add", "se_cft_min"),
  *("mhap", "ir_noexp", "ir_dil", "dy_noexp", "dy_re_s2"),
)


def main(source: pathlib.Path) -> None:
  """Selects and compresses."""
  training = np.load(source / "training.npz")
  for name, target in PACKED.items():
    arrays = dict(np.load(source / "random" / f"{name}.npz"))
    arrays = {k: v for k, v in arrays.items() if not k.endswith("stage_names")}
    weights = load_file(source / "random" / f"{name}.safetensors")
    arrays |= {f"weights/{k}": v for k, v in weights.items()}
    arrays |= {k: training[k] for k in training if k.startswith(f"steps/{name}")}
    np.savez_compressed(GOLDEN / f"{target}.npz", **arrays)
  units = np.load(source / "units.npz")
  picked = {k: units[k] for k in units if k.split("/")[0] in UNITS}
  picked |= {k: training[k] for k in training if k.startswith("temperature/")}
  np.savez_compressed(GOLDEN / "mobile_units.npz", **picked)
  rest = {k: training[k] for k in training if not k.startswith(("steps/", "temperature/"))}
  np.savez_compressed(GOLDEN / "mobile_training.npz", **rest)


if __name__ == "__main__":
  main(pathlib.Path(sys.argv[1]))
