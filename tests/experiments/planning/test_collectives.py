import pytest

from experiments.planning import hlo
from experiments.planning.collectives import group_of, sent, traffic
from tests.experiments.planning.programs import LOOPS, TPU

SHARD = 4 * 8 * 4


def test_exchanges_count_as_often_as_they_run():
  rows = {x.kind: x for x in traffic(hlo.parse(LOOPS), 8, 8)}
  gather, shift = rows["all-gather"], rows["collective-permute"]
  assert (gather.group, gather.count, gather.inner, gather.outer) == (4, 5, 5 * 3 * SHARD, 0)
  assert (shift.group, shift.count, shift.inner, shift.outer) == (4, 15, 15 * SHARD, 0)


def test_what_crosses_slices_is_kept_apart():
  rows = {x.kind: x for x in traffic(hlo.parse(LOOPS), 8, 2)}
  gather, shift = rows["all-gather"], rows["collective-permute"]
  # Four devices in two slices: a shard comes from the other slice, its two go round inside.
  assert (gather.slices, gather.inner, gather.outer) == (2, 5 * 2 * SHARD, 5 * SHARD)
  assert (shift.inner, shift.outer) == (15 * SHARD / 2, 15 * SHARD / 2)


def test_tpu_programs_are_read_for_what_they_do():
  rows = {x.kind: x for x in traffic(hlo.parse(TPU), 4, 4)}
  assert rows.keys() == {"reduce-scatter", "all-gather"}
  assert rows["reduce-scatter"].inner == 64 * 32 * 2 * 3 / 4
  # Three fusions carry the one all-gather.
  assert (rows["all-gather"].count, rows["all-gather"].inner) == (1, 3 * 16 * 32 * 2)


def test_sums_cut_up_afterwards_can_be_taken_for_reduce_scatters():
  text = TPU.replace("all-reduce-scatter.1", "region.1")
  assert {x.kind for x in traffic(hlo.parse(text), 4, 4)} == {"all-reduce", "all-gather"}
  cut = traffic(hlo.parse(text), 4, 4, scatter_from_slices=True)
  assert {x.kind for x in cut} == {"reduce-scatter", "all-gather"}


@pytest.mark.parametrize(
  ("text", "members"),
  [
    ("replica_groups={{0,2},{1,3}}, dimensions={0}", (0, 2)),
    ("replica_groups={}, x", (0, 1, 2, 3)),
    ("replica_groups=[2,2]<=[4], x", (0, 1)),
    ("replica_groups=[2,2]<=[2,2]T(1,0), x", (0, 2)),
    ("replica_groups=mesh['axis_0'=2,'axis_1'=2] {'axis_1'}, x", (0, 1)),
    ("replica_groups=mesh['axis_0'=2,'axis_1'=2] {'axis_0'}, x", (0, 2)),
    ("replica_groups=mesh['a'=2,'b'=2] {'a','b'}, x", (0, 1, 2, 3)),
    ("replica_groups=mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'a'}, x", (0, 1)),
    ("replica_groups=mesh['a'=1,'b'=2,'c'=2], device_ids=(3,1,2,0) {'b'}, x", (3, 2)),
    ("replica_groups=mesh['a'=4] {'a':(1)2}, x", (0, 2)),
    ("replica_groups=mesh['a'=4] {'a':(2)2}, x", (0, 1)),
  ],
)
def test_groups_in_every_notation(text, members):
  assert group_of(", channel_id=1, " + text, 4) == members


@pytest.mark.parametrize(
  ("kind", "group", "slices", "inner", "outer"),
  [
    ("all-gather", 4, 1, 3, 0),
    ("all-gather", 8, 2, 6, 1),
    ("reduce-scatter", 4, 1, 0.75, 0),
    ("all-reduce", 4, 1, 1.5, 0),
    ("all-reduce", 8, 2, 1.5, 0.25),
    ("all-reduce", 2, 2, 0, 1),
    ("all-to-all", 4, 2, 0.25, 0.5),
  ],
)
def test_bytes_of_ring_schedules(kind, group, slices, inner, outer):
  assert sent(kind, 1.0, group, slices) == (inner, outer)
