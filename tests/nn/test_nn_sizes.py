"""The published sizes, counted on the meta device; within 2 %, since papers round and count embeddings differently."""

import diffusers
import pytest
import torch

from sfumato.core.space import Grid, Tokens
from sfumato.nn import CausalNet, Critic, Decoder, DiT, Encoder, PatchNet, UNet
from sfumato.nn.players.discriminator import DCDiscriminator, Discriminator, SNDiscriminator
from sfumato.nn.players.generator import DCGenerator, Generator, SNGenerator
from sfumato.recipes.given import Doors
from sfumato.recipes.networks import ladder
from sfumato.recipes.sizes import VDVAE_PUBLISHED


def dit(width, depth, heads):
    """With the embedding of 1000 + 1 classes, which belongs to the conditioner here and to the net in the paper."""
    net = DiT(Grid(4, 32, 32), 8, patch=2, width=width, depth=depth, heads=heads, vector=width)
    return [net, torch.nn.Embedding(1001, width)]


def igpt(width, depth, heads):
    return [CausalNet(Tokens(1024, 512), 512, width=width, depth=depth, heads=heads, head_bias=False)]


def pyramid(mults, z, hidden, attention=None):
    """With the two 1×1 convolutions that stand between encoder and decoder in latent diffusion and taming."""
    return [
        Encoder(3, hidden, width=128, mults=mults, attention=attention),
        Decoder(z, 3, width=128, mults=mults, attention=attention),
        torch.nn.Conv2d(hidden, hidden, 1),
        torch.nn.Conv2d(z, z, 1),
    ]


def vqgan(codes, width):
    net = pyramid((1, 1, 2, 2, 4), 256, 256, (False, False, False, False, True))
    return [*net, torch.nn.Embedding(codes, width)]


def vdvae(name, side):
    """With the hundred numbers of ten coupled logistics for three channels."""
    return [ladder(VDVAE_PUBLISHED[name], Grid(3, side, side), 100, Doors())]


PUBLISHED = {
    # arXiv:2006.11239, appendix B: "35.7 million parameters" for CIFAR-10
    "ddpm-cifar10": (
        35.7,
        lambda: [
            UNet(3, 3, width=128, mults=(1, 2, 2, 2), blocks=2, attention=(False, True, False, False), padding="right")
        ],
    ),
    # arXiv:2112.10752, table 3: LDM-4, class-conditional ImageNet, 400M
    "ldm-4-imagenet": (
        400,
        lambda: [
            UNet(
                3,
                3,
                width=192,
                mults=(1, 2, 3, 5),
                blocks=2,
                attention=(False, True, True, True),
                head=32,
                context=512,
            )
        ],
    ),
    # arXiv:2212.09748, appendix A (all models): DiT-B/2 130M, DiT-XL/2 675M
    "dit-b/2": (130, lambda: dit(768, 12, 12)),
    "dit-xl/2": (675, lambda: dit(1152, 28, 16)),
    # Chen et al. 2020, Generative Pretraining from Pixels: iGPT-S 76M, M 455M, L 1.36B
    "igpt-s": (76, lambda: igpt(512, 24, 8)),
    "igpt-m": (455, lambda: igpt(1024, 36, 8)),
    "igpt-l": (1360, lambda: igpt(1536, 48, 16)),
    # Stable Diffusion's first stage (f8, 4 channels): 83.7M; below, equal to diffusers' to the last number
    "sd-vae": (83.65, lambda: pyramid((1, 2, 4, 4), 4, 8)),
    # github.com/FoundationVision/LlamaGen, README: vq_ds16 "72M": taming's f16 configuration, narrower codes
    "vqgan-f16": (72, lambda: vqgan(1024, 256)),
    # arXiv:2010.11929, table 1: ViT-Base 86M, Large 307M
    "vit-b/16": (86, lambda: [PatchNet(Grid(3, 224, 224), patch=16, width=768, depth=12, heads=12)]),
    "vit-l/16": (307, lambda: [PatchNet(Grid(3, 224, 224), patch=16, width=1024, depth=24, heads=16)]),
    # github.com/junyanz/pytorch-CycleGAN-and-pix2pix, training log of pix2pix: network D 2.769M (it sees 6 channels;
    # with 3 it has 3 · 64 · 16 fewer)
    "patchgan": (2.769 - 3 * 64 * 16 / 1e6, lambda: [Critic(3)]),
    # arXiv:2011.10650, table 3: CIFAR-10 39M, ImageNet-32 119M, ImageNet-64 125M
    "vdvae-cifar10": (39, lambda: vdvae("cifar10", 32)),
    "vdvae-imagenet32": (119, lambda: vdvae("imagenet32", 32)),
    "vdvae-imagenet64": (125, lambda: vdvae("imagenet64", 64)),
    # github.com/kwotsin/mimicry, SNGANGenerator32 and SNGANDiscriminator32 counted; the layers are the
    # authors' (github.com/pfnet-research/sngan_projection): 128 → 4·4·256, three blocks of 256; four blocks of 128
    "sngan-32-generator": (4.276739, lambda: [SNGenerator(Grid(3, 32, 32))]),
    "sngan-32-critic": (1.053825, lambda: [SNDiscriminator(Grid(3, 32, 32))]),
    # pytorch.org's DCGAN tutorial (ngf = ndf = 64, nz = 100): 3,576,704 and 2,765,568, summed from its layers
    "dcgan-64-generator": (3.576704, lambda: [DCGenerator(Grid(3, 64, 64))]),
    "dcgan-64-critic": (2.765568, lambda: [DCDiscriminator(Grid(3, 64, 64))]),
    # arXiv:2501.05441, table 1, last row: FFHQ-256, G 23.058 M, D 23.010 M
    "r3gan-256-generator": (23.058, lambda: [Generator(Grid(3, 256, 256), widths=(96, 192, 384, 768))]),
    "r3gan-256-critic": (23.010, lambda: [Discriminator(Grid(3, 256, 256), widths=(96, 192, 384, 768))]),
    # GPT-2 small: 124M with the head tied (openai/gpt-2, model card)
    "gpt2": (124, lambda: [CausalNet(Tokens(1024, 50257), 50257, width=768, depth=12, heads=12, tied=True)]),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_size_is_the_published_one(name):
    millions, build = PUBLISHED[name]
    with torch.device("meta"):
        parts = build()
    count = sum(p.numel() for part in parts for p in part.parameters()) / 1e6
    assert abs(count / millions - 1) < 0.02


# diffusers' classes at published configurations: the file's config.json, shortened to what shapes depend on
LEVELS = {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
THEIRS = {
    # google/ddpm-cifar10-32
    "ddpm-cifar10": lambda: diffusers.UNet2DModel(
        block_out_channels=(128, 256, 256, 256),
        layers_per_block=2,
        attention_head_dim=None,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    ),
    # stabilityai/sd-vae-ft-mse
    "sd-vae": lambda: diffusers.AutoencoderKL(block_out_channels=(128, 256, 512, 512), layers_per_block=2, **LEVELS),
    # taming's f16, K = 1024, in diffusers' words
    "vqgan-f16": lambda: diffusers.VQModel(
        block_out_channels=(128, 128, 256, 256, 512),
        layers_per_block=2,
        down_block_types=[*["DownEncoderBlock2D"] * 4, "AttnDownEncoderBlock2D"],
        up_block_types=["AttnUpDecoderBlock2D", *["UpDecoderBlock2D"] * 4],
        latent_channels=256,
        num_vq_embeddings=1024,
    ),
}


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name.split("-")[0] in ("sngan", "dcgan", "r3gan")])
def test_games_have_the_published_size_to_the_last_number(name):
    """As many digits as are published."""
    millions, build = PUBLISHED[name]
    count = sum(p.numel() for part in build() for p in part.parameters()) / 1e6
    assert round(count, len(str(millions).split(".")[1])) == millions


@pytest.mark.parametrize("name", THEIRS)
def test_size_is_the_peers_to_the_last_number(name):
    with torch.device("meta"):
        theirs, ours = THEIRS[name](), PUBLISHED[name][1]()
    assert sum(p.numel() for part in ours for p in part.parameters()) == sum(p.numel() for p in theirs.parameters())
