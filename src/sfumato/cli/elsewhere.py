"""What people type who come from other programs, and what says the same here.

A flag that a verb does not know is answered by the first that knows of it: this table, where what it leads to exists
for the verb; the dials of other recipes; the nearest spelling among the verb's own.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection

LIKE = 0.7  # of the letters; below it a flag would be answered with a stranger

# the flag that says the same (where the verb has it), or a sentence
SAME = {
    "--out": "output output-dir output-path outdir out-dir save-dir save-path results-folder logdir log-dir o dest",
    "--side": "resolution image-size img-size imagesize res width height crop-size imsize",
    "--batch": "batch-size train-batch-size batchsize bs b per-device-train-batch-size eval-batch-size",
    "--steps": "iterations iters max-steps max-train-steps num-train-steps total-steps n-iter kimg num-inference-steps "
    "ddim-steps sampling-steps num-steps timesteps nfe",
    "--minutes": "hours time max-time max-minutes duration budget",
    "--text": "prompt prompts p caption captions t",
    "--label": "class classes class-label class-labels class-idx labels y",
    "--number": "num-samples n-samples num-images samples count num images nsamples num-outputs n",
    "--guidance": "cfg cfg-scale guidance-scale scale guidance-weight w classifier-free-guidance-scale",
    "--solver": "sampler scheduler method",
    "--precision": "mixed-precision fp16 bf16 amp half dtype",
    "--device": "gpu gpus cuda devices use-cuda cpu",
    "--seed": "random-seed manual-seed seeds rng",
    "--from": "pretrained init-from finetune checkpoint ckpt resume-from vae vae-path",
    "--temperature": "temp",
    "--metrics": "metric",
    "--size": "model-size arch preset",
    "--debug": "verbose v traceback",
    "--config": "conf cfg-file yaml config-file c",
    "--json": "format output-format",
}
SAID = {
    "epochs num-epochs max-epochs epoch e n-epochs num-train-epochs": (
        "A training lasts --steps N for each stage or --minutes M for all; there are no epochs."
    ),
    "lr learning-rate learningrate weight-decay optimizer optim warmup lr-scheduler ema-decay": (
        "The optimiser is the recipe's own (`sfumato info RECIPE` shows its rate); what can be chosen is --steps, "
        "--minutes, --batch and the recipe's dials."
    ),
    "data dataset train-data-dir data-dir data-root data-path dataset-name input": (
        "DATA is a word of its own: `sfumato train RECIPE DATA --out RUN`."
    ),
    "model run model-path network weights": "RECIPE and RUN are words of their own, without a flag before them.",
    "resume": "`sfumato resume RUN` goes on where a training stopped.",
    "workers num-workers nproc": "There is nothing to set for it: pictures are read by the process itself.",
    "negative-prompt negative uncond-prompt": (
        "There are no negative prompts; --guidance above 1 leads away from pictures of no prompt."
    ),
    "nproc-per-node num-gpus multi-gpu ddp distributed": "Several GPUs: `accelerate launch -m sfumato train …`.",
    "h": "--help says what there is.",
}


def answer(verb: str, flag: str, known: Collection[str], recipe: str | None, owners: dict[str, list[str]]) -> str:
    """A sentence for a `flag` that `verb` does not know, though it knows `known`. `owners` are the recipes that have a
    dial, by the dial's name."""
    word = flag.lstrip("-").lower().replace("_", "-")
    near = difflib.get_close_matches(flag.lower().replace("_", "-"), known, n=1, cutoff=0.85)
    if near:
        return f"Did you mean {near[0]!r}?"
    for ours, theirs in SAME.items():
        if word in theirs.split() and ours in known:
            return f"Here it is {ours}."
    for theirs, sentence in SAID.items():
        if word in theirs.split():
            return sentence
    having = owners.get(word.replace("-", "_"), [])
    if having and recipe is not None:
        more = " …" if len(having) > 6 else ""
        return f"It is a dial of {', '.join(having[:6])}{more}, and {recipe} has none such."
    if having and verb in ("train", "info"):
        return f"It is a dial of {having[0]}, say; name the recipe first."
    foreign = any(word in theirs.split() for theirs in SAME.values())  # known, and nothing here says the same
    near = [] if foreign else difflib.get_close_matches(f"--{word}", known, n=1, cutoff=LIKE)
    return f"Did you mean {near[0]!r}?" if near else f"`sfumato {verb} --help` lists what there is."
