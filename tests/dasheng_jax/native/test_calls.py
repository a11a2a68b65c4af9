"""What the calls refuse; `test_kernels` has their numbers."""

import jax
import jax.numpy as jnp
import pytest

from dasheng_jax.native import kernels


def test_a_derivative_that_is_not_there_names_the_way_out(monkeypatch):
  """Nothing is run or compiled: the refusal is one of tracing."""
  monkeypatch.setattr(kernels, "available", lambda: True)
  kernel, bias = jnp.ones((16, 16)), jnp.zeros(16)

  def once(x):
    return jnp.sum(kernels.dense(x, kernel, bias) ** 2)

  def twice(x):
    return jnp.sum(jax.grad(once)(x) ** 2)

  x = jax.ShapeDtypeStruct((1, 3, 16), jnp.float32)
  jax.eval_shape(twice, x)
  for derivative in (jax.grad(twice), jax.vmap(jax.grad(lambda x: twice(x[None])))):
    with pytest.raises(NotImplementedError) as problem:
      jax.eval_shape(derivative, x)
    message = str(problem.value)
    assert message.startswith("dasheng_product has no derivative")
    assert "kernels='xla' in ComputeConfig" in message
    assert f"{kernels.LIBRARY.switch}=0" in message
    assert "\n" not in message
