"""The released PyTorch code as a contender, eager or as an ONNX Runtime session of its export.

    python originals.py FOLDER torch|onnxruntime THREADS WEIGHTS

FOLDER is a checkout of https://github.com/fschmid56/EfficientAT, or for CP-Mobile and CP-ResNet of
https://github.com/fschmid56/cpjku_dcase23. This file runs under the Python that has torch,
torchaudio and torchvision (and onnx, onnxruntime), and imports nothing of this library, so it can
do so from an environment of its own. WEIGHTS is a folder of state dicts that it writes for the
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
  with contextlib.redirect_stdout(io.StringIO()):  # it prints the complete network
    net = build(name)
  file = pathlib.Path(WEIGHTS) / f"{name}.pt"
  if not file.exists():
    part = file.with_suffix(f".{os.getpid()}")
    torch.save(net.state_dict(), part)
    part.replace(file)
  else:
    net.load_state_dict(torch.load(file))
  if name.startswith("dymn"):
    for module in net.modules():
      if hasattr(module, "temperature"):
        module.temperature = 1.0
  return net


def build(name):
  """mn04, dymn10, cp_mobile_32, cp_resnet_32: a family, and its width."""
  size = int(name.lstrip("abcdefghijklmnopqrstuvwxyz_"))
  if name.startswith("cp_mobile"):
    from models.cp_mobile_clean import get_model

    return get_model(base_channels=size)
  if name.startswith("cp_resnet"):
    from models.cp_resnet import get_model

    return get_model(base_channels=size)
  if name.startswith("dymn"):
    from models.dymn.model import get_model
  else:
    from models.mn.model import get_model
  return get_model(width_mult=size / 10)


def front_end(case, perturb):
  """The released front end, with its range perturbation (and masks) in training alone."""
  told = case["front_end"]
  with contextlib.redirect_stdout(io.StringIO()):
    if (pathlib.Path(FOLDER) / "models" / "mel.py").exists():
      from models.mel import AugmentMelSTFT
    else:
      from models.preprocess import AugmentMelSTFT
    mel = AugmentMelSTFT(**told)
  return mel.train() if perturb else mel.eval()


def prepare(case):
  """One call of a case: "network", "mel", "tag" (both), "train" (forward and backward) or "step"
  (from waves to the updated weights).
  """
  batch, part = case["batch"], case["part"]
  rng = np.random.default_rng(0)
  wave = torch.from_numpy(rng.normal(size=(batch, case["samples"])).astype(np.float32) * 0.1)
  shape = (batch, 1, *case["log_mel"])
  picture = torch.from_numpy(rng.normal(size=shape).astype(np.float32))
  if KIND == "onnxruntime" and part != "network":
    raise LookupError("only the network is exported")
  if part == "mel":
    mel = front_end(case, False)
    return inference(lambda: mel(wave))
  net = network(case["model"])
  if part in ("train", "step"):
    loss = LOSSES[case["objective"]]
    labels = torch.from_numpy(targets(rng, batch, case["classes"], case["objective"]))
    if part == "train":
      return training(net.train(), loss, picture, labels)
    return whole_step(net.train(), loss, front_end(case, True), wave, labels)
  net.eval()
  if KIND == "onnxruntime":
    return session(net, picture, case)
  if part == "tag":
    mel = front_end(case, False)
    return inference(lambda: net(mel(wave)[:, None]))
  return inference(lambda: net(picture))


LOSSES = {
  "tags": torch.nn.functional.binary_cross_entropy_with_logits,
  "classes": torch.nn.functional.cross_entropy,
}


def targets(rng, batch, classes, objective):
  """Rare tags, as in AudioSet, or a class of each clip."""
  if objective == "classes":
    return rng.integers(classes, size=batch)
  return (rng.random(size=(batch, classes)) < 0.01).astype(np.float32)


def logits_of(net, picture):
  """MN and DyMN also return features."""
  out = net(picture)
  return out[0] if isinstance(out, tuple) else out


def inference(call):
  """The call without gradients."""

  def run():
    with torch.inference_mode():
      return call()

  return run


def training(net, loss, picture, labels):
  """Loss and gradients of all parameters, with batch statistics and dropout."""

  def run():
    for parameter in net.parameters():
      parameter.grad = None
    loss(logits_of(net, picture), labels).backward()

  return run


def whole_step(net, loss, mel, wave, labels):
  """Front end, loss, gradients and Adam; of its forms the fused one, which is the quickest."""
  optimiser = torch.optim.Adam(net.parameters(), lr=1e-4, fused=True)

  def run():
    optimiser.zero_grad()
    loss(logits_of(net, mel(wave)[:, None]), labels).backward()
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
