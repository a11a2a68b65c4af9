"""The figures of a scaling study: a table of runs, its laws in words, and both for programs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.evaluation.report import markdown_table, write_report
from experiments.scaling_study.held_out import Point
from experiments.scaling_study.law import Law
from experiments.scaling_study.laws import HEARD, PARAMETERS, TITLES
from experiments.scaling_study.uncertainty import GREEK, Fitted
from experiments.training.metrics import write_json

FACTORS = ("A", "B")


def write(points: Sequence[Point], laws: Mapping[str, Fitted], out: Path) -> str:
  """Writes scaling.md, .csv and .json; returns the markdown."""
  text = runs_table(points)
  if laws:
    text += "\n\n" + "\n\n".join(told(title, law) for title, law in laws.items())
  records = [dataclasses.asdict(p) for p in points]
  (out / "scaling.md").write_text(text + "\n", encoding="utf-8")
  write_report(out / "scaling.csv", records, "")
  found = {title: as_json(law) for title, law in laws.items()}
  write_json(out / "scaling.json", {"runs": records, "laws": found})
  return text


def runs_table(points: Sequence[Point]) -> str:
  """Markdown, a row for each run."""
  tasks = list(dict.fromkeys(name for p in points for name in p.accuracy))
  header = ["size", "parameters", "hours of audio", "steps", "seed", "hours heard", "operations"]
  header += ["held-out loss", *(f"{task}, k-NN" for task in tasks)]
  rows = [
    [
      p.size,
      f"{(p.encoder + p.decoder) / 1e6:.4g} M",
      f"{p.hours:.4g}",
      f"{p.steps:,}",
      str(p.seed),
      f"{p.seen_hours:.4g}",
      f"{p.flops:.3g}",
      f"{p.loss:.4f}",
      *(f"{100 * p.accuracy[task]:.1f} %" if task in p.accuracy else "" for task in tasks),
    ]
    for p in points
  ]
  return markdown_table(header, rows)


def told(title: str, fitted: Fitted) -> str:
  """A law in words: its formula, its numbers with their intervals, and what it cannot tell."""
  names = ", ".join(TITLES[name] for name in fitted.names)
  lines = [f"**{title}**: {formula(fitted)} over {names}; {fitted.runs} runs"]
  for symbol, of in figures(fitted).items():
    between = fitted.interval(of)
    share = f"{100 * fitted.confidence:g} %"
    text = f" ({between[0]:.4g} to {between[1]:.4g}, {share})" if between else " (no interval)"
    lines.append(f"- {symbol} {of(fitted.law):.4g}{text}")
  return "\n".join(lines + [f"- {doubt}" for doubt in fitted.doubts])


def formula(fitted: Fitted) -> str:
  """The law with symbols, such as L = E + A / N^alpha."""
  letters = [{PARAMETERS: "N", "flops": "C"}.get(name, "D") for name in fitted.names]
  parts = zip(FACTORS, letters, GREEK, strict=False)
  terms = [f"{factor} / {letter}^{greek}" for factor, letter, greek in parts]
  return "L = " + " + ".join((["E"] if fitted.law.has_floor else []) + terms)


def figures(fitted: Fitted) -> dict[str, Callable[[Law], float]]:
  """Every number of a law by its symbol, as a function of the law.

  Beside A the share of the loss at the centre of the runs, A / centre^alpha, which is known far
  better than A itself. Over parameters and hours heard, `a` is the exponent by which the best size
  grows with the operations, beta / (alpha + beta).
  """
  found: dict[str, Callable[[Law], float]] = {}
  if fitted.law.has_floor:
    found["E"] = lambda law: law.floor
  for i, name in enumerate(fitted.names):
    found[GREEK[i]] = _nth("exponents", i)
    found[FACTORS[i]] = _nth("factors", i)
    centre = f"{FACTORS[i]}'s part of the loss at {fitted.law.centres[i]:.3g} {TITLES[name]}"
    found[centre] = _nth("shares", i)
  if fitted.names == (PARAMETERS, HEARD):
    found["a"] = lambda law: law.exponents[1] / sum(law.exponents)
  return found


def _nth(name: str, number: int) -> Callable[[Law], float]:
  return lambda law: getattr(law, name)[number]


def as_json(fitted: Fitted) -> dict[str, Any]:
  """A law for programs: numbers, intervals, and enough to compute it."""
  numbers = {
    symbol: {"value": of(fitted.law), "interval": fitted.interval(of)}
    for symbol, of in figures(fitted).items()
  }
  return {
    "formula": formula(fitted),
    "variables": fitted.names,
    "runs": fitted.runs,
    "confidence": fitted.confidence,
    "resamples": len(fitted.resampled),
    "numbers": numbers,
    "law": dataclasses.asdict(fitted.law),
    "doubts": fitted.doubts,
  }
