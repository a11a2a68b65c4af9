"""Whole runs of a tiny model: what they leave behind, how they go on, and on which devices."""

import shutil

import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
from safetensors.numpy import load_file

import dasheng_jax
from dasheng_jax.weights.load import read_encoder
from experiments import pretrain
from experiments.training.errors import RunError, UsageError
from experiments.training.mesh import MeshConfig
from experiments.training.paths import leaves_by_path
from pipelines import ArraySource, batches
from pipelines.index import CACHE_VARIABLE
from pipelines.parts import is_held_out
from tests.experiments.tiny_pretrain import (
  TINY,
  Watched,
  arrays,
  assert_same_arrays,
  read_json,
  replace,
  rows,
  shared_programs,
  terminate,
  with_loop,
)
from tests.faults import processes

PARTS = {(n, "train") for n in (1, 2, 3, 4)} | {(2, "validation"), (4, "validation")}


@pytest.fixture(scope="module", autouse=True)
def _programs():
  with shared_programs():
    yield


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
  """(folder, ids of every batch) of a run of 4 steps that nothing disturbed."""
  folder = tmp_path_factory.mktemp("unbroken") / "run"
  watched = Watched(batches)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(pretrain, "batches", watched)
    assert pretrain.main(replace(TINY, workdir=str(folder))) == 0
  return folder, watched.ids


@pytest.fixture
def no_pictures(monkeypatch):
  """Drawing compiles and takes seconds; one run of this file draws."""
  monkeypatch.setattr(pretrain, "draw_pictures", lambda *_: [])


def run(folder, monkeypatch, cfg=TINY, **meddling):
  watched = Watched(batches, **meddling)
  monkeypatch.setattr(pretrain, "batches", watched)
  return pretrain.main(replace(cfg, workdir=str(folder))), watched.ids


def cut_after(source, target, step):
  """A copy of a run as it would be had it died after `step`."""
  shutil.copytree(source, target)
  for folder in (target / "checkpoints").iterdir():
    if folder.name.isdigit() and int(folder.name) > step:
      shutil.rmtree(folder)
  return target


def test_a_run_leaves_everything_behind(unbroken):
  folder, _ = unbroken
  assert sorted(p.name for p in (folder / "checkpoints").iterdir() if p.name.isdigit()) == [
    "2",
    "4",
  ]
  assert rows(folder).keys() == PARTS
  (events,) = (folder / "tensorboard").iterdir()
  for name in (b"train/loss", b"train/grad_norm", b"validation/loss"):
    assert name in events.read_bytes()
  for name in ("loss.png", "reconstruction.png"):
    assert (folder / name).read_bytes().startswith(b"\x89PNG")
  assert read_json(folder / "config.json")["model"]["encoder"]["width"] == 32
  assert read_json(folder / "export" / "config.json")["embed_dim"] == 32
  summary = read_json(folder / "summary.json")
  assert summary["steps"] == 4
  assert summary["resumed_at"] == 0
  assert summary["skipped_batches"] == 0
  assert summary["validation_loss"] == rows(folder)[4, "validation"]["loss"]
  assert not list(folder.rglob("*.part"))
  assert not list(folder.rglob("*tmp*"))


# TINY for the command; what is saved and validated on the way changes no step.
AS_TINY = (
  *("--model.padding", "ignore", "--optim.warmup_steps", "2"),
  *("--loop.steps", "4", "--loop.batch_size", "8"),
  *("--loop.validate_every", "0", "--loop.save_every", "0"),
)


def test_two_processes_train_as_one(unbroken, tmp_path):
  """Each holds half of every batch; losses and gradient norms agree to 1e-5."""
  folder, ids = unbroken
  pair = processes.pair(tmp_path, processes.free_port(), *AS_TINY)
  ends = [process.end() for process in pair]
  assert [code for code, _ in ends] == [0, 0], ends
  assert {step: tuple(names) for step, names in processes.ids(tmp_path).items()} == ids
  want, got = rows(folder), rows(tmp_path)
  assert set(got) == PARTS - {(2, "validation")}
  for key, values in got.items():
    for name in ("loss", "grad_norm", "param_norm", "lr") if key[1] == "train" else ("loss",):
      assert values[name] == pytest.approx(want[key][name], rel=1e-5), (key, name)


def test_the_exported_encoder_is_the_moving_average_of_the_state(unbroken):
  folder, _ = unbroken
  saved = arrays(folder, 4)
  averaged = {p: x for p, x in saved.items() if p.startswith("ema/encoder/")}
  assert averaged
  differs = [p for p, x in averaged.items() if (x != saved[p.replace("ema", "params", 1)]).any()]
  assert differs  # else this test could not tell the average from the parameters
  cfg, variables = read_encoder(folder)
  got = pretrain.config_io.to_dict(cfg)["encoder"]
  assert got == pretrain.config_io.to_dict(TINY)["model"]["encoder"]
  for path, leaf in leaves_by_path(variables).items():
    where = path.replace("params/", "ema/encoder/", 1).replace(
      "batch_stats/", "model_state/encoder/", 1
    )
    assert np.asarray(leaf).tobytes() == saved[where].tobytes(), path
  embed, params = dasheng_jax.load_encoder(folder / "export" / "encoder.safetensors")
  assert embed(params, jnp.zeros((1, 6400))).shape == (1, 10, 32)


@pytest.mark.torch
def test_torch_reads_the_exported_encoder(unbroken):
  import torch

  folder, _ = unbroken
  file = torch.load(folder / "export" / "encoder.pt", map_location="cpu", weights_only=True)
  assert file["config"]["embed_dim"] == 32
  saved = arrays(folder, 4)
  ours = saved["ema/encoder/norm/scale"]
  assert file["model"]["norm.weight"].numpy().tobytes() == ours.tobytes()


def test_sigterm_saves_first_and_the_same_command_goes_on(
  unbroken, tmp_path, monkeypatch, capsys, no_pictures
):
  folder, ids = unbroken
  # The signal comes while the third batch is waited for, where no checkpoint is due.
  code, first = run(tmp_path, monkeypatch, before={2: terminate})
  assert code == 143
  assert capsys.readouterr().err.splitlines()[-1] == (
    "pretrain: stopped by SIGTERM after step 3; the same command goes on from there"
  )
  assert (tmp_path / "checkpoints" / "3").is_dir()
  code, second = run(tmp_path, monkeypatch)
  assert code == 0
  assert "resuming after step 3 of 4" in capsys.readouterr().err
  assert list(first) == [0, 1, 2]
  assert list(second) == [3]
  assert first | second == ids
  assert_same_arrays(arrays(tmp_path, 4), arrays(folder, 4))
  assert rows(tmp_path) == rows(folder)
  assert read_json(tmp_path / "summary.json")["resumed_at"] == 3


def test_a_crash_between_checkpoints_repeats_the_lost_steps(
  unbroken, tmp_path, monkeypatch, no_pictures
):
  folder, ids = unbroken

  def crash():
    raise MemoryError

  with pytest.raises(MemoryError):
    run(tmp_path, monkeypatch, before={3: crash})
  code, again = run(tmp_path, monkeypatch)
  assert code == 0
  assert again == {step: ids[step] for step in (2, 3)}
  assert_same_arrays(arrays(tmp_path, 4), arrays(folder, 4))
  assert rows(tmp_path) == rows(folder)


@pytest.mark.slow
def test_eight_devices_continue_what_one_began(unbroken, tmp_path, monkeypatch, no_pictures):
  folder, ids = unbroken
  cut_after(folder, tmp_path / "run", 2)
  cfg = replace(TINY, mesh=MeshConfig(data=2, fsdp=2, tensor=2))
  code, again = run(tmp_path / "run", monkeypatch, cfg)
  assert code == 0
  assert again == {step: ids[step] for step in (2, 3)}
  one, eight = rows(folder), rows(tmp_path / "run")
  assert one.keys() == eight.keys()
  for key in one:
    assert eight[key]["loss"] == pytest.approx(one[key]["loss"], abs=1e-5), key
  want, got = arrays(folder, 4), arrays(tmp_path / "run", 4)
  assert want.keys() == got.keys()
  for path in want:
    np.testing.assert_allclose(got[path], want[path], atol=1e-5, rtol=1e-5, err_msg=path)


def test_a_finished_run_only_repeats_its_end(unbroken, tmp_path, monkeypatch, no_pictures):
  folder, _ = unbroken
  copy = shutil.copytree(folder, tmp_path / "run")
  (copy / "export" / "encoder.safetensors").unlink()
  code, ids = run(copy, monkeypatch)
  assert code == 0
  assert ids == {}
  assert rows(copy) == rows(folder)
  want, got = (load_file(x / "export" / "encoder.safetensors") for x in (folder, copy))
  assert_same_arrays(got, want)
  first, second = read_json(folder / "summary.json"), read_json(copy / "summary.json")
  assert second["validation_loss"] == pytest.approx(first["validation_loss"], rel=1e-6)
  for name in ("seconds", "clips_per_second", "resumed_at"):  # the run's pace, not the repetition's
    assert second[name] == first[name]


def test_a_folder_with_another_run_is_refused_and_left_alone(unbroken, tmp_path, monkeypatch):
  folder, _ = unbroken
  copy = shutil.copytree(folder, tmp_path / "run")
  before = {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()}
  other = replace(TINY, optim=replace(TINY.optim, peak_lr=1e-3))
  with pytest.raises(UsageError, match=r"optim.peak_lr 0.0003 -> 0.001") as caught:
    run(copy, monkeypatch, other)
  assert "\n" not in str(caught.value)
  assert {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()} == before


def test_fields_that_move_no_bit_may_change(unbroken, tmp_path, monkeypatch, no_pictures):
  folder, _ = unbroken
  cut_after(folder, tmp_path / "run", 2)
  cfg = with_loop(TINY, save_every=1, log_every=2, keep=3, max_skipped=5)
  cfg = replace(cfg, about="", data=replace(cfg.data, workers=1, prefetch=1, max_bad_share=0.5))
  assert run(tmp_path / "run", monkeypatch, cfg)[0] == 0
  assert_same_arrays(arrays(tmp_path / "run", 4), arrays(folder, 4))


@pytest.mark.slow
def test_waves_in_memory_are_trained_on(tmp_path, no_pictures):
  waves = 0.1 * np.random.default_rng(0).standard_normal((12, 8000)).astype(np.float32)
  names = [f"clip-{i}" for i in range(12)]
  cfg = replace(TINY, workdir=str(tmp_path), data=replace(TINY.data, source=("arrays",)))
  assert pretrain.main(cfg, [ArraySource(waves, 16_000, names)]) == 0
  assert rows(tmp_path).keys() == PARTS
  fewer = [ArraySource(waves[:11], 16_000, names[:11])]
  with pytest.raises(UsageError, match="holds another run"):
    pretrain.main(cfg, fewer)


@pytest.mark.slow
def test_bad_audio_is_named_once_in_training_and_validation(
  tmp_path, monkeypatch, capsys, caplog, no_pictures
):
  monkeypatch.setenv(CACHE_VARIABLE, "off")
  audio = tmp_path / "audio"
  audio.mkdir()
  noise = 0.1 * np.random.default_rng(0).standard_normal((16, 8000)).astype(np.float32)
  for number in range(16):
    name = f"{number}.wav"
    broken = name in ("2.wav", "11.wav")  # found when it is decoded, not by its header
    soundfile.write(audio / name, np.where(broken, np.nan, noise[number]), 16_000, subtype="FLOAT")
  (audio / "empty.wav").touch()
  held = [is_held_out(f"{number}.wav", 0.3) for number in range(16)]
  assert (held[2], held[11], sum(held)) == (False, True, 5)
  data = replace(TINY.data, source=(str(audio),), holdout=0.3, max_bad_share=0.5)
  cfg = replace(with_loop(TINY, steps=4), data=data)
  for _ in range(2):
    assert run(tmp_path / "run", monkeypatch, cfg)[0] == 0
    text = capsys.readouterr().err
    assert text.count("unusable recording empty.wav: empty file; left out") == 1
    assert not [r for r in caplog.records if r.name == "pipelines"]
    listed = [row["recording"] for row in read_json(tmp_path / "run" / "unusable.json")]
    assert sorted(listed) == ["11.wav", "2.wav", "empty.wav"]
    assert read_json(tmp_path / "run" / "summary.json")["unusable_recordings"] == 3
    counts = [text.count(f"unusable recording {name}.wav: ") for name in (2, 11)]
    assert counts == ([0, 0] if "resuming" in text else [1, 1]), text


def poison(*steps):
  def change(step, batch):
    if step not in steps:
      return batch
    wave = batch["wave"].copy()
    wave[1, 100] = np.nan
    return {**batch, "wave": wave}

  return change


def test_a_batch_that_is_not_finite_changes_nothing(tmp_path, monkeypatch, capsys, no_pictures):
  cfg = with_loop(TINY, save_every=1)
  code, _ = run(tmp_path, monkeypatch, cfg, change=poison(2))
  assert code == 0
  before, after = arrays(tmp_path, 2), arrays(tmp_path, 3)
  counters = {"step": 3, "skipped": 1, "skipped_in_row": 1}
  for path in before:
    if path in counters:
      assert after[path] == counters[path]
    else:
      assert after[path].tobytes() == before[path].tobytes(), path
  end = arrays(tmp_path, 4)
  assert (end["skipped"], end["skipped_in_row"]) == (1, 0)
  assert any((end[p] != after[p]).any() for p in end if p.startswith("params/"))
  text = capsys.readouterr().err
  assert text.count("not finite") == 1
  assert "step 3: loss or gradient not finite; the batch changed nothing (1 so far)" in text
  assert rows(tmp_path)[3, "train"]["loss"] == "nan"
  assert read_json(tmp_path / "summary.json")["skipped_batches"] == 1


def test_too_many_batches_that_are_not_finite_end_the_run(tmp_path, monkeypatch, no_pictures):
  cfg = with_loop(TINY, save_every=1, max_skipped_in_row=2)
  with pytest.raises(RunError, match=r"step 3: .* in 2 batches in a row; .*max_skipped_in_row"):
    run(tmp_path, monkeypatch, cfg, change=poison(1, 2, 3))
  cfg = with_loop(TINY, save_every=1, max_skipped=2)
  with pytest.raises(RunError, match=r"step 3: .* in 2 batches of this run; .*max_skipped\)"):
    run(tmp_path / "again", monkeypatch, cfg, change=poison(0, 2))
