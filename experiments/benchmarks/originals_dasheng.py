"""The authors' PyTorch package `dasheng` as a contender.

    python originals_dasheng.py THREADS cpu|gpu

Runs under the Python that has torch, torchaudio, einops and dasheng, and imports nothing of this
library. The training step is that of the package's trainer: autocast where a half-precision type is
asked for, backward, optimiser.
"""

import contextlib
import pathlib
import sys

import numpy as np
import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from serve import serve

THREADS, PLATFORM = sys.argv[1:3]
DEVICE = torch.device("cuda" if PLATFORM == "gpu" else "cpu")
NAMES = {
  "dasheng_base": "dasheng_base",
  "dasheng_0_6b_trainer": "dasheng_06B",
  "dasheng_1_2b": "dasheng_12B",
}
torch.set_num_threads(int(THREADS))
torch.set_float32_matmul_precision("high")  # what the half-precision rows do not use anyway


def prepare(case):
  """One call of a case: "embed" or "step"."""
  if PLATFORM == "gpu" and not torch.cuda.is_available():
    raise LookupError("this PyTorch sees no GPU")
  if case["model"] not in NAMES:
    raise LookupError(f"the package has no {case['model']}")
  from dasheng.train import models

  torch.manual_seed(0)
  net = getattr(models, NAMES[case["model"]])().to(DEVICE)
  rng = np.random.default_rng(0)
  wave = rng.normal(size=(case["batch"], int(case["seconds"] * 16_000))).astype(np.float32) * 0.1
  wave = torch.from_numpy(wave).to(DEVICE)
  if case["part"] == "embed":
    return embedding(net.encoder.eval(), wave, case["dtype"])
  return training(net.train(), wave, case["dtype"])


def autocast(dtype):
  """The trainer's context for half precision, or none."""
  if dtype == "float32":
    return contextlib.nullcontext()
  return torch.autocast(DEVICE.type, getattr(torch, dtype))


def done():
  """Returns when the device has finished."""
  if DEVICE.type == "cuda":
    torch.cuda.synchronize()


def embedding(encoder, wave, dtype):
  """All patches through the encoder, as inference does, without a mask."""

  def run():
    with torch.inference_mode(), autocast(dtype):
      x = encoder.patch_embed(encoder.init_bn(encoder.front_end(wave).unsqueeze(1)))
      x = x + encoder.time_pos_embed[..., : x.shape[-1]]
      x = x + encoder.freq_pos_embed
      x = x.flatten(2).transpose(1, 2)
      encoder.norm(encoder.blocks(x))
    done()

  return run


def training(net, wave, dtype):
  """Loss, gradients and AdamW; of its forms the fused one, which is the quickest."""
  optimiser = torch.optim.AdamW(net.parameters(), lr=3e-4, fused=True)

  def run():
    optimiser.zero_grad()
    with autocast(dtype):
      loss = net(wave, mask_ratio=0.75, return_loss=True)
    loss.backward()
    optimiser.step()
    done()

  return run


if __name__ == "__main__":
  serve(prepare)
