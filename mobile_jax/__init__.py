"""Efficient audio CNNs in JAX: taggers, scene models, their teachers and their embeddings.

    tag, variables = mobile_jax.load_model("mn04_as_mAP_432.pt", name="mn04_as")
    logits, features = tag(variables, wave)   # f32[b, s] at 32 kHz -> f32[b, classes], f32[b, c]

    describe, variables = mobile_jax.load_embedder("mn04_as_mAP_432.pt", name="mn04_as",
                                                   features=("blocks", "mel"))
    scene = describe(variables, wave)         # f32[b, sum of the feature sets' sizes]

Everything here is a Flax Linen module over a plain parameter tree, or a pure function. Importing
the package imports neither Flax nor any weight-file reader; each name is loaded when it is first
used. It never imports TensorFlow, PyTorch or librosa (`tests/test_imports.py` holds it to that).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dasheng_jax.lazy import lazily

if TYPE_CHECKING:
  from mobile_jax.config import SIZES as SIZES
  from mobile_jax.config import ComputeConfig as ComputeConfig
  from mobile_jax.config import DyMNConfig as DyMNConfig
  from mobile_jax.config import MNConfig as MNConfig
  from mobile_jax.cp_mobile import CPMobile as CPMobile
  from mobile_jax.cp_resnet import CPResNet as CPResNet
  from mobile_jax.decision_config import EfficientNetConfig as EfficientNetConfig
  from mobile_jax.decision_config import MobileNetV2Config as MobileNetV2Config
  from mobile_jax.dymn import DyMN as DyMN
  from mobile_jax.efficientnet import EfficientNet as EfficientNet
  from mobile_jax.embeddings import load_embedder as load_embedder
  from mobile_jax.embeddings import scene_embeddings as scene_embeddings
  from mobile_jax.embeddings import timestamp_embeddings as timestamp_embeddings
  from mobile_jax.families import ALL_SIZES as ALL_SIZES
  from mobile_jax.families import named as named
  from mobile_jax.inference import tag as tag
  from mobile_jax.mn import MN as MN
  from mobile_jax.mn import Outputs as Outputs
  from mobile_jax.mobilenet_v2 import MobileNetV2 as MobileNetV2
  from mobile_jax.models import MODELS as MODELS
  from mobile_jax.models import published as published
  from mobile_jax.network import infer as infer
  from mobile_jax.network import init_variables as init_variables
  from mobile_jax.network import train_outputs as train_outputs
  from mobile_jax.passt import PaSST as PaSST
  from mobile_jax.passt_config import PaSSTConfig as PaSSTConfig
  from mobile_jax.scene_config import SCENES as SCENES
  from mobile_jax.scene_config import CPMobileConfig as CPMobileConfig
  from mobile_jax.scene_config import CPResNetConfig as CPResNetConfig
  from mobile_jax.weights.load import load_model as load_model
  from mobile_jax.weights.load import read_model as read_model
  from mobile_jax.weights.load import write_model as write_model

_HOME = {
  "SIZES": "config",
  "ComputeConfig": "config",
  "DyMNConfig": "config",
  "MNConfig": "config",
  "ALL_SIZES": "families",
  "named": "families",
  "CPMobile": "cp_mobile",
  "CPResNet": "cp_resnet",
  "EfficientNetConfig": "decision_config",
  "MobileNetV2Config": "decision_config",
  "DyMN": "dymn",
  "EfficientNet": "efficientnet",
  "load_embedder": "embeddings",
  "scene_embeddings": "embeddings",
  "timestamp_embeddings": "embeddings",
  "tag": "inference",
  "MN": "mn",
  "Outputs": "mn",
  "MobileNetV2": "mobilenet_v2",
  "MODELS": "models",
  "published": "models",
  "infer": "network",
  "init_variables": "network",
  "train_outputs": "network",
  "PaSST": "passt",
  "PaSSTConfig": "passt_config",
  "SCENES": "scene_config",
  "CPMobileConfig": "scene_config",
  "CPResNetConfig": "scene_config",
  "load_model": "weights.load",
  "read_model": "weights.load",
  "write_model": "weights.load",
}
__all__ = list(_HOME)
__getattr__, __dir__ = lazily(__name__, _HOME)
