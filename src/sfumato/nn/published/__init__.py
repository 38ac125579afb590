"""Published weights in our networks: a folder saved by diffusers or transformers becomes one of ours.

    folder   config.json + *.safetensors
    unet            UNet2DModel                UNet
    gpt2            GPT2LMHeadModel            CausalNet
    vit             ViTForImageClassification  Pooled
    autoencoder_kl  AutoencoderKL              Autoencoder, without a codebook
    vq              VQModel                    Autoencoder, with one

A folder is loaded completely or not at all: a tensor too many, one too few, a number that is none or a setting that we
do not compute raises WeightsError and names it. Networks are built on the meta device and compared before anything is
allocated. Only safetensors is read, since a pickle is a program. Weights become float32.
"""

from sfumato.nn.published.convolutional import Autoencoder, autoencoder_kl, kl_pyramid, unet, vq, vq_pyramid
from sfumato.nn.published.gpt2 import gpt2
from sfumato.nn.published.vit import vit, vit_labels, vit_net

__all__ = [
    "Autoencoder",
    "autoencoder_kl",
    "gpt2",
    "kl_pyramid",
    "unet",
    "vit",
    "vit_labels",
    "vit_net",
    "vq",
    "vq_pyramid",
]
