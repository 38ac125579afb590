"""Networks. They know nothing of generative models; recipes marry them to the mathematics."""

from sfumato.nn.causal import CausalNet
from sfumato.nn.critic import Critic
from sfumato.nn.dit import DiT
from sfumato.nn.encoders import PatchNet, TokenNet
from sfumato.nn.glow import Glow
from sfumato.nn.ladder import Ladder
from sfumato.nn.masked import MaskedNet
from sfumato.nn.pyramid import Decoder, Encoder
from sfumato.nn.transformer import Transformer
from sfumato.nn.unet import UNet
from sfumato.nn.vector import VectorNet

__all__ = [
    "CausalNet",
    "Critic",
    "Decoder",
    "DiT",
    "Encoder",
    "Ladder",
    "Glow",
    "MaskedNet",
    "PatchNet",
    "TokenNet",
    "Transformer",
    "UNet",
    "VectorNet",
]
