"""What a mistake at the shell gets: one line that names it and the way out, and exit code 2."""

import csv
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from experiments import pretrain
from experiments.configs.pretrain import EXPERIMENTS
from experiments.training import cli, entry

ROOT = pathlib.Path(__file__).resolve().parents[2]


def mistake(capsys, *argv, code=2):
  """The one line on standard error that a command in this process ends with."""
  with pytest.raises(SystemExit) as exit_:
    cli.run_main(pretrain.main, EXPERIMENTS, prog="pretrain", argv=argv)
  out, err = capsys.readouterr()
  assert exit_.value.code == code, err
  assert out == ""
  (line,) = err.splitlines()
  assert line.startswith("pretrain: error: ")
  return line.removeprefix("pretrain: error: ")


def command(*argv):
  """(exit code, standard output, standard error) of the real command."""
  done = subprocess.run(
    [sys.executable, "-m", "experiments.pretrain", *argv],
    cwd=ROOT,
    env={**os.environ, "JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
    check=False,
  )
  return done.returncode, done.stdout, done.stderr


@pytest.fixture
def debug(tmp_path):
  """The flags of a run that would be sound."""
  return ("--config", "debug", "--workdir", str(tmp_path / "run"))


def test_an_unknown_flag_from_the_shell(tmp_path):
  code, out, err = command("--config", "debug", "--loop.step", "3", "--workdir", str(tmp_path))
  assert (code, out) == (2, "")
  assert err == "pretrain: error: --loop.step: unknown; did you mean --loop.steps?\n"


@pytest.mark.slow
def test_a_missing_folder_from_the_shell(tmp_path):
  away, run = tmp_path / "away", tmp_path / "run"
  code, out, err = command("--config", "debug", "--data.source", str(away), "--workdir", str(run))
  assert (code, out) == (2, "")
  assert err.startswith("pretrain: error: ")
  assert err.count("\n") == 1
  assert str(away) in err


def test_an_unknown_configuration(capsys):
  assert "did you mean dasheng_1_2b" in mistake(capsys, "--config", "dasheng_12b")
  assert "dasheng_base" in mistake(capsys)


def test_no_workdir(capsys):
  assert mistake(capsys, "--config", "debug").startswith("--workdir: ")


def test_a_workdir_that_is_a_file(capsys, tmp_path):
  file = tmp_path / "notes.txt"
  file.write_text("mine")
  assert str(file) in mistake(capsys, "--config", "debug", "--workdir", str(file))
  assert file.read_text() == "mine"


def test_a_folder_without_audio(capsys, debug, tmp_path):
  empty = tmp_path / "empty"
  empty.mkdir()
  (empty / "notes.txt").write_text("no audio here")
  assert str(empty) in mistake(capsys, *debug, "--data.source", str(empty))


def test_a_manifest_with_a_wrong_sample_rate(capsys, debug, tmp_path):
  soundfile.write(tmp_path / "a.wav", np.zeros(32_000, np.float32), 16_000)
  manifest = tmp_path / "set.csv"
  with manifest.open("w", newline="") as file:
    rows = csv.writer(file)
    rows.writerow(["path", "frames", "sample_rate"])
    rows.writerow(["a.wav", 32_000, 44_100])
  line = mistake(capsys, *debug, "--data.source", str(manifest), "--data.holdout", "0")
  assert "a.wav" in line
  assert "44100" in line
  assert "16000" in line


def test_a_manifest_whose_sample_rate_is_no_number(capsys, debug, tmp_path):
  soundfile.write(tmp_path / "a.wav", np.zeros(32_000, np.float32), 16_000)
  manifest = tmp_path / "set.csv"
  manifest.write_text("path,frames,sample_rate\na.wav,32000,16k\n")
  line = mistake(capsys, *debug, "--data.source", str(manifest), "--data.holdout", "0")
  assert "sample_rate" in line
  assert "16k" in line


@pytest.mark.parametrize(
  ("flags", "words"),
  [
    (("--data.crop_seconds", "0.05"), ("mask", "patch")),
    (("--data.crop_seconds", "0.01"), ("--data.crop_seconds 0.01", "160 samples", "480")),
    (("--data.crop_seconds", "11"), ("time table", "10.08 s", "model.encoder.positions")),
    (("--loop.batch_size", "12"), ("--loop.batch_size 12", "8 devices", "try 8 or 16")),
    (("--loop.batch_size", "8", "--optim.accumulate", "2"), ("2 microbatches", "try 16")),
    (("--mesh.data", "3"), ("--mesh.data 3", "8 device", "-1")),
    (("--data.sample_rate", "32000"), ("--data.sample_rate 32000", "16000 Hz")),
    (("--optim.warmup_steps", "99"), ("warmup_steps", "10 steps")),
    (("--optim.schedule", "cosin"), ("optim.schedule", "cosine")),
    (("--data.holdout", "1.5"), ("data.holdout", "0.05")),
    (("--data.holdout", "0.000001"), ("data.holdout", "another share")),
    (("--loop.steps", "many"), ("--loop.steps many", "INT")),
    (("--knn.tasks", "spoken_digit=x"), ("spoken_digits",)),
    (("--knn.tasks", "esc10=/not/there"), ("/not/there",)),
    (("--model.encoder.heads", "5"), ("heads",)),
    (("--loop.batch_size", "0"), ("--loop.batch_size 0", "at least 1")),
    (("--data.source", "unset"), ("--data.source: name a folder",)),
    (("--loop.seed", "-1"), ("--loop.seed -1", "at least 0")),
    (("--optim.peak_lr", "inf"), ("optim.peak_lr=inf", "finite")),
    (("--model.mel.hop_length", "0"), ("mel.hop_length is 0",)),
    (("--model.compute.dtype", "bfloat16", "--model.compute.attention", "cudnn"), ("use xla",)),
    (("--loop.steps", "0"), ("--loop.steps 0",)),
  ],
  ids=lambda value: " ".join(value) if value[0].startswith("--") else "",
)
def test_values_that_do_not_fit(capsys, debug, unchecked, flags, words):
  line = mistake(capsys, *debug, *flags)
  assert [word for word in words if word not in line] == [], line


def test_help_ends_well(capsys):
  with pytest.raises(SystemExit) as exit_:
    cli.run_main(pretrain.main, EXPERIMENTS, prog="pretrain", argv=["--config", "debug", "--help"])
  assert exit_.value.code == 0
  out, err = capsys.readouterr()
  assert err == ""
  for name, cfg in EXPERIMENTS.items():
    assert name in out
    assert cfg.about


def test_every_unusable_recording_is_named(capsys):
  entry.say_unusable([(f"{n}.wav", "is empty") for n in range(25)])
  lines = capsys.readouterr().err.splitlines()
  assert lines[3] == "unusable recording 3.wav: is empty; left out"
  assert len(lines) == entry.NAMED_AT_START + 1
  assert lines[-1] == "and 5 more, all listed in unusable.json"
