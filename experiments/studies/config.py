"""What a study is told."""

from __future__ import annotations

import dataclasses
from typing import Literal, TypeAlias

from experiments.configs.transfer import MODES, Mode

Name: TypeAlias = Literal[
  "fine_tuning",
  "distillation",
  "teacher_size",
  "device_methods",
  "three_teachers",
  "teacher_ensembles",
  "transfer",
  "hear_features",
  "hear_widths",
]


@dataclasses.dataclass(frozen=True)
class StudyConfig:
  """The set, the weights, the seeds; what stands behind `--` is added to every training run."""

  about: str = ""
  study: Name = "fine_tuning"  # which one
  data: str = ""  # NAME=FOLDER of a labelled set, as --data.source of finetune takes it
  sets: tuple[str, ...] = ()  # of the study of transfer: NAME=FOLDER of further sets
  init: str = ""  # weights: a file, or a name of mobile_jax.MODELS
  out: str = ""  # folder of the study; what is finished there is not run again
  seeds: tuple[int, ...] = (0, 1, 2)  # of studies that are repeated
  fold: str = ""  # what is left out, of studies that leave out one part; empty: the set's first
  # of studies of scenes: the networks that teach, as the recipes end; empty: those of the paper
  teachers: tuple[str, ...] = ()
  # of the study of methods: some of dirfms, dir, fms, none
  methods: tuple[str, ...] = ("dirfms", "dir", "fms", "none")
  paper: bool = False  # of these: the paper's settings where the released code has others
  recipes: str = "tau22"  # of these: how the names of the training recipes begin
  responses: str = ""  # of these: folder of microphones' impulse responses
  # of the study of transfer: what is trained, and the network by name; empty: that of --init
  modes: tuple[Mode, ...] = MODES
  student: str = ""
  commands: bool = False  # print the commands, for other machines or other hands, and end
  # more flags of every training run, behind --
  more: tuple[str, ...] = dataclasses.field(default=(), metadata={"positional": True})
