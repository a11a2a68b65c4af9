"""The command, on simulated devices for GPUs, and with the TPU compiler where there is one."""

import dataclasses
import importlib.util
import json

import pytest

from dasheng_jax.config import DecoderConfig, EncoderConfig
from experiments import plan
from experiments.configs.plan import PLANS
from experiments.planning import hlo
from experiments.planning.assess import assess
from experiments.planning.compile import Program, Step, compile_step, devices_for, too_large
from experiments.planning.layouts import Layout, default_mesh
from experiments.planning.topology import parse_topology
from experiments.training import cli
from experiments.training.errors import UsageError
from experiments.training.optim import OptimConfig
from tests.experiments.tiny_pretrain import MODEL

NODE = parse_topology("h100:8")
TINY = dataclasses.replace(
  MODEL,
  encoder=EncoderConfig(64, 3, 4, positions=16),
  decoder=DecoderConfig(32, 2, 4),
).with_compute(dtype="bfloat16", remat="block")
STEP = Step(TINY, OptimConfig(warmup_steps=2), 10, 0, 16, 6_400)
LAYOUT = Layout(default_mesh(NODE), 16, "block", 1)


@pytest.fixture(scope="module")
def program():
  return compile_step(STEP, NODE, LAYOUT.mesh, devices_for(NODE))


@pytest.fixture(scope="module")
def found(program):
  return assess(STEP, LAYOUT, NODE, program, with_twin=False)


def test_every_figure_of_a_real_step_passes_its_check(found):
  assert found.flops.value == pytest.approx(found.expected.flops, rel=0.01)
  assert found.exchanges
  sent = sum(x.inner for x in found.exchanges)
  assert 0.9 * found.expected.sent < sent < 2 * found.expected.sent
  assert {x.kind for x in found.exchanges} >= {"all-gather", "reduce-scatter", "all-reduce"}
  assert sum(x.outer for x in found.exchanges) == 0
  assert found.time is not None
  assert 0 < found.time.together <= found.time.apart
  assert found.fits


def test_no_device_transforms_the_waves_of_another(program):
  """XLA cannot split a Fourier transform: left alone it would gather the frames of all clips."""
  module = hlo.parse(program.text)
  rows = {i.result[0].dims[0] for _, i, _ in module.executed() if i.opcode == "fft"}
  assert rows == {16 // 8}


@pytest.mark.slow
def test_slices_send_to_each_other_only_the_sum_of_the_gradients():
  nodes = parse_topology("h100:4*2")
  layout = dataclasses.replace(LAYOUT, mesh=default_mesh(nodes))
  two = assess(
    STEP, layout, nodes, compile_step(STEP, nodes, layout.mesh, devices_for(nodes)), False
  )
  outer = sum(x.outer for x in two.exchanges)
  inner = sum(x.inner for x in two.exchanges)
  params = two.expected.params
  # Half of twice a quarter of the gradients, and of vectors, which are whole, a little more.
  assert 0.25 * params * 2 <= outer < 0.25 * params * 4 + 0.2 * inner
  assert {x.kind for x in two.exchanges if x.outer} == {"all-reduce"}


@pytest.mark.parametrize(
  ("change", "figure", "reason"),
  [
    ({"temporaries": 0.0}, "temporaries", "less than"),
    ({"arguments": 10.0}, "arguments", "where the tables say"),
    ({"seconds": -61.0}, "seconds", "the compiler says -61 s"),
    ({"seconds": 1e-12}, "seconds", "the products alone take"),
    ({"seconds": 1e6}, "seconds", "ten times all bounds"),
    ({"bytes": 1e15}, "bytes", "loops counted once"),
    ({"peak": 0.7e9}, "peak", "the compiler says 0.70 GB, not between 1.00 and 1.00"),
  ],
)
def test_figures_that_contradict_the_arithmetic_are_not_shown(
  program, found, change, figure, reason
):
  expected = found.expected
  sound = dataclasses.replace(
    program,
    scattered=False,
    arguments=float(expected.state.total + expected.peak.batch),
    temporaries=1e9,
    seconds=1e-3,
  )
  whole = assess(STEP, LAYOUT, NODE, dataclasses.replace(sound, **change), with_twin=False)
  bad = getattr(whole, figure)
  # What a step needs does not shrink with a figure that was dropped.
  assert whole.fullest >= (1e9 if change.keys() & {"peak"} else expected.peak.total)
  assert bad.value is None
  assert reason in bad.reason


def test_a_loop_that_cannot_be_read_takes_its_figures_with_it(program):
  lost = program.text.replace("direction=LT", "direction=EQ")
  bad = assess(STEP, LAYOUT, NODE, dataclasses.replace(program, text=lost), with_twin=False)
  assert bad.flops.value is None
  assert "turns of loop" in bad.flops.reason
  assert bad.exchanges is None
  assert bad.time is None


@pytest.mark.parametrize(
  ("message", "field", "size"),
  [
    (
      "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. "
      "Used 20.50G of 15.75G hbm. Exceeded hbm capacity by 4.75G.",
      "needed",
      20.5 * 2**30,
    ),
    (
      "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries "
      "(25.32G) exceeds available HBM (15.75G).",
      "temporaries",
      25.32 * 2**30,
    ),
    ("RESOURCE_EXHAUSTED: Ran out of memory, and that is all", "needed", None),
  ],
)
def test_refusals_of_the_tpu_compiler_are_read(message, field, size):
  refused = too_large(message, 1.0)
  assert getattr(refused, field) == size
  found = assess(STEP, LAYOUT, NODE, refused, with_twin=False)
  assert found.fullest >= (size or NODE.chip.usable_bytes)


def test_a_refused_program_reports_what_it_asked_for():
  refused = Program("", needed=200e9, reason="Used 186G of 74G")
  bad = assess(STEP, LAYOUT, NODE, refused, with_twin=False)
  assert not bad.fits
  assert bad.fullest == 200e9
  assert bad.flops.value is None


@pytest.fixture
def compiled_before(monkeypatch, program):
  """The command without the seconds of compiling: the program of another layout stands for all."""
  monkeypatch.setattr(plan, "compile_step", lambda *_: program)


def run(argv, tmp_path):
  cfg = cli.parse(["--config", "debug", *argv], PLANS, prog="plan")
  cfg = dataclasses.replace(cfg, model=TINY, json=str(tmp_path / "plan.json"), twin=False)
  cfg = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, crop_seconds=0.4))
  code = plan.main(cfg)
  return code, json.loads((tmp_path / "plan.json").read_text(encoding="utf-8"))


def test_the_command_prints_and_saves(tmp_path, capsys, compiled_before):
  code, data = run(["--topology", "h100:8", "--global_batch", "16"], tmp_path)
  assert code == 0
  assert data["fits"]
  assert data["layout"]["batch"] == 16
  assert data["time"]["compute"] > 0
  assert data["arguments"] is None
  assert "no compiler" in data["arguments_reason"]
  page = capsys.readouterr().out
  assert "fits: " in page
  assert "--mesh.data 1 --mesh.fsdp 8 --mesh.tensor 1 --loop.batch_size 16" in page
  assert "all-gather" in page


def test_where_it_does_not_fit_the_nearest_layout_is_named(
  tmp_path, capsys, monkeypatch, compiled_before
):
  """A device with room for the state in eight parts alone, and not for it in one."""
  small = dataclasses.replace(NODE.chip, usable_bytes=1.2e6)
  monkeypatch.setattr(plan, "parse_topology", lambda text: dataclasses.replace(NODE, chip=small))
  argv = ["--topology", "h100:8", "--mesh", "data=8", "--global_batch", "8"]
  code, data = run(argv, tmp_path)
  assert code == 0
  assert not data["fits"]
  assert data["nearest"]["fits"]
  assert data["nearest"]["layout"]["mesh"]["fsdp"] > 1
  assert data["nearest"]["layout"]["batch"] == 8
  assert "nearest layout that fits" in capsys.readouterr().out

  tiny = dataclasses.replace(small, usable_bytes=1e3)
  monkeypatch.setattr(plan, "parse_topology", lambda text: dataclasses.replace(NODE, chip=tiny))
  code, data = run(argv, tmp_path)
  assert code == plan.DOES_NOT_FIT
  assert "nearest" not in data


@pytest.mark.parametrize(
  ("argv", "message"),
  [
    (
      ["--topology", "h100:8", "--global_batch", "12"],
      "--global_batch 12 .* 8 data shards; try 8 or 16",
    ),
    (["--topology", "h100:64"], "needs 64 simulated devices, this process has 8"),
    (["--topology", "h100:8", "--mesh", "data=3"], "--mesh data=3 on h100:8"),
    ([], "--topology: name the devices"),
  ],
)
def test_mistakes_are_answered_in_a_line(argv, message, tmp_path):
  with pytest.raises(UsageError, match=message):
    run(argv, tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None, reason="needs the TPU compiler: the extra [plan]"
)
def test_the_tpu_compiler_agrees_with_the_formulas():
  slice_ = parse_topology("v5e:2x2")
  layout = Layout(default_mesh(slice_), 16, "block", 1)
  program = compile_step(STEP, slice_, layout.mesh, devices_for(slice_))
  found = assess(STEP, layout, slice_, program)
  assert found.flops.value == pytest.approx(found.expected.flops, rel=0.01)
  assert found.exchanges
  assert found.arguments.value
  assert found.fits
