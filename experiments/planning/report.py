"""An assessment as a page of text, and as JSON with every figure and every reason."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from typing import Any

import jax

from experiments.planning.assess import Assessment, Figure
from experiments.planning.cost_model import Speed, StepTime, balanced_clips, speed
from experiments.planning.layouts import shards
from experiments.planning.topology import Topology

GB = 1e9


def page(found: Assessment, topology: Topology, clips: float, name: str) -> str:
  """The report of one layout."""
  lines = [*_head(found, topology, name), "", *_memory(found), "", *_work(found, topology)]
  lines += ["", *_exchanges(found, topology), "", *_time(found, topology, clips)]
  lines += [f"the compiler: {note}" for note in found.notes]
  return "\n".join(lines)


def verdict(found: Assessment, topology: Topology) -> str:
  """One line: fits or not, by how much."""
  share = found.fullest / found.usable
  by = " by the formula" if found.fullest == found.expected.peak.total else ""
  word = "fits" if found.fits else "DOES NOT FIT"
  return (
    f"{word}: {found.fullest / GB:.2f} GB{by} of the {found.usable / GB:.2f} GB that a program may "
    f"use on {topology.chip.name} ({share:.0%})"
  )


def _head(found: Assessment, topology: Topology, name: str) -> list[str]:
  layout = found.layout
  many = f" in {topology.slices} slices" if topology.slices > 1 else ""
  each = "device" if layout.mesh.tensor == 1 else f"{layout.mesh.tensor} devices"
  clips = f"{layout.batch / shards(layout.mesh):g} clips per {each}"
  versions = f"jax {jax.__version__}"
  if topology.chip.platform == "tpu":
    versions += f", libtpu {importlib.metadata.version('libtpu')}"
  return [
    f"plan      {name} on {topology}: {topology.count} devices{many}",
    f"layout    {layout}",
    f"          {clips}; {versions}, {found.took:.0f} s to compile",
    f"flags     {layout.flags()}",
    verdict(found, topology),
  ]


def _row(label: str, figure: Figure, unit: float, word: str, note: str = "") -> str:
  if figure.value is None:
    return f"  {label:<30}{'-':>10}      {figure.reason}"
  return f"  {label:<30}{figure.value / unit:>10,.2f} {word:<5}{note}".rstrip()


def _memory(found: Assessment) -> list[str]:
  state, peak = found.expected.state, found.expected.peak
  parts = (
    f"params {state.params / GB:.2f}, optimiser {state.opt_state / GB:.2f}"
    + (f", average {state.ema / GB:.2f}" if state.ema else "")
    + f", batch {peak.batch / GB:.2f}"
  )
  inside = (
    f"state and batch {(peak.state + peak.batch) / GB:.2f}, gradients {peak.gradients / GB:.2f}, "
    f"copies of weights {peak.copies / GB:.2f}, saved for backward {peak.saved / GB:.2f}, "
    f"working {peak.working / GB:.2f}"
  )
  return [
    "memory of a device",
    _row("arguments", found.arguments, GB, "GB", f"({parts}, before padding)"),
    _row("temporaries", found.temporaries, GB, "GB"),
    _row("peak, by the compiler", found.peak, GB, "GB"),
    _row("peak, by the formula", Figure(float(peak.total)), GB, "GB", f"({inside})"),
  ]


def _work(found: Assessment, topology: Topology) -> list[str]:
  clip = found.expected.clip
  note = (
    f"(formula {found.expected.flops / GB:,.1f}; per clip {clip.model / GB:,.1f} needed + "
    f"{clip.recomputed / GB:,.1f} recomputed + {clip.mel / GB:.1f} log-mel)"
  )
  kind = "read off the program" if topology.chip.platform == "tpu" else "the least, by the formula"
  return [
    "work of a device and step",
    _row("matrix products", found.flops, GB, "GFLOP", note),
    _row("unrolled twin, per clip", found.twin, GB, "GFLOP", "(XLA's count, all operations)"),
    _row("memory traffic", found.bytes, GB, "GB", f"({kind})"),
    _row("compiler's time estimate", found.seconds, 1e-3, "ms"),
  ]


def _exchanges(found: Assessment, topology: Topology) -> list[str]:
  head = "sent by a device and step"
  if found.exchanges is None:
    return [head, f"  {'-':>40}      {found.exchanges_reason}"]
  inner = "within a slice" if topology.chip.platform == "tpu" else "within a node"
  lines = [f"{head:<24}{'group':>7}{'count':>9}{inner + ', GB':>20}{'between, GB':>14}"]
  small = [0.0, 0.0, 0.0]
  total = sum(x.inner + x.outer for x in found.exchanges) or 1.0
  for each in found.exchanges:
    if (each.inner + each.outer) / total < 0.002:
      small = [a + b for a, b in zip(small, (each.count, each.inner, each.outer), strict=True)]
      continue
    lines.append(_exchange(each.kind, each.group, each.count, each.inner, each.outer))
  if small[0]:
    lines.append(_exchange("others", 0, *small))
  inner_all = sum(x.inner for x in found.exchanges)
  outer_all = sum(x.outer for x in found.exchanges)
  lines.append(_exchange("all", 0, sum(x.count for x in found.exchanges), inner_all, outer_all))
  lines.append(f"  the least for this layout is {found.expected.sent / GB:.2f} GB")
  return lines


def _exchange(kind: str, group: int, count: float, inner: float, outer: float) -> str:
  members = str(group) if group else ""
  return f"  {kind:<22}{members:>7}{count:>9,.0f}{inner / GB:>20.3f}{outer / GB:>14.3f}"


def _time(found: Assessment, topology: Topology, clips: float) -> list[str]:
  if found.time is None:
    return ["time      -  " + (found.flops.reason or found.exchanges_reason or "no program")]
  time = found.time
  network = "-" if time.outer is None else f"{time.outer * 1e3:.1f}"
  lines = [
    "time of a step at peak rates, ms: "
    f"products {time.compute * 1e3:.1f}, memory {time.memory * 1e3:.1f}, "
    f"links {time.links * 1e3:.1f} (one ring {time.ring * 1e3:.1f}), network {network}",
  ]
  if time.outer is None:
    lines.append(f"  no published speed between slices of {topology.chip.name}: left out below")
  lines.append(f"{'':<34}{'ms/step':>10}{'MFU':>8}{'clips/s':>10}{'hours':>10}{'chip-hours':>12}")
  for label, seconds in (
    ("bound: all at once", time.together),
    ("messages apart, on one ring", time.apart),
  ):
    lines.append(_speed(label, seconds, _rate(found, topology, seconds, clips)))
  tensor = found.layout.mesh.tensor
  each = "device" if tensor == 1 else f"{tensor} devices"
  even = balanced_clips(time, max(1, found.layout.batch // shards(found.layout.mesh)))
  lines.append(
    f"  limited by {time.limit}; products outlast the messages of one ring from about {even} clips "
    f"per {each} on, a batch of {even * shards(found.layout.mesh):,}"
  )
  lines.append(f"  hours are for {clips / 1e6:,.0f} M clips; no real program reaches peak rates")
  return lines


def _rate(found: Assessment, topology: Topology, seconds: float, clips: float) -> Speed:
  return speed(
    seconds, found.layout.batch, found.expected.clip.model, topology.chip, topology.count, clips
  )


def _speed(label: str, seconds: float, rate: Speed) -> str:
  return (
    f"  {label:<32}{seconds * 1e3:>10.1f}{rate.mfu:>8.1%}{rate.clips_per_second:>10,.0f}"
    f"{rate.hours:>10,.1f}{rate.chip_hours:>12,.0f}"
  )


def as_json(found: Assessment, topology: Topology, clips: float, name: str) -> dict[str, Any]:
  """Everything, in bytes, operations and seconds; a figure that failed its check is null."""
  time: StepTime | None = found.time
  data: dict[str, Any] = {
    "config": name,
    "topology": str(topology),
    "devices": topology.count,
    "chip": dataclasses.asdict(topology.chip),
    "layout": dataclasses.asdict(found.layout),
    "flags": found.layout.flags(),
    "fits": found.fits,
    "compile_seconds": found.took,
    "jax": jax.__version__,
    "notes": list(found.notes),
    "expected": dataclasses.asdict(found.expected)
    | {"flops_per_clip": found.expected.clip.model, "peak_bytes": found.expected.peak.total},
  }
  for field in ("arguments", "temporaries", "peak", "flops", "bytes", "seconds", "twin"):
    figure: Figure = getattr(found, field)
    data[field] = figure.value
    if figure.reason:
      data[f"{field}_reason"] = figure.reason
  data["exchanges"] = (
    None if found.exchanges is None else [dataclasses.asdict(x) for x in found.exchanges]
  )
  if time is not None:
    data["time"] = dataclasses.asdict(time)
    for key, seconds in (("bound", time.together), ("apart", time.apart)):
      data[key] = {
        "step_seconds": seconds,
        **dataclasses.asdict(_rate(found, topology, seconds, clips)),
      }
  return data
