"""MobileNetV2 and EfficientNet in PyTorch's operations, in float64, over our variables.

A second reading of the networks for what the recorded arrays do not hold: gradients of every
parameter, and networks small enough to be in the repository.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from dasheng_jax.weights.table import flatten
from mobile_jax.decision_config import EfficientNetConfig, MobileNetV2Config


class Found(NamedTuple):
  """What the twin computes; gradients and statistics by our paths, in training alone."""

  clip: np.ndarray
  frames: np.ndarray
  features: np.ndarray
  loss: float
  gradients: dict[str, np.ndarray]
  statistics: dict[str, np.ndarray]


def twin(torch: Any, cfg: Any, variables: Any, log_mel: np.ndarray, targets: Any = None) -> Found:
  """Inference, or with targets one pass of training without dropout."""
  net = _Net(torch, cfg, variables, targets is not None)
  x = torch.tensor(np.asarray(log_mel), dtype=torch.float64)[:, None]
  last = net.mobilenet(x) if isinstance(cfg, MobileNetV2Config) else net.efficientnet(x)
  kernel, bias = (net.values[f"params/head/logits/{name}"] for name in ("kernel", "bias"))
  frames = torch.sigmoid(last.mean(2).transpose(1, 2) @ kernel + bias)
  clip = frames.mean(1)
  loss, gradients = 0.0, {}
  if targets is not None:
    error = torch.nn.functional.binary_cross_entropy(
      clip, torch.tensor(np.asarray(targets), dtype=torch.float64)
    )
    error.backward()
    loss = float(error.detach())
    gradients = {n: v.grad.numpy() for n, v in net.values.items() if v.grad is not None}
  told = (clip, frames, last.mean((2, 3)))
  statistics = {n: v.numpy() for n, v in net.values.items() if n.startswith("batch_stats/")}
  return Found(*(x.detach().numpy() for x in told), loss, gradients, statistics)


class _Net:
  def __init__(self, torch: Any, cfg: Any, variables: Any, train: bool):
    self.functional, self.cfg, self.train = torch.nn.functional, cfg, train
    flat = {name: np.asarray(x) for name, x in flatten(variables).items()}
    self.values = {n: torch.tensor(x, dtype=torch.float64) for n, x in flat.items()}
    for name, value in self.values.items():
      value.requires_grad_(name.startswith("params/"))
    self.silu, self.sigmoid = torch.nn.functional.silu, torch.sigmoid

  def mobilenet(self, x: Any) -> Any:
    act = self.functional.relu6
    x = act(self.conv(x, "stem", 2, (1, 1)))
    for block in self.cfg.blocks:
      name, y = f"block_{block.number}", x
      if block.expands:
        y = act(self.conv(y, f"{name}/expand"))
      y = act(self.conv(y, f"{name}/depthwise", block.stride, (1, 1)))
      y = self.conv(y, f"{name}/project")
      x = x + y if block.stride == 1 and block.channels == block.out else y
    return act(self.conv(x, "last"))

  def efficientnet(self, x: Any) -> Any:
    one_sided = self.cfg.lineage == "efficientnet_pytorch"
    act = self.silu
    x = act(self.conv(x, "stem", 2, (0, 1) if one_sided else (1, 1)))
    for block in self.cfg.blocks:
      name, y = f"block_{block.number}", x
      if block.expands:
        y = act(self.conv(y, f"{name}/expand"))
      pad = (block.kernel - 1) // 2
      around = (pad - 1, pad) if one_sided and block.stride == 2 else (pad, pad)
      y = act(self.conv(y, f"{name}/depthwise", block.stride, around))
      few = act(self.linear(y.mean((2, 3)), f"{name}/squeeze/down"))
      y = y * self.sigmoid(self.linear(few, f"{name}/squeeze/up"))[:, :, None, None]
      y = self.conv(y, f"{name}/project")
      repeated = block.place > 0 or not one_sided
      x = x + y if repeated and block.stride == 1 and block.channels == block.out else y
    return act(self.conv(x, "last"))

  def linear(self, x: Any, name: str) -> Any:
    return x @ self.values[f"params/{name}/kernel"] + self.values[f"params/{name}/bias"]

  def conv(self, x: Any, name: str, stride: int = 1, around: tuple[int, int] = (0, 0)) -> Any:
    kernel = self.values[f"params/{name}/kernel"]
    groups = 1
    if kernel.ndim == 2:
      kernel = kernel.T[:, :, None, None]
    else:
      kernel = kernel.permute(2, 0, 1)[:, None]
      groups = x.shape[1]
    x = self.functional.conv2d(
      self.functional.pad(x, around * 2), kernel, None, stride, groups=groups
    )
    return self.norm(x, f"{name}/norm")

  def norm(self, x: Any, name: str) -> Any:
    pytorch = isinstance(self.cfg, EfficientNetConfig) and self.cfg.lineage != "torchvision"
    eps, momentum = (1e-3, 0.01) if pytorch else (1e-5, 0.1)
    mean, var = (self.values[f"batch_stats/{name}/{kind}"] for kind in ("mean", "var"))
    scale, bias = (self.values[f"params/{name}/{kind}"] for kind in ("scale", "bias"))
    return self.functional.batch_norm(x, mean, var, scale, bias, self.train, momentum, eps)
