"""The 19 tasks of HEAR 2021 as one table: names, parts, clips, scores, groups, the best of 2021.

Sources: Turian et al., "HEAR: Holistic Evaluation of Audio Representations" (2022), its task table;
the configurations of `hearpreprocess`; the public leaderboard (hearbenchmark/hear-leaderboard,
leaderboard.csv), of whose rows those of "HEAR 2021" are the challenge. Groups are those of the
embedding study (Schmid et al. 2023): with them the leaderboard's rows give the study's figures.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Group = Literal["general", "music", "speech"]
GROUPS: tuple[Group, ...] = ("general", "music", "speech")
# The other scores of most clip-wise tasks, behind the one that counts.
_CLIP = ("top1_acc", "mAP", "d_prime", "aucroc")
_RANKED = ("mAP", "d_prime", "aucroc", "top1_acc")


class Task(NamedTuple):
  """One task.

  Attributes:
    title: as the leaderboard has it.
    names: `task_name` of the folders, of which a benchmark's may have one or more; the task's score
      is their mean.
    mode: `mode` of the folders: which extent of the set.
    group: of the embedding study.
    folds: 0 for training, validation and test parts; else how many are left out in turn.
    scores: in order; the first selects, stops and counts.
    best: the highest first score of a system of the challenge; None where unknown.
    events: whether embeddings and answers are over time.
    tags: whether a clip or moment may have several labels, or none.
  """

  title: str
  names: tuple[str, ...]
  mode: str
  group: Group
  folds: int
  scores: tuple[str, ...]
  best: float | None
  events: bool = False
  tags: bool = False

  @property
  def score(self) -> str:
    """The score that counts."""
    return self.scores[0]


TASKS: dict[str, Task] = {
  "beehive": Task(
    "Beehive",
    ("beehive_states_fold0", "beehive_states_fold1"),
    "full",
    "general",
    0,
    ("aucroc", "mAP", "d_prime", "top1_acc"),
    0.877965838,
  ),
  "beijing_opera": Task(
    "Beijing Opera", ("beijing_opera",), "full", "music", 5, _CLIP, 0.974556744
  ),
  "crema_d": Task("CREMA-D", ("tfds_crema_d",), "full", "speech", 5, _CLIP, 0.752084637),
  "dcase2016": Task(
    "DCASE 2016",
    ("dcase2016_task2",),
    "full",
    "general",
    0,
    ("event_onset_200ms_fms", "segment_1s_er"),
    0.925373137,
    events=True,
    tags=True,
  ),
  "esc50": Task("ESC-50", ("esc50",), "full", "general", 5, _CLIP, 0.947499991),
  "fsd50k": Task("FSD50K", ("fsd50k",), "full", "general", 0, _RANKED, 0.640896618, tags=True),
  "gtzan_genre": Task("GTZAN Genre", ("tfds_gtzan",), "full", "music", 10, _CLIP, 0.88300001),
  "gtzan_music_speech": Task(
    "GTZAN Music/Speech",
    ("tfds_gtzan_music_speech",),
    "full",
    "general",
    10,
    _CLIP,
    0.992307693,
  ),
  "gunshot": Task("Gunshot", ("gunshot_triangulation",), "full", "general", 7, _CLIP, 0.96726191),
  "libricount": Task("Libricount", ("libricount",), "full", "speech", 5, _CLIP, 0.785314691),
  "maestro": Task(
    "Maestro 5h",
    ("maestro",),
    "5h",
    "music",
    5,
    ("event_onset_50ms_fms", "event_onset_offset_50ms_20perc_fms"),
    0.469076937,
    events=True,
    tags=True,
  ),
  "mridangam_stroke": Task(
    "Mridangam Stroke", ("mridangam_stroke",), "full", "music", 5, _CLIP, 0.975348616
  ),
  "mridangam_tonic": Task(
    "Mridangam Tonic", ("mridangam_tonic",), "full", "music", 5, _CLIP, 0.941521704
  ),
  "nsynth_pitch_50h": Task(
    "NSynth Pitch 50h",
    ("nsynth_pitch",),
    "50h",
    "music",
    0,
    ("pitch_acc", "chroma_acc"),
    0.899999976,
  ),
  "nsynth_pitch_5h": Task(
    "NSynth Pitch 5h",
    ("nsynth_pitch",),
    "5h",
    "music",
    0,
    ("pitch_acc", "chroma_acc"),
    0.878000021,
  ),
  "speech_commands_5h": Task(
    "Speech commands 5h",
    ("speech_commands",),
    "5h",
    "speech",
    0,
    ("top1_acc",),
    0.976278186,
  ),
  "speech_commands_full": Task(
    "Speech commands full",
    ("speech_commands",),
    "full",
    "speech",
    0,
    ("top1_acc",),
    0.977914095,
  ),
  "vocal_imitation": Task(
    "Vocal Imitation", ("vocal_imitation",), "full", "general", 3, _RANKED, 0.215213895
  ),
  "vox_lingua": Task(
    "VoxLingua107 top 10", ("vox_lingua_top10",), "full", "speech", 5, _CLIP, 0.720185053
  ),
}


def key_of(name: str, mode: str) -> str | None:
  """The task that a folder is of, by its `task_name` and `mode`; None for one of no table."""
  return next((k for k, t in TASKS.items() if name in t.names and mode == t.mode), None)
