r"""Exports a network with its front end inside to one file for phones and other runtimes.

    python -m experiments.export cp_mobile_dcase23.ckpt --name cp_mobile_dcase23 --to litert \
      --out student.tflite
    python -m experiments.export student.safetensors --name cp_mobile_dcase23 --to litert_int8 \
      --out student_int8.tflite --representative recordings/ --audio recordings/

WEIGHTS is whatever `mobile_jax.load_model` takes. The file maps "wave" f32[1, samples] in [-1, 1]
at the rate of the front end (32 kHz) to "logits" f32[1, classes]. It is then loaded back and
compared with the JAX model: logits, size, latency. `docs/export.md` has figures, and what else was
tried.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from experiments.training import cli
from experiments.training.errors import RunError, UsageError

if TYPE_CHECKING:
  import numpy as np

To = Literal["litert", "litert_int8", "onnx"]
SUFFIXES: dict[str, str] = {"litert": ".tflite", "litert_int8": ".tflite", "onnx": ".onnx"}
LONG_SECONDS = 10.0  # of a clip of the families that are trained on ten seconds


@dataclasses.dataclass(frozen=True)
class Export:
  """What to export, to what, and what to compare it on."""

  # WEIGHTS
  weights: tuple[str, ...] = dataclasses.field(default=(), metadata={"positional": True})
  # published model or size that WEIGHTS is, where its name does not tell
  name: str = ""
  # runtime that the file is for
  to: To = "litert"
  # FILE to write, .tflite or .onnx
  out: str = ""
  # length of the clips that the file takes; 0: 1 s for scene models, 10 s for others
  seconds: float = 0.0
  # recordings or folders that tell litert_int8 the ranges of its activations, cut into clips
  representative: tuple[str, ...] = ()
  # recordings or folders for the report, cut into clips; none: the synthetic corpus
  audio: tuple[str, ...] = ()
  # most clips that are taken of either
  clips: int = 100
  # calls that the median of a latency is of
  runs: int = 50
  # other exported files of the same network to put into the report
  beside: tuple[str, ...] = ()
  # replace FILE
  overwrite: bool = False
  about: str = "export a network"


def main(cfg: Export) -> int:
  """Exports and returns 0; RunError where a float32 file departs from the JAX model."""
  out = _checked(cfg)
  _check_extra(cfg)
  import jax
  import jax.numpy as jnp

  import mobile_jax
  from experiments.exporting import litert, report
  from experiments.exporting.networks import whole
  from experiments.exporting.onnx_file import onnx
  from mobile_jax.inference import least_samples

  model, variables = mobile_jax.read_model(cfg.weights[0], name=cfg.name or None)
  rate = model.mel.sample_rate
  samples = round((cfg.seconds or _usual_seconds(model)) * rate)
  if samples < least_samples(model):
    raise UsageError(f"--seconds {cfg.seconds:g}: {least_samples(model) / rate:g} s is the least")
  clips = _clips(cfg.audio, cfg, samples, rate)
  others = {name: _opened(Path(name), samples) for name in cfg.beside}
  made = litert.litert(whole(model, variables), samples)
  if cfg.to == "litert_int8":
    made = litert.int8(made, _clips(cfg.representative, cfg, samples, rate))
  elif cfg.to == "onnx":
    made = onnx(made)
  # Under its own name only when it has been compared: what stands there stays if it departs.
  part = out.with_name(f"{out.stem}.part{out.suffix}")
  part.write_bytes(made)
  try:
    tag = jax.jit(lambda wave: mobile_jax.tag(model, variables, wave)[0])
    contenders = {str(out): _opened(part, samples), **others}
    rows = report.compared(
      lambda clip: _numpy(tag(jnp.asarray(clip[None])))[0], contenders, clips, cfg.runs
    )
    print(report.table(rows))
    if cfg.to != "litert_int8" and not rows[1].equal:
      raise RunError(f"{out}: its logits depart from those of the JAX model; nothing was written")
    part.replace(out)
  finally:
    part.unlink(missing_ok=True)
  print(f"wrote {out} ({len(made):,} bytes): {samples} samples at {rate} Hz in, logits out")
  return 0


def _checked(cfg: Export) -> Path:
  if len(cfg.weights) != 1:
    raise UsageError(f"give one WEIGHTS, such as cp_mobile_dcase23.ckpt{cli.swallowed(cfg)}")
  if not cfg.out:
    raise UsageError(f"--out is missing: the file to write, such as student{SUFFIXES[cfg.to]}")
  out = Path(cfg.out)
  if out.suffix != SUFFIXES[cfg.to]:
    raise UsageError(f"--out {out}: --to {cfg.to} writes a file that ends in {SUFFIXES[cfg.to]}")
  if out.exists() and not (cfg.overwrite and out.is_file()):
    raise UsageError(f"--out {out}: is there already; pass --overwrite or another name")
  if not out.parent.is_dir():
    raise UsageError(f"--out {out}: no such folder {out.parent}; make it first")
  if cfg.to == "litert_int8" and not cfg.representative:
    raise UsageError("--to litert_int8 needs --representative: recordings like those to come")
  if cfg.to != "litert_int8" and cfg.representative:
    raise UsageError("--representative is of --to litert_int8; leave it out")
  for flag in ("clips", "runs"):
    if getattr(cfg, flag) < 1:
      raise UsageError(f"--{flag} {getattr(cfg, flag)}: must be more than 0")
  if cfg.seconds < 0:
    raise UsageError(f"--seconds {cfg.seconds:g}: must not be negative")
  return out


def _check_extra(cfg: Export) -> None:
  """Before anything that takes long."""
  from experiments.exporting.litert import check_extra

  files = (cfg.out, *cfg.beside)
  if any(file.endswith(".onnx") for file in files):
    check_extra("onnxruntime", "running an ONNX file")
  for module in {"litert_int8": ("ai_edge_quantizer",), "onnx": ("tf2onnx",)}.get(cfg.to, ()):
    check_extra(module, f"--to {cfg.to}")


def _usual_seconds(model: Any) -> float:
  """Of scene models those they are trained on; a PaSST that tells tags hears more."""
  from mobile_jax.families import Scene
  from mobile_jax.scene_config import SECONDS

  return SECONDS if isinstance(model, Scene) and model.objective == "classes" else LONG_SECONDS


def _clips(paths: Sequence[str], cfg: Export, samples: int, rate: int) -> list[np.ndarray]:
  """The first clips of f32[samples] in the recordings, or synthetic ones."""
  import numpy as np

  from experiments.audio_files import audio_paths, read_wave
  from pipelines.synthetic import CLASSES, render

  if not paths:
    longer = max(0.5, samples / rate)
    count = min(cfg.clips, len(CLASSES))
    return [render(i, seconds=longer, sample_rate=rate)[0][:samples] for i in range(count)]
  found: list[np.ndarray] = []
  for path in audio_paths(paths):
    wave = read_wave(path, rate)
    # What is left at the end of a recording is no clip, unless it is all there is.
    whole = wave[: len(wave) // samples * samples] if len(wave) >= samples else wave
    whole = np.pad(whole, (0, -len(whole) % samples))
    found += list(whole.reshape(-1, samples)[: cfg.clips - len(found)])
    if len(found) == cfg.clips:
      break
  return found


def _opened(file: Path, samples: int) -> tuple[Any, int]:
  """(an exported file to be called, its bytes)."""
  from experiments.exporting.litert import LiteRT
  from experiments.exporting.onnx_file import Onnx

  kinds: dict[str, Any] = {".tflite": LiteRT, ".onnx": Onnx}
  if file.suffix not in kinds:
    raise UsageError(f"{file}: is no exported file; its name ends in .tflite or .onnx")
  content = file.read_bytes()
  try:
    runtime = kinds[file.suffix](content)
  except UsageError:
    raise
  except Exception as error:  # each runtime has its own
    reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
    raise UsageError(f"{file}: cannot be loaded; damaged or foreign ({reason})") from None
  if runtime.samples != samples:
    raise UsageError(f"{file}: takes {runtime.samples} samples, not {samples}; see --seconds")
  return runtime, len(content)


def _numpy(x: Any) -> np.ndarray:
  import numpy as np

  return np.asarray(x)


if __name__ == "__main__":
  cli.run_main(
    main,
    {"default": Export()},
    prog="export",
    default="default",
    description=(__doc__ or "").split("\n")[0],
  )
