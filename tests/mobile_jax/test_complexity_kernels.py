"""Programs that hold C++ kernels are refused by the counters: they cannot look into them."""

import pathlib
import re

import jax
import jax.extend
import jax.numpy as jnp
import pytest

import dasheng_jax
import experiments
import mobile_jax
import pipelines
from dasheng_jax.blocks import Block
from dasheng_jax.config import ComputeConfig
from dasheng_jax.native import kernels as native_kernels
from mobile_jax import complexity
from mobile_jax.complexity.field import receptive_field
from mobile_jax.complexity.live import peak_elements
from mobile_jax.complexity.products import products
from mobile_jax.complexity.trace import OPAQUE, OpaqueProgram, trace

PACKAGES = (dasheng_jax, mobile_jax, pipelines, experiments)


def test_no_kernel_of_ours_counts_as_nothing():
  """A new primitive is opaque by its name, and no figure is made of a program that holds one."""
  made = [
    name
    for package in PACKAGES
    for path in pathlib.Path(package.__file__).parent.rglob("*.py")
    for name in re.findall(r"\bPrimitive\(\s*([^)]*)\)", path.read_text())
  ]
  assert '"dasheng_native"' in made
  for name in (*OPAQUE, *(name.strip('"') for name in made)):
    primitive = jax.extend.core.Primitive(name)
    primitive.def_abstract_eval(lambda x: x)
    traced = trace(lambda _, x, p=primitive: p.bind(x), {}, jnp.zeros((1, 8, 8, 1)))
    for measured in (products, peak_elements, receptive_field):
      with pytest.raises(OpaqueProgram, match=f"{name} cannot be counted"):
        measured(traced)


def test_a_transformer_block_is_counted_by_its_plain_form(monkeypatch):
  """Also where its products and attention would go to kernels."""
  monkeypatch.setattr(native_kernels, "available", lambda: True)
  b, t, d = 2, 5, 256
  x = jax.ShapeDtypeStruct((b, t, d), jnp.float32)

  def measured(kernels):
    block = Block(4, 2.0, ComputeConfig(kernels=kernels), jax.nn.initializers.zeros)
    return complexity.measure_function(
      block.apply, jax.eval_shape(block.init, jax.random.key(0), x), x
    )

  assert measured("xla").macs == b * t * (8 * d * d + 2 * t * d)
  with pytest.raises(OpaqueProgram, match="dasheng_native cannot be counted.*kernels='xla'"):
    measured("auto")
