"""Exported files: the front end out of dense products, the networks' forms, the command."""

import dataclasses
import importlib.util
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
from safetensors.numpy import load_file

import mobile_jax
from experiments import export as command
from experiments.exporting import front_end, litert, report
from experiments.exporting.networks import network_of, whole
from experiments.exporting.onnx_file import Onnx, onnx
from experiments.training import cli
from experiments.training.errors import RunError, UsageError
from mobile_jax.network import infer, shapes
from mobile_jax.scene_config import CP_MOBILE_MEL, CPMobileConfig, CPResNetConfig
from mobile_jax.weights.load import write_model
from pipelines.kaldi_mel import KALDI_MEL, KaldiMelConfig, log_mel_32k
from tests.mobile_jax.fixtures import quick

MEL = KaldiMelConfig(n_fft=512, win_length=400, hop_length=160, mel_bins=32, fmax_range=1000)
# Every kind of shortcut: none, the input, its pool.
TINY = CPMobileConfig(classes=3, base_channels=8, blocks_per_stage=(2, 1, 1), mel=MEL)
SECONDS = 0.125
SAMPLES = round(SECONDS * MEL.sample_rate)
# Float32 noise: of normalised log-mels, and of logits by the largest.
MEL_NOISE, NOISE = 2e-5, 2e-5


def random_variables(cfg, seed=0):
  """Variables with statistics and response norms that are not those of the start."""
  rng = np.random.default_rng(seed)

  def drawn(path, leaf):
    name = path[-1].key
    if name in ("var", "scale"):
      return jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape), leaf.dtype)
    if name == "count":
      return jnp.zeros(leaf.shape, leaf.dtype)
    inputs = max(1, int(np.prod(leaf.shape[:-1])))
    return jnp.asarray(rng.normal(0, inputs**-0.5, leaf.shape), leaf.dtype)

  return jax.tree_util.tree_map_with_path(drawn, shapes(cfg))


def waves(count, samples=SAMPLES, seed=0):
  return np.random.default_rng(seed).normal(0, 0.1, (count, samples)).astype(np.float32)


def assert_near(got, want):
  np.testing.assert_allclose(got, want, rtol=0, atol=NOISE * np.abs(want).max())


@pytest.fixture(scope="session")
def extra():
  """What the extra [export] brings; without it the test skips."""
  for module in ("ai_edge_quantizer", "onnxruntime", "tf2onnx"):
    if importlib.util.find_spec(module) is None:
      pytest.skip("needs the extra [export]: make test-export")


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
  """The tiny network's weights in a file that tells its configuration."""
  path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
  write_model(path, TINY, random_variables(TINY))
  return path


@pytest.fixture(scope="session")
def converted():
  """The tiny network as a LiteRT file."""
  return litert.litert(whole(TINY, random_variables(TINY)), SAMPLES)


@pytest.fixture(scope="session")
def clips():
  return waves(6)


@pytest.fixture(scope="session")
def logits(clips):
  """What JAX says of the clips."""
  cfg = TINY.with_compute(kernels="xla")
  tag = quick(lambda wave: mobile_jax.tag(cfg, random_variables(cfg), wave)[0])
  return np.asarray(tag(jnp.asarray(clips)))


def types_of(file, *operations):
  """Types of what some operations of a file give."""
  inside = file._interpreter
  kinds = {tensor["index"]: tensor["dtype"] for tensor in inside.get_tensor_details()}
  found = [o["outputs"] for o in inside._get_ops_details() if o["op_name"] in operations]
  return {kinds[index] for outputs in found for index in outputs}


@pytest.mark.parametrize(
  "cfg",
  [
    MEL,
    dataclasses.replace(MEL, win_length=390, hop_length=500),
    dataclasses.replace(KALDI_MEL, mel_bins=256),
    CP_MOBILE_MEL,
  ],
  ids=["small", "gaps", "empty filters", "cp_mobile"],
)
def test_the_front_end_is_that_of_training(cfg):
  wave = jnp.asarray(waves(2, 8000))
  got = quick(lambda x: front_end.log_mel(x, cfg))(wave)
  assert got.shape == (2, cfg.mel_bins, cfg.frames(8000))
  np.testing.assert_allclose(got, log_mel_32k(wave, cfg), rtol=0, atol=MEL_NOISE)


def test_lengths_of_the_transform():
  assert front_end.factors(4096) == (64, 64)
  assert front_end.factors(512) == (32, 16)
  with pytest.raises(UsageError, match="mel.n_fft is 640; a front end is exported for powers"):
    front_end.factors(640)


@pytest.mark.parametrize(
  "cfg",
  [TINY, CPResNetConfig(classes=3, base_channels=12, cut_third=12, mel=MEL)],
  ids=["cp_mobile", "cp_resnet"],
)
def test_forms_are_their_modules(cfg):
  variables = random_variables(cfg)
  mel = jax.random.normal(jax.random.key(1), (2, 32, 25))
  got = quick(network_of(cfg, variables))(mel)
  plain = cfg.with_compute(kernels="xla")
  assert_near(got, quick(lambda x: infer(plain, variables, x).logits)(mel))


def test_litert_says_what_jax_says(converted, clips, logits):
  file = litert.LiteRT(converted)
  assert file.samples == SAMPLES
  assert_near(np.stack([file(clip) for clip in clips]), logits)


def test_what_the_converter_refuses_is_said_in_one_line():
  with pytest.raises(UsageError, match="the LiteRT converter refuses .*strided_slice") as caught:
    litert.litert(lambda wave: jnp.fft.rfft(wave)[:, :3].real, 512)
  assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mn01", "cp_resnet_32"])
def test_other_families(name):
  """MN goes as `mobile_jax` traces it, CP-ResNet by a form with groups and pools."""
  cfg = mobile_jax.ALL_SIZES[name].with_compute(kernels="xla")
  variables, (clip,) = random_variables(cfg), waves(1, 32_000)
  file = litert.LiteRT(litert.litert(whole(cfg, variables), 32_000))
  tag = jax.jit(lambda wave: mobile_jax.tag(cfg, variables, wave)[0])
  assert_near(file(clip), np.asarray(tag(jnp.asarray(clip[None])))[0])


def test_onnx_says_what_jax_says(extra, converted, clips, logits):
  file = Onnx(onnx(converted))
  assert file.samples == SAMPLES
  assert_near(np.stack([file(clip) for clip in clips]), logits)


def test_int8_takes_every_convolution_and_no_front_end(extra, converted, clips, logits):
  made = litert.int8(converted, list(clips))
  assert len(made) < len(converted)
  file = litert.LiteRT(made)
  assert types_of(file, "CONV_2D", "DEPTHWISE_CONV_2D") == {np.int8}
  assert types_of(file, "FULLY_CONNECTED", "LOG") == {np.float32}  # of the front end
  got = np.stack([file(clip) for clip in clips])
  # Eight bits and a dozen of convolutions: a few hundredths of the range.
  assert np.abs(got - logits).max() < 0.1 * np.ptp(logits)


def test_ranges_are_those_of_all_clips():
  ranges = [{"a": {"min": np.float32(low), "max": np.float32(low + 2), "num_samples": np.array(1)}}
            for low in (0, -1, 3)]  # fmt: skip
  assert litert.joined(ranges) == {"a": {"min": -1, "max": 5, "num_samples": 3}}


def test_the_report_tells_differences_sizes_and_agreement():
  last = np.array([0, 0, 1])
  contenders = {"a": (lambda clip: clip + last, 2000), "b": (lambda clip: clip, 10)}
  clips = [np.array(clip, np.float32) for clip in ([3, 1, 2], [1, 0, 0.5])]
  jax_row, a, b = report.compared(lambda clip: clip, contenders, clips, 3)
  assert (a.kilobytes, a.difference, a.agree, a.equal) == (2, 1, 1, False)
  assert (b.difference, b.agree, b.equal, jax_row.kilobytes, b.largest) == (0, 2, True, None, 3)
  assert a.milliseconds >= a.least > 0
  assert "| a | 2 | 1 | 1 of 2 |" in report.table([jax_row, a, b])


def run(*argv):
  return command.main(cli.parse(argv, {"default": command.Export()}, prog="export"))


def arguments(weights, out, *more):
  flags = ("--config", "default", "--out", str(out), "--seconds", str(SECONDS), "--runs", "2")
  return (str(weights), *flags, *more)


def test_the_command_writes_and_compares(weights, converted, tmp_path, capfd, monkeypatch):
  monkeypatch.setattr(litert, "litert", lambda _, samples: converted * (samples == SAMPLES))
  out = tmp_path / "tiny.tflite"
  sound = tmp_path / "sound.wav"
  soundfile.write(sound, waves(1, 3 * SAMPLES + 5)[0], MEL.sample_rate)
  assert run(*arguments(weights, out, "--audio", str(sound), "--clips", "2")) == 0
  told = capfd.readouterr()
  assert f"{out.stat().st_size:,} bytes" in told.out
  assert f"| {out} | {out.stat().st_size / 1000:,.0f} | " in told.out
  assert "2 of 2" in told.out
  assert not told.err
  monkeypatch.setattr(report, "NOISE", 0.0)
  with pytest.raises(RunError, match="tiny.tflite: its logits depart from those of the JAX"):
    run(*arguments(weights, out, "--overwrite", "--beside", str(out)))


MISTAKES = [
  ((), "give one WEIGHTS"),
  (("a.pt", "b.pt"), "give one WEIGHTS"),
  (("a.pt",), "--out is missing"),
  (("a.pt", "--out", "x.onnx"), "--to litert writes a file that ends in .tflite"),
  (("a.pt", "--out", "nowhere/x.tflite"), "no such folder nowhere"),
  (("a.pt", "--out", "x.tflite", "--to", "litert_int8"), "needs --representative"),
  (("a.pt", "--out", "x.tflite", "--representative", "y"), "--representative is of"),
  (("a.pt", "--out", "x.tflite", "--runs", "0"), "--runs 0: must be more"),
  (("a.pt", "--out", "x.tflite", "--seconds", "-1"), "--seconds -1: must not"),
  (("a.pt", "--out", "x.tflite", "--to", "tflite"), "--to tflite: unknown; did you mean litert"),
]


@pytest.mark.parametrize(("argv", "words"), MISTAKES)
def test_mistakes_are_one_line(argv, words, tmp_path, monkeypatch, unchecked):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(UsageError, match=words) as caught:
    run(*argv, "--config", "default")
  assert "\n" not in str(caught.value)


def test_what_the_files_do_not_fit(weights, converted, tmp_path, unchecked):
  there = tmp_path / "there.tflite"
  there.write_bytes(converted)
  with pytest.raises(UsageError, match="there.tflite: is there already; pass --overwrite"):
    run(*arguments(weights, there))
  out = tmp_path / "x.tflite"
  with pytest.raises(UsageError, match="takes 4000 samples, not 16000; see --seconds"):
    run(*arguments(weights, out, "--seconds", "0.5", "--beside", str(there)))
  with pytest.raises(UsageError, match="--seconds 0.001: .* is the least"):
    run(*arguments(weights, out, "--seconds", "0.001"))
  for content in (b"", b"no model", converted[:5000]):
    there.write_bytes(content)
    with pytest.raises(UsageError, match="there.tflite: cannot be loaded; damaged or foreign"):
      run(*arguments(weights, out, "--beside", str(there)))
  with pytest.raises(UsageError, match="x.bin: is no exported file"):
    run(*arguments(weights, out, "--beside", "x.bin"))


def test_an_absent_extra_is_named(monkeypatch, tmp_path, unchecked):
  monkeypatch.setitem(sys.modules, "ai_edge_quantizer", None)
  out = str(tmp_path / "x.tflite")
  with pytest.raises(UsageError, match=r"--to litert_int8 needs .*the extra \[export\]: pip") as it:
    run("a.pt", "--config", "default", "--out", out, "--to", "litert_int8", "--representative", "y")
  assert "\n" not in str(it.value)


@pytest.fixture(scope="session")
def student(scene_fixtures):
  """(configuration, variables, crops by clip, recorded logits) of the published student."""
  cfg, variables = mobile_jax.read_model(
    scene_fixtures / "cpmobile_c0a7nzin.safetensors", name="cp_mobile_dcase23"
  )
  crops = {}
  for clip in ("metro_station-paris_32k", "music", "speech"):
    wave, _ = soundfile.read(scene_fixtures / f"{clip}.flac", dtype="float32")
    crops[clip] = wave[:320_000].reshape(10, 32_000)
  return cfg, variables, crops, load_file(scene_fixtures / "cpmobile_c0a7nzin_outputs.safetensors")


@pytest.fixture(scope="session")
def student_file(student):
  cfg, variables, _, _ = student
  return litert.litert(whole(cfg, variables), 32_000)


def check_student(file, student):
  """Recorded logits of all crops, and the scene."""
  _, _, crops, recorded = student
  for clip, waves_of in crops.items():
    got = np.stack([file(wave) for wave in waves_of])
    np.testing.assert_allclose(got, recorded[f"{clip}/logits"], rtol=0, atol=2e-4)
    if clip.startswith("metro"):
      assert {mobile_jax.SCENES[i] for i in got.argmax(axis=1)} == {"metro_station"}


@pytest.mark.slow
def test_the_published_student_as_litert(student, student_file):
  check_student(litert.LiteRT(student_file), student)


@pytest.mark.slow
def test_the_published_student_as_onnx(extra, student, student_file):
  check_student(Onnx(onnx(student_file)), student)


@pytest.mark.slow
def test_the_published_student_in_integers(extra, student, student_file):
  """The first class of all crops of the scene; ranges from all three clips."""
  _, _, crops, recorded = student
  file = litert.LiteRT(litert.int8(student_file, list(np.concatenate([*crops.values()]))))
  clip = "metro_station-paris_32k"
  got = np.stack([file(wave) for wave in crops[clip]])
  np.testing.assert_array_equal(got.argmax(axis=1), recorded[f"{clip}/logits"].argmax(axis=1))


def test_a_front_end_in_decibels_has_no_file():
  with pytest.raises(UsageError, match="MobileNetV2 of width 1 hears log-mels in dB"):
    whole(mobile_jax.named("mobilenet_v2"), {})
