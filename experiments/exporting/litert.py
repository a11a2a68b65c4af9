"""LiteRT files (.tflite): by StableHLO through TensorFlow's converter, in float32 or int8.

    JAX --jax2tf--> StableHLO in a saved model --TFLiteConverter--> file --AI Edge Quantizer--> int8

All three are Google's; jax2tf and the converter come with JAX and TensorFlow.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.exporting.networks import NETWORK, Network
from experiments.exporting.quiet import quiet
from experiments.training.errors import UsageError

INPUT, OUTPUT, SIGNATURE = "wave", "logits", "serving_default"
# Lowered for this platform, our networks are convolutions; for the CPU they would be shifted sums.
# No such device is needed.
PLATFORM = "cuda"
# Operations of the network that the quantiser takes; all others stay float32.
INTEGER_OPERATIONS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "PAD")


def check_extra(module: str, what: str) -> None:
  """UsageError, in one line, where a module of the extra [export] is absent."""
  top = module.partition(".")[0]
  if importlib.util.find_spec(top) is None:
    raise UsageError(
      f"{what} needs {top}; install the extra [export]: pip install 'dasheng-jax[export]'"
    )


def needed(module: str, what: str) -> Any:
  """A module of the extra [export], imported; see `check_extra`."""
  check_extra(module, what)
  with quiet():
    return importlib.import_module(module)


def tensorflow() -> Any:
  """TensorFlow, whose converter takes StableHLO, without its greetings."""
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
  os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # no tensor maths here, one greeting less
  with quiet():
    import tensorflow as tf
  return tf


def litert(network: Network, samples: int) -> bytes:
  """A LiteRT file of a network: "wave" f32[1, samples] in, "logits" f32[1, classes] out.

  Raises UsageError where the converter refuses an operation of the network.
  """
  tf = tensorflow()
  from jax.experimental import jax2tf

  function = jax2tf.convert(
    lambda wave: {OUTPUT: network(wave)},
    native_serialization_platforms=[PLATFORM],
    with_gradient=False,
  )
  module = tf.Module()
  wave = tf.TensorSpec((1, samples), tf.float32, name=INPUT)
  module.call = tf.function(function, autograph=False, input_signature=[wave])
  try:
    with quiet(), tempfile.TemporaryDirectory() as folder:
      tf.saved_model.save(module, folder, signatures={SIGNATURE: module.call})
      return bytes(tf.lite.TFLiteConverter.from_saved_model(folder).convert())
  except Exception as error:
    if type(error).__name__ != "ConverterError":  # its module is private
      raise
    raise UsageError(_refused(error)) from None


def _refused(error: Exception) -> str:
  reason = next((line for line in str(error).splitlines() if "error:" in line), str(error))
  return f"the LiteRT converter refuses this network: {' '.join(reason.split())[:300]}"


def int8(model: bytes, clips: Sequence[np.ndarray]) -> bytes:
  """The same file with the network's convolutions in 8-bit integers; the front end stays float32.

  clips: f32[samples] each. They tell the range of every activation, the least and the greatest
  value over all of them. Weights get a scale for each output channel. Input and output stay
  float32; so does what stands between convolutions: the response norm of CP-Mobile and the sums.
  """
  quantizer = needed("ai_edge_quantizer.quantizer", "--to litert_int8")
  qtyping = needed("ai_edge_quantizer.qtyping", "--to litert_int8")

  def recipe() -> Any:
    made = quantizer.Quantizer(model)
    for operation in INTEGER_OPERATIONS:
      made.add_static_config(
        regex=f"/{NETWORK}/",
        operation_name=qtyping.TFLOperationName[operation],
        activation_num_bits=8,
        weight_num_bits=8,
      )
    return made

  # One by one: within a call the library keeps a running mean, in which the first clip weighs most.
  with quiet():
    found = [recipe().calibrate({SIGNATURE: [{INPUT: clip[None]}]}) for clip in clips]
    return bytes(recipe().quantize(joined(found)).quantized_model)


def joined(ranges: Sequence[dict[str, Any]]) -> dict[str, Any]:
  """Least minimum and greatest maximum of every tensor, over the ranges of single clips."""
  joins = {"min": np.minimum, "max": np.maximum, "num_samples": np.add}
  return {
    name: {key: functools.reduce(joins[key], [one[name][key] for one in ranges]) for key in joins}
    for name in ranges[0]
  }


class LiteRT:
  """A LiteRT file to be called, f32[s] -> f32[classes], on one thread."""

  def __init__(self, model: bytes):
    with quiet():  # TensorFlow's own interpreter, the second choice, says that it will go
      self._interpreter = _interpreter()(model_content=model, num_threads=1)
      self._interpreter.allocate_tensors()
    (self._input,), (self._output,) = (
      [tensor["index"] for tensor in details]
      for details in (
        self._interpreter.get_input_details(),
        self._interpreter.get_output_details(),
      )
    )
    self.samples = int(self._interpreter.get_input_details()[0]["shape"][-1])

  def __call__(self, wave: np.ndarray) -> np.ndarray:
    """Logits of one clip."""
    self._interpreter.set_tensor(self._input, wave[None])
    self._interpreter.invoke()
    return self._interpreter.get_tensor(self._output)[0]


def _interpreter() -> Any:
  try:
    from ai_edge_litert.interpreter import Interpreter
  except ImportError:
    return tensorflow().lite.Interpreter
  return Interpreter
