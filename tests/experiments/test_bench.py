"""The side-by-side benchmark: its workers' protocol, its table, its refusals."""

import sys
import textwrap

import pytest

from dasheng_jax.errors import ConfigError
from experiments import bench
from experiments.benchmarks.contender import Contender, Skipped
from experiments.training.errors import RunError, UsageError

WORKER = """
  import sys, time
  sys.path.insert(0, {folder!r})
  from serve import serve
  def prepare(case):
    if case["part"] == "absent":
      raise ImportError("no such thing here")
    if case["part"] == "crash":
      sys.exit("it broke")
    print("libraries print what they like")
    return lambda: time.sleep(case["ms"] / 1e3)
  serve(prepare)
"""


@pytest.fixture
def contender(tmp_path):
  folder = bench.pathlib.Path(bench.__file__).parent / "benchmarks"
  script = tmp_path / "worker.py"
  script.write_text(textwrap.dedent(WORKER.format(folder=str(folder))))
  with Contender("worker", [sys.executable, str(script)], threads=1) as made:
    yield made


def test_a_contender_times_calls_in_its_own_process(contender):
  times = contender.time({"part": "sleep", "ms": 5}, calls=3)
  assert len(times) == 3
  assert all(5 <= ms < 500 for ms in times)


def test_a_case_that_cannot_run_is_skipped_and_the_next_one_runs(contender):
  with pytest.raises(Skipped, match="no such thing here"):
    contender.time({"part": "absent"}, calls=1)
  assert len(contender.time({"part": "sleep", "ms": 1}, calls=2)) == 2


def test_a_worker_that_dies_says_its_last_line(contender):
  with pytest.raises(RunError, match="worker: the worker ended: it broke"):
    contender.time({"part": "crash"}, calls=1)


def test_the_table_compares_with_ours():
  rows = [
    {"part": "network", "model": "mn10", "batch": 1, "median_ms": {"ours": 10.0, "torch": 35.0}},
    {"part": "mel", "model": "", "batch": 8, "median_ms": {"ours": 40.0}},
  ]
  lines = bench.table(rows, ["torch", "ours"]).splitlines()
  assert lines[2] == "| mn10 network, 1 clip(s) | 35.0 (3.50 x) | 10.0 |"
  assert lines[3] == "| mel, 8 clip(s) | - | 40.0 |"


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"parts": ("wave",)}, "--parts wave: choose from network, mel, tag, train, step, embed"),
    ({"models": ("mn04",), "parts": ("embed",)}, "--parts embed: of none of mn04"),
    ({"models": ("dasheng_bse",)}, "no model is named 'dasheng_bse'; did you mean dasheng_base"),
    ({"chip": "h1000"}, "--chip h1000: choose from v4, v5e"),
    ({"originals": "nowhere"}, "--originals nowhere: no checkout with mn04; git clone"),
    ({"models": ("mn44",)}, "no model is named 'mn44'; did you mean mn40"),
    ({"rounds": 0}, "--rounds, --calls, --threads, --seconds and --batches must be positive"),
  ],
)
def test_wrong_settings_get_one_line(change, message):
  with pytest.raises((UsageError, ConfigError), match=message):
    bench.main(bench.dataclasses.replace(bench.Bench(), **change))


def test_clips_and_operations_per_second():
  """515 G operations for a clip of the 1.2B model's training: the arithmetic of the reference."""
  row = {"part": "step", "model": "dasheng_1_2b", "batch": 64, "seconds": 10.0}
  lines = bench.pace([{**row, "median_ms": {"ours, scanned": 64.0}}], "h100").splitlines()
  assert lines[2] == "| dasheng_1_2b step, 64 clip(s) | ours, scanned | 1000.00 | 514.976 | 52.1% |"
  assert bench.pace([{"part": "mel", "model": "", "batch": 1, "median_ms": {"ours": 1.0}}]) == ""
  # The encoder over all 250 tokens: a third of what its training would take.
  row = {"part": "embed", "model": "dasheng_base", "batch": 1, "seconds": 10.0}
  assert bench._flops(row) == pytest.approx(
    250 * (12 * (24 * 768**2 + 4 * 768 * 250) / 1), rel=0.02
  )


@pytest.mark.slow
def test_a_micro_model_in_both_parts(capsys):
  settings = {"models": ("dasheng_micro",), "batches": (2,), "rounds": 1, "calls": 1}
  assert bench.main(bench.Bench(**settings, seconds=1.0)) == 0
  said = capsys.readouterr().out
  assert "| dasheng_micro embed, 2 clip(s) |" in said
  assert "| dasheng_micro step, 2 clip(s) | ours, unrolled |" in said


def test_both_families_have_whole_steps():
  cases = bench._cases(
    bench.Bench(models=("mn04", "dasheng_micro"), parts=("step", "mel", "embed"), batches=(2,))
  )
  assert [(case["part"], case["model"]) for case in cases] == [
    ("step", "mn04"),
    ("step", "dasheng_micro"),
    ("mel", ""),
    ("embed", "dasheng_micro"),
  ]
  assert ["seconds" in case for case in cases] == [False, True, False, True]


def test_scene_models_are_told_in_what_they_differ():
  """A second, their own front ends, and one class for a clip."""
  models = ("mn04", "mn10", "cp_mobile_32", "cp_resnet_32")
  cases = bench._cases(bench.Bench(models=models, parts=("mel", "step"), batches=(2,)))
  fronts = {case["model"]: case for case in cases if case["part"] == "mel"}
  assert set(fronts) == {"", "cp_mobile_32", "cp_resnet_32"}
  assert fronts[""]["log_mel"] == (128, 1000)
  student = fronts["cp_mobile_32"]
  assert (student["samples"], student["log_mel"]) == (32_000, (256, 64))
  assert fronts["cp_resnet_32"]["log_mel"] == (256, 43)
  assert (student["classes"], student["objective"]) == (10, "classes")
  assert student["front_end"]["freqm"] == 48


@pytest.mark.slow
def test_it_runs_alone_on_the_front_end(capsys, tmp_path, monkeypatch):
  monkeypatch.setenv("MOBILE_JAX_NATIVE", "0")
  out = tmp_path / "out.json"
  cfg = bench.Bench(parts=("mel",), batches=(1,), rounds=1, calls=1, json=str(out))
  assert bench.main(cfg) == 0
  assert "| mel, 1 clip(s) |" in capsys.readouterr().out
  assert '"median_ms"' in out.read_text()


def test_a_round_takes_every_case_so_that_rows_compare(contender, monkeypatch):
  asked = []

  def recorded(case, calls):
    asked.append(case["ms"])
    return Contender.time(contender, case, calls)

  monkeypatch.setattr(contender, "time", recorded)
  cases = [{"part": "sleep", "ms": ms} for ms in (1, 2)] + [{"part": "absent", "ms": 0}]
  rows = bench._measure(cases, [contender], bench.Bench(rounds=2, calls=3))
  assert asked == [1, 2, 0, 1, 2]  # what is skipped once is not asked again
  assert rows[2]["median_ms"] == {}
  assert "no such thing here" in rows[2]["skipped"]["worker"]
  assert rows[0]["median_ms"]["worker"] >= rows[0]["least_ms"]["worker"] >= 1
