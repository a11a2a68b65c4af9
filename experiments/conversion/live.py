"""The same stages from a PyTorch module at hand: hooks on its submodules and one forward pass.

Needs the extra [torch]. A module without a front end of its own, as MN's, DyMN's and the Hugging
Face variant of Dasheng, is given our log-mel, which is then not compared.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
from einops import rearrange
from jaxtyping import Float

from dasheng_jax.config import DashengConfig, unknown_name
from dasheng_jax.errors import WeightsError
from experiments.conversion.parity import Report, compare
from experiments.conversion.stages import (
  LOG_MEL,
  Config,
  Stages,
  default_wave,
  stage_names,
  stages,
)
from experiments.training.errors import UsageError
from mobile_jax.config import DyMNConfig
from mobile_jax.decision_config import EfficientNetConfig, MobileNetV2Config
from mobile_jax.passt_config import PaSSTConfig
from mobile_jax.scene_config import CPMobileConfig, CPResNetConfig

# Names under which modules keep the front end, and wrappers the network.
FRONT_ENDS = ("front_end", "mel")
PREFIXES = ("", "encoder.", "model.", "module.", "net.")
# The AudioSet head of Dasheng.
HEADS = ("outputlayer",)
# How many names an error spells out before it only counts them.
_SHOWN = 6


class Place(NamedTuple):
  """Where a stage shows in a PyTorch module.

  module: name of a submodule, "" for the module itself. side: what goes in or what comes out. item:
  which one, where a tuple comes out.
  """

  module: str
  side: Literal["input", "output"] = "output"
  item: int = 0


def places(cfg: Config) -> dict[str, Place]:
  """The place of every stage behind the front end, by the names of the released code."""
  if isinstance(cfg, DashengConfig):
    start = {"init_bn": "init_bn", "patches": "patch_embed"}
    blocks = {f"block_{n + 1}": f"blocks.{n}" for n in range(cfg.encoder.depth)}
    tokens = {"tokens": Place("blocks.0", "input")}
    return {**_outputs(start), **tokens, **_outputs(blocks), **_outputs({"output": "norm"})}
  if isinstance(cfg, PaSSTConfig):
    return {"tokens": Place("norm"), "features": Place("", item=1), "logits": Place("", item=0)}
  if isinstance(cfg, CPResNetConfig):
    # Its blocks are recorded before their pools, ours behind them.
    return _outputs({"stem": "in_c", "logits": ""})
  if isinstance(cfg, CPMobileConfig):
    stages = [s for s, n in enumerate(cfg.blocks_per_stage, 1) for _ in range(n)]
    blocks = {f"block_{n}": f"stages.s{s}.b{n}" for n, s in enumerate(stages, 1)}
    return _outputs({"stem": "in_c.0", "second": "in_c.1", **blocks, "logits": ""})
  count = len(cfg.blocks)
  if isinstance(cfg, MobileNetV2Config):
    # Of its outputs, probabilities of clips and steps, none is a stage.
    maps = dict(
      zip(stage_names(cfg)[1:-2], (f"features.{n}" for n in range(count + 2)), strict=True)
    )
    return _outputs(maps)
  if isinstance(cfg, EfficientNetConfig):
    if cfg.lineage == "torchvision":
      inside = {f"block_{b.number}": f"features.{b.stage}.{b.place}" for b in cfg.blocks}
      behind = f"features.{cfg.blocks[-1].stage + 1}"
      return _outputs({"stem": "features.0", **inside, "last": behind})
    return _outputs({f"block_{b.number}": f"_blocks.{b.number - 1}" for b in cfg.blocks})
  if isinstance(cfg, DyMNConfig):
    names = ["in_c", *(f"layers.{n}" for n in range(count)), "out_c"]
  else:
    names = [f"features.{n}" for n in range(count + 2)]
  maps = dict(zip(stage_names(cfg)[1:-2], names, strict=True))
  return {**_outputs(maps), "features": Place("", item=1), "logits": Place("", item=0)}


def _outputs(names: Mapping[str, str]) -> dict[str, Place]:
  return {stage: Place(module) for stage, module in names.items()}


def load_module(name: str) -> Any:
  """A torch.nn.Module made by "package.module:callable" or "package.module:callable(width=0.4)".

  This imports and runs the code that the name points to, with the rights of the caller: it is for
  code of one's own or that one trusts. The module must be importable from here (the current folder
  or PYTHONPATH); arguments are named literals. Raises UsageError, with the fault in one line.
  """
  torch = _torch()
  home, _, call = name.partition(":")
  function, arguments = _parsed_call(call)
  if not home or not function:
    raise UsageError(f"module {name!r}: write it as package.module:callable")
  try:
    found: Any = importlib.import_module(home)
  except ModuleNotFoundError as error:
    raise UsageError(
      f"module {name!r}: no module named {error.name!r}; run from its folder or set PYTHONPATH"
    ) from error
  for part in function.split("."):
    if not hasattr(found, part):
      known = [x for x in vars(found) if not x.startswith("_")]
      raise UsageError(f"module {name!r}: {unknown_name('callable', part, known)}")
    found = getattr(found, part)
  try:
    made = found if isinstance(found, torch.nn.Module) else found(**arguments)
  except Exception as error:
    reason = (str(error).splitlines() or [""])[0][:120]
    raise UsageError(f"module {name!r}: {type(error).__name__}: {reason}") from error
  if not isinstance(made, torch.nn.Module):
    raise UsageError(f"module {name!r} gives a {type(made).__name__}, not a torch.nn.Module")
  return made


def _parsed_call(text: str) -> tuple[str, dict[str, Any]]:
  """("a.b", {"x": 1}) of "a.b(x=1)"; ("", {}) where the text is something else."""
  try:
    node = ast.parse(text, mode="eval").body
    if isinstance(node, ast.Call) and not node.args and all(k.arg for k in node.keywords):
      arguments = {str(k.arg): ast.literal_eval(k.value) for k in node.keywords}
      return ast.unparse(node.func), arguments
    return (text, {}) if isinstance(node, ast.Name | ast.Attribute) else ("", {})
  except (SyntaxError, ValueError):
    return "", {}


def load_state(
  module: Any,
  state: Mapping[str, np.ndarray],
  source: str = "state dict",
  *,
  constants: Mapping[str, np.ndarray] | None = None,
) -> None:
  """Fills a module with a state dict, strictly; in float32 and in evaluation mode.

  The module may hold the names under a prefix such as "encoder.". constants: what we compute and
  some modules and files hold as buffers, as the window of Dasheng's front end: filled in where the
  file lacks them, left out where the module does. Raises WeightsError that names missing,
  unexpected and misshapen tensors.
  """
  torch = _torch()
  module.float().eval()
  own = {name: tuple(x.shape) for name, x in module.state_dict().items()}
  filled = {**(constants or {}), **state}
  prefix = max(PREFIXES, key=lambda prefix: sum(prefix + name in own for name in filled))
  named = {prefix + name if prefix + name in own else name: x for name, x in filled.items()}
  drop = {prefix + name for name in constants or {}} | set(constants or {})
  tensors = {n: _tensor(torch, x) for n, x in named.items() if n in own or n not in drop}
  try:
    module.load_state_dict(tensors, strict=True)
  except (RuntimeError, KeyError) as error:
    problems = [f"missing {name}" for name in own if name not in tensors]
    problems += [f"unexpected {name}" for name in tensors if name not in own]
    problems += [
      f"{name} has shape {tuple(x.shape)}, not {own[name]}"
      for name, x in tensors.items()
      if name in own and tuple(x.shape) != own[name]
    ]
    problems = problems or [(str(error).splitlines() or ["?"])[-1].strip()]
    more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    raise WeightsError(
      f"{source} does not fit the module {type(module).__name__}: "
      + "; ".join(problems[:_SHOWN])
      + more
    ) from None


def _tensor(torch: Any, x: np.ndarray) -> Any:
  x = np.asarray(x)
  if x.dtype.name == "bfloat16":
    x = x.astype(np.float32)
  return torch.from_numpy(np.require(x, requirements=["C", "W"]))


def live_stages(
  module: Any,
  wave: Float[np.ndarray, "b s"],
  names: Mapping[str, Place],
  log_mel: Float[np.ndarray, "b ..."] | None = None,
) -> Stages:
  """What a module computes of waves f32[b, s] at the named places, and its log-mel if it has one.

  names: as `places` gives them; they may stand under a prefix such as "encoder.". log_mel: what a
  module without a front end is given in place of the wave, in the shape that it takes. The module
  runs once, in evaluation mode and without gradients. Raises WeightsError for a module without the
  named submodules, or one that needs a log-mel and gets none.
  """
  torch = _torch()
  known = dict(module.named_modules())
  prefix = _prefix(known, names, type(module).__name__)
  front_end = next((p + n for n in FRONT_ENDS for p in ("", prefix) if p + n in known), None)
  if front_end is None and log_mel is None:
    raise WeightsError(
      f"the module {type(module).__name__} has no front end ({', '.join(FRONT_ENDS)}) and was "
      "given no log-mel"
    )
  wanted = {} if front_end is None else {LOG_MEL: Place(front_end)}
  for stage, place in names.items():
    under = prefix + place.module
    wanted[stage] = place._replace(module=under) if place.module and under in known else place
  seen: dict[str, list[np.ndarray]] = {stage: [] for stage in wanted}
  handles = [_hook(torch, known[place.module], place, seen[s]) for s, place in wanted.items()]
  given = wave if front_end is not None or log_mel is None else log_mel
  training = module.training
  try:
    with torch.no_grad():
      module.eval()(_tensor(torch, np.asarray(given, np.float32)))
  except Exception as error:  # of someone else's code
    reason = (str(error).splitlines() or [""])[0][:120]
    raise WeightsError(
      f"the module {type(module).__name__} does not take an input of shape {np.shape(given)}: "
      f"{type(error).__name__}: {reason}"
    ) from error
  finally:
    module.train(training)
    for handle in handles:
      handle.remove()
  # A block that ran several times met the chunks of a long input one by one.
  found = {
    stage: np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]
    for stage, parts in seen.items()
    if parts
  }
  for stage in ("features", "logits"):
    if stage in found:
      # The released networks squeeze these, down to the batch's axis.
      found[stage] = found[stage].reshape(len(wave), -1)
  return found


def _prefix(known: Mapping[str, Any], names: Mapping[str, Place], kind: str) -> str:
  """What stands before the named submodules; WeightsError where they are under no known prefix."""
  wanted = {place.module for place in names.values() if place.module}
  for prefix in PREFIXES:
    # A head may stand beside what is wrapped.
    if all(prefix + name in known or (name in known and name in HEADS) for name in wanted):
      return prefix
  best = min(PREFIXES, key=lambda prefix: sum(prefix + name not in known for name in wanted))
  missing = sorted(best + name for name in wanted if best + name not in known)
  tops = ", ".join(name for name in known if name and "." not in name) or "no submodule"
  more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
  raise WeightsError(
    f"the module {kind} has no submodule {', '.join(missing[:3])}{more}; it has {tops}"
  )


def _hook(torch: Any, submodule: Any, place: Place, parts: list[np.ndarray]) -> Any:
  """A hook that adds each input or output to `parts`; the handle takes it off."""

  def keep(value: Any) -> None:
    if isinstance(value, tuple | list):
      value = value[place.item] if place.item < len(value) else None
    elif place.item:
      value = None
    if isinstance(value, torch.Tensor):
      # A copy, since activations of the released networks run in place.
      parts.append(value.detach().float().cpu().numpy().copy())

  if place.side == "input":
    return submodule.register_forward_pre_hook(lambda _, args: keep(args[0]))
  return submodule.register_forward_hook(lambda _, args, output: keep(output))


def set_temperature(module: Any, temperature: float) -> int:
  """Sets the softmax temperature of a module's dynamic convolutions; returns how many it has.

  No state dict carries it: a module of the released code starts at 30 whatever it is filled with.
  """
  parts = [m for m in module.modules() if isinstance(getattr(m, "temperature", None), int | float)]
  for part in parts:
    part.temperature = float(temperature)
  return len(parts)


def check(
  cfg: Config,
  variables: Mapping,
  module: Any,
  wave: Float[np.ndarray, "b s"] | None = None,
  tolerance: float | None = None,
) -> Report:
  """Runs our model and a filled module on the same wave and compares every stage.

  wave: at the model's rate; None takes `default_wave`. DyMN's temperature is ours on both sides.
  """
  wave = default_wave(cfg) if wave is None else wave
  ours = stages(cfg, variables, wave)
  theirs, notes = outputs(cfg, ours, module, wave)
  return compare(ours, theirs, tolerance, notes)


def outputs(
  cfg: Config, ours: Stages, module: Any, wave: Float[np.ndarray, "b s"]
) -> tuple[Stages, list[str]]:
  """(what a filled module makes of a wave at our stages, notes on how it was run).

  ours: our stages of the same wave. A module without a front end is given our log-mel, and has no
  stage of this name.
  """
  notes = [f"live outputs by {type(module).__name__}, torch {_torch().__version__}"]
  if isinstance(cfg, DyMNConfig) and (count := set_temperature(module, cfg.temperature)):
    notes.append(f"temperature {cfg.temperature:g} set in {count} dynamic convolutions")
  log_mel, names = ours[LOG_MEL], places(cfg)
  if not isinstance(cfg, DashengConfig):
    log_mel = rearrange(log_mel, "b f t -> b 1 f t")
  elif "logits" in ours and any(head in dict(module.named_modules()) for head in HEADS):
    names["logits"] = Place(HEADS[0])
  theirs = live_stages(module, wave, names, log_mel)
  if LOG_MEL not in theirs:
    notes.append("the module has no front end and was given our log-mel")
  return theirs, notes


def _torch() -> Any:
  try:
    import torch
  except ModuleNotFoundError:
    raise UsageError(
      "a live check needs PyTorch: install the extra [torch], or check against a golden file"
    ) from None
  return torch
