"""Records tests/golden/adamw_8bit.npz: the dynamic maps and three steps of bitsandbytes' AdamW8bit.

    python -m tests.experiments.training.make_adamw_8bit_golden

Needs bitsandbytes and PyTorch. The CPU kernel of bitsandbytes 0.50 looks codes up in 65,536 equal
buckets over [-1, 1], which is coarser than the map below 1e-3; so its own exact branch, which it
takes for other types than the usual three, quantises here. What the kernel would have done is
printed beside it.
"""

import pathlib

import bitsandbytes
import numpy as np
import torch
from bitsandbytes.backends.cpu import ops

GOLDEN = pathlib.Path(__file__).resolve().parents[2] / "golden" / "adamw_8bit.npz"
SIZES = {"ragged": 4100, "small": 100}  # 16 blocks and four values more; too few for 8 bits
STEPS, LR, DECAY = 3, 1e-3, 0.01


def _exactly(values, code, absmax, codes, blocksize):
  found, scale = torch.ops.bitsandbytes.quantize_blockwise(values.double(), code, blocksize)
  codes.copy_(found)
  absmax.copy_(scale)


def train(start, grads):
  """Parameters and states after each step."""
  params = {name: torch.nn.Parameter(torch.tensor(x)) for name, x in start.items()}
  optimiser = bitsandbytes.optim.AdamW8bit(params.values(), lr=LR, weight_decay=DECAY)
  seen = {}
  for step in range(STEPS):
    for name, p in params.items():
      p.grad = torch.tensor(grads[name][step])
    optimiser.step()
    for name, p in params.items():
      seen[f"step{step + 1}.{name}"] = p.detach().numpy().copy()
      for key in ("state1", "state2", "absmax1", "absmax2"):
        if key in optimiser.state[p]:
          seen[f"{key}_{step + 1}.{name}"] = optimiser.state[p][key].numpy().copy()
  return seen


def main():
  draw = np.random.default_rng(0)
  start = {name: draw.normal(0, 0.05, n).astype(np.float32) for name, n in SIZES.items()}
  grads = {}
  for name, n in SIZES.items():  # four decades of sizes in every block, as in real gradients
    level = 10.0 ** draw.uniform(-6, -2, n)
    grads[name] = (draw.standard_normal((STEPS, n)) * level).astype(np.float32)

  by_kernel = train(start, grads)
  ops._quant_blockwise_fp32_direct = _exactly
  exact = train(start, grads)
  for name in ("state1_3.ragged", "state2_3.ragged"):
    print(name, f"{np.mean(exact[name] != by_kernel[name]):.1%} of the kernel's codes are others")
  maps = {
    f"map_{name}": bitsandbytes.functional.create_dynamic_map(signed).numpy()
    for name, signed in (("signed", True), ("unsigned", False))
  }
  np.savez_compressed(
    GOLDEN,
    lr=LR,
    weight_decay=DECAY,
    version=bitsandbytes.__version__,
    **maps,
    **{f"step0.{name}": x for name, x in start.items()},
    **{f"grads.{name}": x for name, x in grads.items()},
    **{k: v for k, v in exact.items() if f"{STEPS}." in k},
  )


if __name__ == "__main__":
  main()
