import jax
import jax.numpy as jnp
import pytest

from experiments.planning import hlo, work
from tests.experiments.planning.programs import LOOPS, TPU


def test_products_count_as_often_as_they_run():
  assert work.matrix_flops(hlo.parse(LOOPS)) == 5 * 2 * 4 * 16 * 8
  assert work.matrix_flops(hlo.parse(LOOPS, count_loops=False)) == 2 * 4 * 16 * 8


def test_windows_cost_nothing_outside_of_an_operand():
  """A window of 24 along 16 elements: 39 outputs, and 16 x 24 pairs that meet an element."""
  line = (
    "ROOT %c = bf16[1,62,39,96]{3,2,1,0} convolution(%l, %r), "
    "window={size=1x24 pad=0_0x23_23}, dim_labels=0b1f_1o0i->0b1f"
  )
  text = f"""\
HloModule window

ENTRY %main (l: bf16[1,62,16,64], r: bf16[24,96,1,64]) -> bf16[1,62,39,96] {{
  %l = bf16[1,62,16,64]{{3,2,1,0}} parameter(0)
  %r = bf16[24,96,1,64]{{3,2,1,0}} parameter(1)
  {line}
}}
"""
  assert work.matrix_flops(hlo.parse(text)) == 2 * 62 * 96 * 64 * (16 * 24)
  spread = text.replace("size=1x24 pad=0_0x23_23", "size=1x16 stride=1x15 lhs_dilate=1x16")
  spread = spread.replace("39,96", "16,96").replace("bf16[24,96", "bf16[16,96")
  # As the TPU compiler writes a batch of products: stride and dilation leave one pair per output.
  assert work.matrix_flops(hlo.parse(spread)) == 2 * 62 * 96 * 64 * 16


@pytest.mark.parametrize("batched", [False, True])
def test_products_of_a_real_program(batched):
  spec = "bij,bjk->bik" if batched else "bij,jk->bik"
  right = (3, 8, 5) if batched else (8, 5)
  shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((3, 4, 8), right)]
  text = jax.jit(lambda a, b: jnp.einsum(spec, a, b)).lower(*shapes).compile().as_text()
  if " dot(" in text:
    assert work.matrix_flops(hlo.parse(text)) == 2 * 3 * 4 * 8 * 5


def test_a_row_of_a_stack_is_all_that_is_read():
  text = TPU
  slicing = hlo.parse(text)
  row = 16 * 8 * 4
  only = hlo.parse(
    "\n".join(
      line
      for line in text.splitlines()
      if not any(x in line for x in ("%first", "%beside", "%last"))
    )
  )
  # A row read and written, four bytes of an index; the reduce-scatter reads 4 kB and keeps its
  # part in the chip's own memory.
  assert work.bytes_moved(only) == 2 * row + 4 + 64 * 32 * 2
  assert work.bytes_moved(only, on_chip=True) == 2 * row + 4 + (64 + 16) * 32 * 2
  assert work.bytes_moved(slicing) > work.bytes_moved(only)
