"""The metrics file after resuming, after a kill and on a full disk; TensorBoard; late scalars."""

import json
import math
import os
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from experiments.training import metrics
from experiments.training.whole_file import WholeFile


def steps(folder):
  return [(r["step"], r["part"]) for r in metrics.read_metrics(folder / metrics.FILE)]


def test_values_come_back(tmp_path):
  with metrics.MetricsWriter(tmp_path, tensorboard=False) as writer:
    writer.write(1, {"loss": np.float32(0.5), "lr": 1e-3})
    writer.write(1, {"loss": math.nan}, part="validation")
  first, second = metrics.read_metrics(tmp_path / metrics.FILE)
  assert first == {"step": 1, "part": "train", "loss": 0.5, "lr": 1e-3}
  assert math.isnan(float(second["loss"]))


def test_a_line_is_on_disk_before_the_next(tmp_path):
  with metrics.MetricsWriter(tmp_path, tensorboard=False) as writer:
    for step in (1, 2):
      writer.write(step, {"loss": 1.0})
      assert len((tmp_path / metrics.FILE).read_text().splitlines()) == step


def test_a_step_never_stands_twice(tmp_path):
  with metrics.MetricsWriter(tmp_path, tensorboard=False) as writer:
    for step in range(1, 8):
      writer.write(step, {"loss": 1.0})
    writer.write(5, {"loss": 1.0}, part="validation")
    with pytest.raises(ValueError, match="train values of step 7 already"):
      writer.write(7, {"loss": 1.0})
  with metrics.MetricsWriter(tmp_path, start_step=5, tensorboard=False) as writer:
    writer.write(6, {"loss": 2.0})
    with pytest.raises(ValueError, match="validation values of step 5 already"):
      writer.write(5, {"loss": 1.0}, part="validation")
  assert steps(tmp_path) == [*((n, "train") for n in range(1, 6)), (5, "validation"), (6, "train")]
  assert metrics.read_metrics(tmp_path / metrics.FILE)[-1]["loss"] == 2.0


def test_a_run_from_the_start_empties_the_file(tmp_path):
  for _ in range(2):
    with metrics.MetricsWriter(tmp_path, tensorboard=False) as writer:
      writer.write(1, {"loss": 1.0})
  assert steps(tmp_path) == [(1, "train")]


@pytest.mark.parametrize("cut", range(1, 45, 4))
def test_a_torn_last_line_is_dropped_at_any_length(tmp_path, cut):
  path = tmp_path / metrics.FILE
  line = '{"step": 3, "part": "train", "loss": 0.25}\n'
  path.write_text('{"step": 2, "part": "train", "loss": 0.5}\n' + line[: min(cut, len(line) - 1)])
  assert steps(tmp_path) == [(2, "train")]
  with metrics.MetricsWriter(tmp_path, start_step=3, tensorboard=False) as writer:
    writer.write(3, {"loss": 0.25})
  assert path.read_text().splitlines(keepends=True)[1:] == [line]


@pytest.mark.parametrize("damage", ["not json", "[1]", '{"loss": 1}', '{"step": "x"}'])
def test_damage_before_the_end_is_named(tmp_path, damage):
  path = tmp_path / metrics.FILE
  path.write_text(f'{damage}\n{{"step": 2, "part": "train"}}\n')
  with pytest.raises(ValueError, match=r"metrics.jsonl: line 1 is damaged"):
    metrics.MetricsWriter(tmp_path, start_step=3, tensorboard=False)


WRITE_FOR_EVER = """
import sys
from experiments.training import metrics
writer = metrics.MetricsWriter(sys.argv[1], tensorboard=False)
for step in range(1, 10**9):
  writer.write(step, {"loss": 1 / step})
  print(step, flush=True)
"""


def test_lines_survive_a_kill(tmp_path):
  process = subprocess.Popen(
    [sys.executable, "-c", WRITE_FOR_EVER, str(tmp_path)], stdout=subprocess.PIPE, text=True
  )
  said = [int(process.stdout.readline()) for _ in range(200)][-1]
  os.kill(process.pid, signal.SIGKILL)
  process.wait()
  process.stdout.close()
  found = [step for step, _ in steps(tmp_path)]
  assert found == list(range(1, len(found) + 1))
  assert len(found) >= said


def test_the_idle_processes_of_a_pod_write_nothing(tmp_path):
  with metrics.MetricsWriter(tmp_path / "new", active=False) as writer:
    writer.write(1, {"loss": 1.0})
    writer.write(1, {"loss": 1.0})
  assert not (tmp_path / "new").exists()


def test_tensorboard_gets_the_same_values(tmp_path, monkeypatch):
  got = []
  monkeypatch.setattr(
    metrics.EventWriter, "scalars", lambda self, step, values: got.append((step, values))
  )
  with metrics.MetricsWriter(tmp_path) as writer:
    writer.write(1, {"loss": 0.5}, part="validation")
  assert got == [(1, {"validation/loss": 0.5})]
  assert list((tmp_path / metrics.TENSORBOARD).iterdir())


def test_json_is_strict_and_so_is_its_readable_block(tmp_path):
  values = {"steps": 3, "loss": np.float32(0.25), "knn": {"before": math.nan, "after": -math.inf}}
  path = tmp_path / "summary.json"
  metrics.write_json(path, values)
  read = json.loads(path.read_text(), parse_constant=pytest.fail)
  assert read == {"steps": 3, "loss": 0.25, "knn": {"before": "nan", "after": "-inf"}}
  assert [float(x) for x in read["knn"].values()] == [
    pytest.approx(math.nan, nan_ok=True),
    -math.inf,
  ]
  assert metrics.block(values) == "steps  3\nloss   0.25\nknn\n  before  nan\n  after   -inf"
  metrics.write_json(path, [math.inf])
  assert json.loads(path.read_text(), parse_constant=pytest.fail) == ["inf"]
  assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_an_os_error(tmp_path):
  if not os.path.exists("/dev/full"):
    pytest.skip("needs /dev/full")
  writer = metrics.MetricsWriter(tmp_path, tensorboard=False)
  writer.close()
  writer._file = WholeFile("/dev/full")
  with pytest.raises(OSError, match="No space left"):
    writer.write(1, {"loss": 1.0})


def test_late_scalars_come_one_step_later():
  late = metrics.Late()
  assert late.flush() is None
  with jax.transfer_guard("disallow"):
    double = jax.jit(lambda x: {"loss": 2 * x})
    values = [double(jax.device_put(np.float32(i))) for i in range(3)]
    assert late.push(1, values[0]) is None
    assert late.push(2, values[1]) == (1, {"loss": 0.0})
    assert late.push(3, values[2] | {"lr": 0.5}) == (2, {"loss": 2.0})
    assert late.flush() == (3, {"loss": 4.0, "lr": 0.5})
  assert late.flush() is None
