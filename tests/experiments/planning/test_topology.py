import importlib.util
import sys

import pytest

from experiments.planning.chips import CHIPS, chip
from experiments.planning.topology import Topology, parse_topology, squarest, tpu_devices
from experiments.training.errors import UsageError

NEEDS_LIBTPU = pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None, reason="needs the TPU compiler: the extra [plan]"
)


@pytest.mark.parametrize(
  ("text", "name", "shape", "slices", "count"),
  [
    ("v5e:16x16", "v5e", (16, 16), 1, 256),
    (" V5P:4x4x8 ", "v5p", (4, 4, 8), 1, 128),
    ("v5p:4x4x8*2", "v5p", (4, 4, 8), 2, 256),
    ("h100:8", "h100", (8,), 1, 8),
    ("a100:8*4", "a100", (8,), 4, 32),
  ],
)
def test_topologies(text, name, shape, slices, count):
  found = parse_topology(text)
  assert (found.chip.name, found.shape, found.slices, found.count) == (name, shape, slices, count)
  assert parse_topology(str(found)) == found


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("", "name the devices, e.g. v5e:16x16"),
    ("v5e", "expected CHIP:SHAPE"),
    ("v5e:16", "a slice of v5e has 2 axes, e.g. v5e:4x4"),
    ("v5p:4x4", "has 3 axes, e.g. v5p:4x4x4"),
    ("h100:2x4", "give the GPUs of a node, e.g. h100:8"),
    ("v5:4x4", "no such chip; did you mean"),
    ("tpu9:4x4", "no such chip; choose from v4, v5e"),
    ("v5e:4x4*0", "at least one device"),
    # The names of the cloud count cores for some chips and chips for others.
    ("v5p-128", "64 chips are e.g. v5p:4x4x4, and 128 counts cores"),
    ("v5litepod-16", "16 chips are e.g. v5e:4x4"),
  ],
)
def test_what_is_no_topology_is_answered_with_one(text, message):
  with pytest.raises(UsageError, match=message):
    parse_topology(text)


def test_squarest_boxes():
  assert squarest(256, 2) == (16, 16)
  assert squarest(128, 3) == (4, 4, 8)
  assert squarest(8, 1) == (8,)


def test_chips_are_in_order():
  """Later generations of a maker have more of everything that matters here."""
  for older, newer in (("v5e", "v6e"), ("v4", "v5p"), ("a100", "h100")):
    a, b = chip(older), chip(newer)
    assert b.peak_flops > a.peak_flops
    assert b.hbm_bandwidth > a.hbm_bandwidth
    assert b.link_bandwidth > a.link_bandwidth
  assert all(c.source and c.usable_bytes <= c.hbm_bytes for c in CHIPS.values())
  # All links of v5e are four of 50 GB/s; one ring goes both ways round on one axis.
  assert chip("v5e").ring_bandwidth == 100e9


def test_without_the_compiler_it_says_what_to_install(monkeypatch):
  monkeypatch.setitem(sys.modules, "libtpu", None)
  with pytest.raises(UsageError, match=r'v5e:4x4: .*pip install "dasheng-jax\[plan\]"'):
    tpu_devices(parse_topology("v5e:4x4"))


@NEEDS_LIBTPU
def test_devices_come_without_a_tpu():
  devices = tpu_devices(parse_topology("v5p:2x2x2*2"))
  assert len(devices) == 16
  assert {d.slice_index for d in devices} == {0, 1}
  assert {d.platform for d in devices} == {"tpu"}
  # Two cores are one device on v4, too.
  assert len(tpu_devices(parse_topology("v4:2x2x2"))) == 8


@NEEDS_LIBTPU
def test_a_slice_that_does_not_exist_is_refused():
  with pytest.raises(UsageError, match="v5e:3x5: the TPU compiler knows no such slice"):
    tpu_devices(Topology(chip("v5e"), (3, 5)))
