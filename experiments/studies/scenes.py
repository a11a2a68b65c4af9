"""What makes a good teacher of scenes: tables 1 to 4 of the paper, on any set with devices.

    teacher cells (network, method, seed) --> logits cells (one teacher, or many) --> student cells
    one recipe, its methods switched off      raw logits, averaged                    one recipe

Cells are named by what they are, so tables that share a folder share their cells.

Source: reference text of the scene models, section 10; Morocutti et al. 2023, tables 1 to 4.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.configs import scenes
from experiments.studies.cell import Cell, Points
from experiments.studies.config import Name, StudyConfig
from experiments.studies.study import Study
from experiments.teaching.store import RECORD
from experiments.training.errors import UsageError
from mobile_jax.passt_config import PaSSTConfig

# What a training run of this method does without: impulse responses, Freq-MixStyle.
_NO_DIR, _NO_FMS = ("--augment.response_p", "0"), ("--augment.mixstyle", "0")
METHODS: dict[str, tuple[str, ...]] = {
  "dirfms": (),
  "dir": _NO_FMS,
  "fms": _NO_DIR,
  "none": (*_NO_DIR, *_NO_FMS),
}


class Member(NamedTuple):
  """A kind of teacher: a network of `configs.scenes`, and a row of `METHODS`."""

  size: str
  method: str

  @property
  def name(self) -> str:
    """Of its cells."""
    return f"{self.size}_{self.method}"


class Ensemble(NamedTuple):
  """A row: students of the mean logits of members.

  every_seed: the members of all seeds together teach each student; without it the student of a seed
  has the teachers of its own seed.
  """

  row: str
  members: tuple[Member, ...]
  every_seed: bool

  @property
  def name(self) -> str:
    """Of its cells."""
    if len(self.members) == 1:
      return self.members[0].name
    sizes, methods = (dict.fromkeys(part) for part in zip(*self.members, strict=True))
    return f"{'+'.join(sizes)}__{'+'.join(methods)}"


_CP_RESNET = tuple(f"cp_resnet_{n}" for n in (32, 56, 88, 168, 232))
_CP_MOBILE = tuple(f"cp_mobile_{n}" for n in (32, 64, 96, 184, 264))
# The networks that the paper has in each table.
TEACHERS: dict[str, tuple[str, ...]] = {
  "teacher_size": (*_CP_RESNET, *_CP_MOBILE, "passt"),
  "device_methods": ("cp_resnet_56", "cp_mobile_32", "passt"),
  "three_teachers": (*_CP_RESNET[:2], *_CP_MOBILE[:2], "passt"),
  "teacher_ensembles": ("cp_resnet_56", "cp_mobile_32", "passt"),
}


def teacher_size(cfg: StudyConfig) -> Study:
  """Table 1: teachers of growing size, and their students."""
  rows = [Ensemble(size, (Member(size, "dirfms"),), False) for size in _teachers(cfg)]
  return _study(cfg, rows, "accuracy of students, by the size of their teacher")


def device_methods(cfg: StudyConfig) -> Study:
  """Table 2: teachers with and without what makes them hear other devices, and their students."""
  if not cfg.methods or set(cfg.methods) - set(METHODS):
    raise UsageError(f"--methods {' '.join(cfg.methods)}: choose from {', '.join(METHODS)}")
  rows = [
    Ensemble(f"{size}, {method}", (Member(size, method),), False)
    for method in cfg.methods
    for size in _teachers(cfg)
  ]
  return _study(cfg, rows, "accuracy of students, by how their teacher was trained")


def three_teachers(cfg: StudyConfig) -> Study:
  """Table 3: the teachers of all seeds together, equal but for their seed."""
  many = len(cfg.seeds)
  rows = [Ensemble(f"{many} of {size}", (Member(size, "dirfms"),), True) for size in _teachers(cfg)]
  return _study(cfg, rows, "accuracy of students of equal teachers")


def teacher_ensembles(cfg: StudyConfig) -> Study:
  """Table 4: ensembles over architectures, and over methods of device generalisation."""
  sizes = _teachers(cfg)
  groups: list[tuple[str, ...]] = [(size,) for size in sizes]
  groups += [(a, b) for i, a in enumerate(sizes) for b in sizes[i + 1 :]]
  if len(sizes) > 2:
    groups.append(sizes)
  rows = [
    Ensemble(
      f"{' + '.join(group)}, {' + '.join(methods)}",
      tuple(Member(size, method) for method in methods for size in group),
      True,
    )
    for group in groups
    for methods in (("dirfms",), ("dirfms", "fms"), ("dirfms", "fms", "dir"))
  ]
  return _study(cfg, rows, "accuracy of students of ensembles")


def _teachers(cfg: StudyConfig) -> tuple[str, ...]:
  """The networks that teach, after a look at all that the study needs."""
  end = "_paper" if cfg.paper else ""
  first = f"{cfg.recipes}_"
  known = [
    name.removeprefix(first).removesuffix("_paper")
    for name in scenes.FINETUNE
    if name.startswith(first) and name.endswith("_paper") == cfg.paper
  ]
  if not known or f"{first}student{end}" not in scenes.DISTILL:
    told = f"--recipes {cfg.recipes}{' --paper true' if cfg.paper else ''}"
    raise UsageError(f"{told}: there are none; choose tau22, or quick without --paper")
  sizes = cfg.teachers or TEACHERS[cfg.study]
  for size in sizes:
    if size not in known:
      raise UsageError(f"--teachers {size}: choose from {', '.join(known)}")
  if not cfg.init and any(_begins_with_weights(cfg, size) for size in sizes):
    raise UsageError(
      "--init is missing: PaSST begins with its weights of AudioSet; name them, or name --teachers "
      "without passt"
    )
  if not cfg.responses:
    raise UsageError("--responses is missing: name the folder of microphones' impulse responses")
  return sizes


def _recipe(cfg: StudyConfig, kind: str) -> str:
  return f"{cfg.recipes}_{kind}{'_paper' if cfg.paper else ''}"


def _begins_with_weights(cfg: StudyConfig, size: str) -> bool:
  return isinstance(scenes.FINETUNE[_recipe(cfg, size)].model, PaSSTConfig)


def _study(cfg: StudyConfig, rows: Sequence[Ensemble], title: str) -> Study:
  """Every teacher that a row needs, the logits of every ensemble, every student."""
  teachers: dict[str, Cell] = {}
  rest: list[Cell] = []
  for row in rows:
    alone = row.row if len(row.members) == 1 and not row.every_seed else ""
    for member in row.members:
      for seed in cfg.seeds:
        cell = _teacher(cfg, member, seed, alone)
        teachers.setdefault(cell.name, cell)
    heard = {seed: _logits(cfg, row, seed) for seed in cfg.seeds}
    rest += {cell.name: cell for cell in heard.values()}.values()
    rest += [_student(cfg, row, seed, heard[seed]) for seed in cfg.seeds]
  return Study(
    cells=(*teachers.values(), *rest),
    columns=COLUMNS,
    title=title,
    name=cfg.study,
  )


def _training(cfg: StudyConfig, recipe: str, seed: int, folder: Path) -> tuple[str, ...]:
  return (
    *("--config", _recipe(cfg, recipe)),
    *("--data.source", cfg.data, "--data.cache", "memory"),
    *("--augment.responses", cfg.responses),
    *("--compile_cache", str(Path(cfg.out) / "programs")),
    *("--loop.seed", str(seed), "--workdir", str(folder), *cfg.more),
  )


def _teacher(cfg: StudyConfig, member: Member, seed: int, row: str) -> Cell:
  name = f"teacher_{member.name}_{seed}"
  folder = Path(cfg.out) / name
  start = ("--init", cfg.init) if _begins_with_weights(cfg, member.size) else ()
  flags = (*_training(cfg, member.size, seed, folder), *METHODS[member.method], *start)
  return Cell(name, "finetune", flags, folder / "report.json", row, _figures("teacher_", seed))


def _logits(cfg: StudyConfig, row: Ensemble, seed: int) -> Cell:
  """Of the seed's own teachers, or one for all seeds."""
  seeds = cfg.seeds if row.every_seed else (seed,)
  heard = [f"teacher_{member.name}_{s}" for member in row.members for s in seeds]
  name = f"logits_{row.name}_{'of_' + _joined(cfg) if row.every_seed else seed}"
  folder = Path(cfg.out) / name
  weights = [str(Path(cfg.out) / one / "export" / "model.safetensors") for one in heard]
  crop = ("--data.crop_seconds", "1", "--data.crop", "single")
  flags = (*weights, "--data.source", cfg.data, *crop, "--out", str(folder))
  return Cell(name, "write_logits", flags, folder / RECORD, needs=tuple(heard))


def _student(cfg: StudyConfig, row: Ensemble, seed: int, logits: Cell) -> Cell:
  name = f"student_{row.name}{'_of_' + _joined(cfg) if row.every_seed else ''}_{seed}"
  folder = Path(cfg.out) / name
  flags = (*_training(cfg, "student", seed, folder), "--teacher", str(logits.result.parent))
  report = folder / "report.json"
  return Cell(name, "distill", flags, report, row.row, _figures("", seed), (logits.name,))


def _joined(cfg: StudyConfig) -> str:
  """The seeds of the teachers of one student."""
  return "-".join(map(str, cfg.seeds))


# Figures of report.json, and what the tables call them.
_NAMES = {
  "accuracy": "accuracy",
  "accuracy_real": "real_accuracy",
  "accuracy_seen": "seen_accuracy",
  "accuracy_unseen": "unseen_accuracy",
}
COLUMNS = tuple(f"{who}{name}" for name in _NAMES.values() for who in ("", "teacher_"))


def _figures(prefix: str, seed: int) -> Callable[[Any], Points]:
  """What report.json says of a teacher or a student, a point for each seed."""

  def points(report: Mapping[str, Any]) -> Points:
    found = {f"{prefix}{ours}": report[name] for name, ours in _NAMES.items() if name in report}
    return {f"seed {seed}": found}

  return points


LAID_OUT: dict[Name, Callable[[StudyConfig], Study]] = {
  "teacher_size": teacher_size,
  "device_methods": device_methods,
  "three_teachers": three_teachers,
  "teacher_ensembles": teacher_ensembles,
}
