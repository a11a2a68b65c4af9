import pytest

from experiments.planning import hlo
from tests.experiments.planning.programs import LOOPS, TPU


def test_loops_run_as_often_as_they_turn():
  module = hlo.parse(LOOPS)
  assert module.entry == "main"
  assert dict(module.turns) == {"loop": 5, "loop.1": 3}  # 0, 2, 4, 6, 8
  assert module.runs["body"] == 5
  assert module.runs["inner_body"] == 15
  assert module.runs["fused"] == 5
  assert module.unknown == ()


def test_without_loops_every_body_counts_once():
  module = hlo.parse(LOOPS, count_loops=False)
  assert {module.runs[name] for name in ("body", "inner_body", "fused")} == {1}


def test_a_known_trip_count_is_believed():
  known = LOOPS.replace(
    "body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"7"},"x":[1]}'
  )
  assert hlo.parse(known).turns["loop"] == 7


@pytest.mark.parametrize(
  ("old", "new"),
  [
    ("tuple(%next, %x.2, %w, %limit)", "tuple(%next, %x.2, %w, %next)"),  # the limit moves
    ("%two = s32[] constant(2)", "%two = s32[] parameter(1)"),  # the step is not known
    ("%nine = s32[] constant(9)", "%nine = s32[] rng()"),
  ],
)
def test_a_loop_that_cannot_be_read_is_named(old, new):
  assert old in LOOPS
  assert hlo.parse(LOOPS.replace(old, new)).unknown == ("loop",)


def test_shapes_types_and_memories():
  (one,) = hlo.arrays("bf16[16,62,1536]{2,1,0:T(8,128)(2,1)S(1)}")
  assert (one.dtype, one.dims, one.space, one.bytes) == ("bf16", (16, 62, 1536), 1, 16 * 62 * 3072)
  tuples = hlo.arrays("(s32[]{:T(128)}, /*index=1*/f32[4,8]{1,0:T(8,128)}, pred[3])")
  assert [x.bytes for x in tuples] == [4, 128, 3]
  assert hlo.arrays("f8e4m3fn[10]{0}")[0].bytes == 10


def test_instructions_keep_operands_and_attributes():
  module = hlo.parse(TPU)
  mine = module.computations["main"].root
  assert (mine.opcode, mine.operands) == ("fusion", ("g.9",))
  assert mine.called("calls") == "all-reduce-scatter.1"
  assert module.computations["sliced"].parameter(1).name == "n"


def test_text_without_an_entry_is_refused():
  with pytest.raises(ValueError, match="no entry"):
    hlo.parse("HloModule nothing\n")
