"""Makes tests/golden/decision.npz: `python -m tests.mobile_jax.make_decision_golden` (PyTorch).

Of the small networks in `SMALL` with random weights: an input, what `decision_twin` makes of it in
inference and in training, and of every gradient, by path, its norm and its sum.
"""

import numpy as np

from dasheng_jax.weights.table import flatten, to_torch, unflatten
from mobile_jax.decision_config import EfficientNetConfig, MobileNetV2Config
from mobile_jax.network import shapes
from mobile_jax.weights.names import rules
from tests.mobile_jax.decision_twin import twin
from tests.mobile_jax.fixtures import GOLDEN, drawn

SMALL = {
  "mobilenet_v2": MobileNetV2Config(classes=5, width=0.16, last=48),
  "efficientnet_pytorch": EfficientNetConfig(classes=5, width=0.1, last=40),
  "torchvision": EfficientNetConfig(classes=5, width=0.1, last=40, lineage="torchvision"),
}
# Both EfficientNets have the same weights, stored under the names of the first.
WEIGHTS = {name: "mobilenet_v2" if "mobile" in name else "efficientnet_pytorch" for name in SMALL}
FRAMES = 75  # an odd number, and odd again after two halvings
SEED = 1
# Weights moved by this part of themselves, and how little the norm of any gradient then moves.
# Where a ReLU6 lies so close to a kink that rounding decides its side, gradients say nothing.
NUDGE, STEADY = 3e-7, 1e-3


def variables_of(cfg, seed):
  """Random variables; the first kernel is small, as the input is in dB."""
  variables = drawn(shapes(cfg), seed)
  stem = variables["params"]["stem"]
  return {
    **variables,
    "params": {**variables["params"], "stem": {**stem, "kernel": 0.05 * stem["kernel"]}},
  }


def norms(gradients):
  return {name: np.linalg.norm(x) for name, x in gradients.items()}


def steady(torch, cfg, variables, log_mel, targets):
  """Whether the gradients stay where they are when the weights move a little."""
  before = norms(twin(torch, cfg, variables, log_mel, targets).gradients)
  for seed in range(4):
    rng = np.random.default_rng(seed)
    moved = {
      name: np.asarray(x) * (1 + NUDGE * rng.standard_normal(np.shape(x)))
      for name, x in flatten(variables).items()
    }
    after = norms(twin(torch, cfg, unflatten(moved), log_mel, targets).gradients)
    least = 1e-6 * max(before.values())
    if any(abs(after[n] - x) > STEADY * x for n, x in before.items() if x > least):
      return False
  return True


def main():
  import torch

  kept, seeds = {}, {}
  for name, cfg in SMALL.items():
    for seed in range(SEED, SEED + 50):
      rng = np.random.default_rng(seed)
      log_mel = rng.normal(-10, 12, (2, cfg.mel.mel_bins, FRAMES)).astype(np.float32)
      targets = (rng.random((2, cfg.classes)) < 0.4).astype(np.float32)
      variables = variables_of(cfg, seed)
      if steady(torch, cfg, variables, log_mel, targets):
        break
    else:
      raise SystemExit(f"{name}: no steady network among 50")
    print(name, "seed", seed)
    if WEIGHTS[name] == name:
      state = to_torch(variables, rules(cfg))
      kept |= {f"{name}/param/{key}": np.asarray(x) for key, x in state.items()}
    found = twin(torch, cfg, variables, log_mel)
    trained = twin(torch, cfg, variables, log_mel, targets)
    kept |= {f"{name}/log_mel": log_mel, f"{name}/targets": targets}
    for kind, told in (("", found), ("train/", trained)):
      for part in ("clip", "frames", "features"):
        kept[f"{name}/{kind}{part}"] = getattr(told, part).astype(np.float32)
    kept[f"{name}/train/loss"] = np.float64(trained.loss)
    seeds[name] = seed
    assert seed == seeds[WEIGHTS[name]], "both EfficientNets must be steady with the same weights"
    by_path = sorted(trained.gradients.items())
    kept[f"{name}/gradients"] = np.array([(np.linalg.norm(x), x.sum()) for _, x in by_path])
    for path, x in trained.statistics.items():
      if path.startswith("batch_stats/last/"):
        kept[f"{name}/after/{path}"] = x.astype(np.float32)
  np.savez_compressed(GOLDEN / "decision.npz", **kept)


if __name__ == "__main__":
  main()
