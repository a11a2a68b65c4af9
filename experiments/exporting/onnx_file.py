"""ONNX files, from LiteRT files through tf2onnx: one chain of converters for both."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from experiments.exporting.litert import needed, tensorflow
from experiments.exporting.quiet import quiet

OPSET = 18


def onnx(model: bytes) -> bytes:
  """The ONNX file of a float32 LiteRT file, with its names of input and output."""
  tensorflow()
  convert = needed("tf2onnx.convert", "--to onnx")
  with quiet(), tempfile.TemporaryDirectory() as folder:
    file = Path(folder) / "model.tflite"
    file.write_bytes(model)
    made, _ = convert.from_tflite(str(file), opset=OPSET)
  return made.SerializeToString()


class Onnx:
  """An ONNX file to be called, f32[s] -> f32[classes], by ONNX Runtime on one thread."""

  def __init__(self, model: bytes):
    runtime = needed("onnxruntime", "running an ONNX file")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    self._session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    (self._input,) = self._session.get_inputs()
    self.samples = int(self._input.shape[-1])

  def __call__(self, wave: np.ndarray) -> np.ndarray:
    """Logits of one clip."""
    return self._session.run(None, {self._input.name: wave[None]})[0][0]
