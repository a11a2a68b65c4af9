"""Recordings that a run finds unusable: named once, listed, remembered."""

import dataclasses
import json
import os
import signal

import pytest

from experiments.training.loop import train
from experiments.training.run import Interrupted
from experiments.training.unusable import Unusable
from pipelines.ledger import Ledger
from tests.experiments.training.loop_runs import (
  clips,
  compiled_once,  # noqa: F401
  held_out,
  make_run,
  with_cfg,
)


def listed(workdir):
  rows = json.loads((workdir / "unusable.json").read_text())
  return [(row["recording"], row["reason"]) for row in rows]


def finding(workdir, found, **changes):
  """A run whose training meets `found[step]` (a name) at a step, and its validation `held.wav`."""
  ledger = Ledger(log=False)

  def make(step):
    if step in found:
      ledger.add(found[step], "empty")
    return clips(step)

  def validation(host, hosts):
    ledger.add("held.wav", "absent")
    return held_out(8, 8)(host, hosts)

  unusable = Unusable(workdir, ledger, [("index.wav", "no samples")])
  return make_run(workdir, make=make, validation=validation, unusable=unusable, **changes)


ALL = [("index.wav", "no samples"), ("a.wav", "empty"), ("held.wav", "absent"), ("b.wav", "empty")]


def named(capsys):
  lines = [x for x in capsys.readouterr().err.splitlines() if x.startswith("unusable")]
  assert all(x.endswith("; left out") for x in lines)
  return [x.split()[2].rstrip(":") for x in lines]


def test_unusable_recordings_are_named_once_and_listed(tmp_path, capsys):
  cfg = with_cfg(validate_every=3)
  found = {1: "a.wav", 4: "b.wav", 5: "a.wav"}
  outcome = train(finding(tmp_path, found, cfg=cfg))
  assert named(capsys) == ["a.wav", "held.wav", "b.wav"]
  assert list(outcome.bad_recordings) == listed(tmp_path) == ALL


def test_what_was_found_unusable_survives_a_resume(tmp_path, capsys):
  cfg = with_cfg(validate_every=3)

  def stop(step):
    if step == 3:
      os.kill(os.getpid(), signal.SIGTERM)
    return clips(step)

  run = finding(tmp_path, {1: "a.wav"}, cfg=cfg)
  batches = run.batches

  def stopping(*how):
    made = batches(*how)
    plain = made.make
    made.make = lambda step: (stop(step), plain(step))[1]
    return made

  with pytest.raises(Interrupted):
    train(dataclasses.replace(run, batches=stopping))
  assert named(capsys) == ["a.wav", "held.wav"]
  assert listed(tmp_path) == ALL[:3]
  # Met again after the resume: neither named nor counted a second time.
  outcome = train(finding(tmp_path, {4: "b.wav", 5: "a.wav"}, cfg=cfg))
  assert named(capsys) == ["b.wav"]
  assert list(outcome.bad_recordings) == listed(tmp_path) == ALL
  again = train(finding(tmp_path, {}, cfg=cfg))
  assert list(again.bad_recordings) == listed(tmp_path) == ALL
  assert named(capsys) == []


def test_a_run_that_fails_says_what_it_found_first(tmp_path, capsys):
  run = finding(tmp_path, {2: "a.wav"})
  batches = run.batches

  def failing(*how):
    made = batches(*how)
    plain = made.make
    made.make = lambda step: (plain(step), 1 // (step != 2))[0]
    return made

  with pytest.raises(ZeroDivisionError):
    train(dataclasses.replace(run, batches=failing))
  assert named(capsys) == ["a.wav"]
  assert listed(tmp_path) == ALL[:2]


@pytest.mark.parametrize("text", ["", "{", "[1]", "3", '[{"recording": "a"}]'])
def test_a_damaged_list_of_a_run_is_written_anew(tmp_path, text):
  (tmp_path / "unusable.json").write_text(text)
  unusable = Unusable(tmp_path, Ledger(), [("a", "b")])
  unusable.resume()
  unusable.write()
  assert listed(tmp_path) == [("a", "b")]
