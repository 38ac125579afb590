"""Drawing tokens one after another: ours beside transformers' GPT-2 `generate`, and beside no cache at all.

    generate   GPT2LMHeadModel.generate with its cache, sampling from all tokens
    uncached   every token by a forward pass over all before it, as minGPT does; ours, without the cache
    bf16       ours under autocast, and by how much its logits differ from float32's

A transformer of 33.7 M parameters (10 layers of 512, tied to 4096 tokens), with random weights, the same shapes in all.
One thread; they alternate, and the ratios are medians over rounds of processor seconds. Prints one JSON line.

    python benchmarks/autoregressive.py [rounds]
"""

import json
import statistics
import sys
import time
from collections.abc import Callable

import torch
import transformers

from sfumato.core.condition import Condition
from sfumato.core.noise import Noise
from sfumato.core.space import Tokens
from sfumato.likelihoods import Categorical
from sfumato.nn.rows.causal import CausalNet
from sfumato.priors.autoregressive import Autoregressive, choose

VOCAB, WIDTH, DEPTH, HEADS = 4096, 512, 10, 8
CASES = [
    (16, 128, False),
    (1, 256, True),
]  # batch, tokens, whether the uncached one (half a minute at batch 1) runs too


def ours(tokens: int) -> Autoregressive:
    space = Tokens(tokens, VOCAB)
    net = CausalNet(space, VOCAB, width=WIDTH, depth=DEPTH, heads=HEADS, activation="gelu_new", tied=True)
    return Autoregressive(space, net, Categorical(VOCAB)).eval()


def peer(tokens: int) -> transformers.GPT2LMHeadModel:
    config = transformers.GPT2Config(
        vocab_size=VOCAB + 1,  # and the token that it starts from
        n_positions=tokens + 1,
        n_embd=WIDTH,
        n_layer=DEPTH,
        n_head=HEADS,
        bos_token_id=VOCAB,
        eos_token_id=None,
        pad_token_id=VOCAB,
    )
    return transformers.GPT2LMHeadModel(config).eval()


@torch.no_grad()
def uncached(prior: Autoregressive, batch: int, tokens: int) -> torch.Tensor:
    u, z = Noise.each(range(batch)).uniform(tokens), torch.zeros(batch, 0, dtype=torch.long)
    for i in range(tokens):
        h = prior.net(torch.nn.functional.pad(z, (0, 1)), Condition.none(batch))[:, -1]
        z = torch.cat([z, choose(h, u[:, i])[:, None]], 1)
    return z


def jobs(batch: int, tokens: int, without: bool) -> tuple[dict[str, Callable], Autoregressive]:
    prior, gpt = ours(tokens), peer(tokens)
    start = torch.full((batch, 1), VOCAB)

    def cached(half: bool = False) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            return prior.sample(Condition.none(batch), Noise.each(range(batch)))

    def generate() -> torch.Tensor:
        with torch.no_grad():
            return gpt.generate(start, do_sample=True, top_k=0, max_new_tokens=tokens, min_new_tokens=tokens)

    found = {"ours": cached, "bf16": lambda: cached(True), "generate": generate}
    return found | ({"uncached": lambda: uncached(prior, batch, tokens)} if without else {}), prior


@torch.no_grad()
def shift(prior: Autoregressive, tokens: int) -> float:
    """The root mean square difference of bfloat16's logits from float32's, in deviations of the latter."""
    z, none = torch.randint(VOCAB, (4, tokens)), Condition.none(4)
    exact = prior.net(z, none)
    with torch.autocast("cpu", torch.bfloat16):
        half = prior.net(z, none).float()
    return float((half - exact).square().mean().sqrt() / exact.std())


def measure(batch: int, tokens: int, without: bool, rounds: int) -> dict:
    torch.manual_seed(0)
    todo, prior = jobs(batch, tokens, without)
    seconds: dict[str, list[float]] = {name: [] for name in todo}
    for job in ("ours", "bf16", "generate"):
        todo[job]()  # the first call of each loads code
    for _ in range(rounds):
        for name, job in todo.items():
            begun = time.process_time()
            job()
            seconds[name].append(time.process_time() - begun)
    ratio = lambda job, other: statistics.median(b / a for a, b in zip(seconds[job], seconds[other]))
    return {
        "batch": batch,
        "tokens": tokens,
        "cpu_seconds": {name: round(statistics.median(s), 3) for name, s in seconds.items()},
        "times_faster_than_generate": {job: round(ratio(job, "generate"), 2) for job in ("ours", "bf16")},
        **({"times_faster_than_uncached": round(ratio("ours", "uncached"), 1)} if without else {}),
        "bf16_logit_shift": round(shift(prior, tokens), 4),
    }


def main(rounds: int = 3) -> None:
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    print(
        json.dumps(
            {
                "job": "autoregressive",
                "parameters": sum(p.numel() for p in ours(128).parameters()),
                "rounds": rounds,
                "cases": [measure(*case, rounds) for case in CASES],
                "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
            }
        )
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
