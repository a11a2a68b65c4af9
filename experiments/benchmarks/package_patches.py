"""What the public evaluation packages need to run on current PyTorch and NumPy.

Called in the process of a package, before it is imported; what is computed stays as released.
Imports nothing of this library.
"""

import os
import sys
import types


def for_hear() -> None:
  """`heareval` 2021.1.3 with PyTorch Lightning 1.9, the last line that it runs on."""
  import numpy as np

  # NumPy 2 has these names no more; Lightning's early stopping takes its first best from them.
  for name, value in (("Inf", np.inf), ("NINF", -np.inf)):
    if not hasattr(np, name):
      setattr(np, name, value)
  # PyTorch 2.6 reads nothing but tensors unless told; Lightning's own checkpoints, written a moment
  # ago, hold its hyper-parameters too.
  os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"


def for_xares() -> None:
  """`xares` 0.1.3 where embeddings alone are read.

  Its modules import, for tasks that are not compared, libraries that are large and, of torchaudio,
  tied to one PyTorch: empty ones stand in.
  """
  absent = {
    "torchaudio": (),  # decodes and resamples
    "transformers": ("AutoModelForCausalLM", "AutoTokenizer"),  # speech recognition
    "jiwer": ("wer",),  # its error rate
  }
  for module, names in absent.items():
    stand_in = types.ModuleType(module)
    for name in names:
      setattr(stand_in, name, None)
    sys.modules[module] = stand_in
