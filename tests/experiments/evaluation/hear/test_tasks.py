"""The table of tasks against what was published: the study's table II, and the leaderboard."""

import numpy as np
import pytest

from experiments.evaluation.hear.normalise import group_means, percent_of_best
from experiments.evaluation.hear.scores import CLIP_SCORES, EVENT_SCORES
from experiments.evaluation.hear.tasks import GROUPS, TASKS, key_of

# Table II of the embedding study: percent of the best, by group and over all tasks.
TABLE_II = {
  "L": (55.64, 88.28, 43.12, 64.38),
  "M_B": (93.01, 74.66, 76.52, 81.91),
  "M_SE": (87.07, 70.77, 74.14, 77.66),
  "H_Clf1": (89.10, 67.62, 69.95, 76.15),
  "H_Clf2": (85.80, 65.87, 64.67, 72.90),
  "H_Clf3": (73.50, 55.86, 42.31, 58.79),
  "M_B+L": (87.75, 91.10, 77.23, 86.22),
  "M_B+M_SE": (91.65, 73.07, 77.32, 81.03),
  "M_B+H_Clf1": (87.74, 72.83, 77.74, 79.62),
  "M_B+H_Clf2": (89.75, 72.20, 73.61, 79.04),
  "M_B+H_Clf3": (76.88, 61.92, 53.90, 65.32),
}
# A row of the leaderboard, and what the study's figures show of it, read off to a hundredth:
# smallest, quartiles and largest by group; and the mean of all tasks.
OPENL3 = {
  "beehive": 0.604021996,
  "beijing_opera": 0.974556744,
  "crema_d": 0.549740589,
  "dcase2016": 0.832779646,
  "esc50": 0.750500011,
  "fsd50k": 0.446962625,
  "gtzan_genre": 0.878999996,
  "gtzan_music_speech": 0.968589747,
  "gunshot": 0.949404768,
  "libricount": 0.641433573,
  "maestro": 0.016502469,
  "mridangam_stroke": 0.966605771,
  "mridangam_tonic": 0.936935115,
  "nsynth_pitch_50h": 0.731034458,
  "nsynth_pitch_5h": 0.560000002,
  "speech_commands_5h": 0.679550111,
  "speech_commands_full": 0.763394654,
  "vocal_imitation": 0.078120478,
  "vox_lingua": 0.33129791,
}
FIGURE = {
  "general": (0.36, 0.69, 0.79, 0.94, 0.98),
  "music": (0.03, 0.73, 0.99, 1.00, 1.00),
  "speech": (0.46, 0.70, 0.73, 0.78, 0.82),
}


def test_there_are_nineteen_tasks():
  assert len(TASKS) == 19
  assert sum(task.events for task in TASKS.values()) == 2
  for task in TASKS.values():
    assert set(task.scores) <= {*CLIP_SCORES, *EVENT_SCORES}
    assert all((score in EVENT_SCORES) == task.events for score in task.scores)


@pytest.mark.parametrize("row", TABLE_II)
def test_groups_have_the_sizes_of_the_study(row):
  """Means over groups, weighed by their sizes, are the published means over all tasks."""
  sizes = [sum(task.group == group for task in TASKS.values()) for group in GROUPS]
  *means, all_tasks = TABLE_II[row]
  assert np.average(means, weights=sizes) == pytest.approx(all_tasks, abs=0.011)


@pytest.mark.parametrize("group", GROUPS)
def test_groups_have_the_members_of_the_study(group):
  found = [percent_of_best(k, v) / 100 for k, v in OPENL3.items() if TASKS[k].group == group]
  np.testing.assert_allclose(np.percentile(found, (0, 25, 50, 75, 100)), FIGURE[group], atol=0.011)


def test_means_count_what_is_missing():
  means = group_means(OPENL3)
  assert means["all"].percent == pytest.approx(75.5, abs=0.1)
  assert means["all"].cell() == "75.52"
  few = group_means({"esc50": TASKS["esc50"].best, "unknown": 1.0})
  assert few["general"] == (pytest.approx(100.0), 1, 7)
  assert few["general"].cell() == "100.00 (1 of 7)"
  assert few["music"].percent is None
  assert few["music"].cell() == "- (0 of 7)"


def test_folders_are_of_a_task_by_name_and_extent():
  assert key_of("speech_commands", "5h") == "speech_commands_5h"
  assert key_of("speech_commands", "full") == "speech_commands_full"
  assert key_of("beehive_states_fold1", "full") == "beehive"
  assert key_of("speech_commands", "small") is None
