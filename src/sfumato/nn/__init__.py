"""Networks. They know nothing of generative models; recipes marry them to the mathematics."""

from sfumato.nn.pictures.glow import Glow
from sfumato.nn.pictures.ladder import Ladder
from sfumato.nn.pictures.pyramid import Decoder, Encoder
from sfumato.nn.pictures.unet import UNet
from sfumato.nn.players.critic import Critic
from sfumato.nn.rows.causal import CausalNet
from sfumato.nn.rows.dit import DiT
from sfumato.nn.rows.encoders import PatchNet, TokenNet
from sfumato.nn.rows.masked import MaskedNet
from sfumato.nn.rows.transformer import Transformer
from sfumato.nn.rows.vector import VectorNet

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
