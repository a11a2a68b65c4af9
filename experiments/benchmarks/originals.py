"""The released PyTorch code as a contender, eager or as an ONNX Runtime session of its export.

    python originals.py FOLDER torch|onnxruntime THREADS WEIGHTS

FOLDER is a checkout of https://github.com/fschmid56/EfficientAT. This file runs under the Python
that has torch and torchaudio (and onnx, onnxruntime), and imports nothing of this library, so it
can do so from an environment of its own. WEIGHTS is a folder of state dicts that it writes for the
other contenders: all time the same network.
"""

import contextlib
import io
import os
import pathlib
import sys

import numpy as np
import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from serve import serve

FOLDER, KIND, THREADS, WEIGHTS = sys.argv[1:5]
sys.path.insert(0, FOLDER)
os.chdir(FOLDER)  # its modules make folders and read tables relative to here
torch.set_num_threads(int(THREADS))


def network(name):
  """A network of the released code with seeded weights, also stored for the others."""
  torch.manual_seed(0)
  dynamic = name.startswith("dymn")
  with contextlib.redirect_stdout(io.StringIO()):  # it prints the complete network
    if dynamic:
      from models.dymn.model import get_model
    else:
      from models.mn.model import get_model
    net = get_model(width_mult=int(name.removeprefix("dy").removeprefix("mn")) / 10)
  file = pathlib.Path(WEIGHTS) / f"{name}.pt"
  if not file.exists():
    part = file.with_suffix(f".{os.getpid()}")
    torch.save(net.state_dict(), part)
    part.replace(file)
  else:
    net.load_state_dict(torch.load(file))
  if dynamic:
    for module in net.modules():
      if hasattr(module, "temperature"):
        module.temperature = 1.0
  return net


def front_end(perturb):
  """The released front end, with its range perturbation in training alone."""
  from models.preprocess import AugmentMelSTFT

  mel = AugmentMelSTFT(freqm=0, timem=0)
  return mel.train() if perturb else mel.eval()


def prepare(case):
  """One call of a case: "network", "mel", "tag" (both), "train" (forward and backward) or "step"
  (from waves to the updated weights).
  """
  batch, part = case["batch"], case["part"]
  rng = np.random.default_rng(0)
  wave = torch.from_numpy(rng.normal(size=(batch, 320_000)).astype(np.float32) * 0.1)
  picture = torch.from_numpy(rng.normal(size=(batch, 1, 128, 1000)).astype(np.float32))
  if KIND == "onnxruntime" and part != "network":
    raise LookupError("only the network is exported")
  if part == "mel":
    mel = front_end(False)
    return inference(lambda: mel(wave))
  net = network(case["model"])
  if part == "train":
    return training(net.train(), picture, torch.from_numpy(targets(rng, batch)))
  if part == "step":
    labels = torch.from_numpy(targets(rng, batch))
    return whole_step(net.train(), front_end(True), wave, labels)
  net.eval()
  if KIND == "onnxruntime":
    return session(net, picture, case)
  if part == "tag":
    mel = front_end(False)
    return inference(lambda: net(mel(wave)[:, None]))
  return inference(lambda: net(picture))


def targets(rng, batch):
  """Rare labels, as in AudioSet."""
  return (rng.random(size=(batch, 527)) < 0.01).astype(np.float32)


def inference(call):
  """The call without gradients."""

  def run():
    with torch.inference_mode():
      return call()

  return run


def training(net, picture, labels):
  """Loss and gradients of all parameters, with batch statistics and dropout."""

  def run():
    for parameter in net.parameters():
      parameter.grad = None
    logits, _ = net(picture)
    torch.nn.functional.binary_cross_entropy_with_logits(logits, labels).backward()

  return run


def whole_step(net, mel, wave, labels):
  """Front end, loss, gradients and Adam; of its forms the fused one, which is the quickest."""
  optimiser = torch.optim.Adam(net.parameters(), lr=1e-4, fused=True)

  def run():
    optimiser.zero_grad()
    logits, _ = net(mel(wave)[:, None])
    torch.nn.functional.binary_cross_entropy_with_logits(logits, labels).backward()
    optimiser.step()

  return run


def session(net, picture, case):
  """The exported network in ONNX Runtime."""
  import onnxruntime

  file = pathlib.Path(WEIGHTS) / f"{case['model']}_{case['batch']}.onnx"
  with torch.no_grad():
    torch.onnx.export(net, (picture,), str(file), dynamo=False, opset_version=17)
  options = onnxruntime.SessionOptions()
  options.intra_op_num_threads = int(THREADS)
  options.add_session_config_entry("session.intra_op.allow_spinning", "1")
  made = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
  feed = {made.get_inputs()[0].name: picture.numpy()}
  return lambda: made.run(None, feed)


if __name__ == "__main__":
  serve(prepare)
