"""One data-parallel process: `python worker.py FAMILY ACCUMULATE SHARD OUT`, with torchrun's variables.

The objectives are those without batch statistics and power iterations, which see parts, not the batch, by their nature.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace

from tiny import PLAN, Data, One, Two

from sfumato.checkpoint.tensors import hash_tensors
from sfumato.train.fit import fit
from sfumato.train.parallel import accelerator_for, leave
from sfumato.train.state import State

FAMILIES = {"one": lambda: One(dropout=0.0, norm=False, settles=False), "two": lambda: Two(spectral=False)}


def main(family: str, accumulate: str, shard: str, out: str) -> None:
    accelerator = accelerator_for(device="cpu")
    plan = replace(PLAN, accumulate=int(accumulate), steps=12)

    def fresh() -> State:
        return State(FAMILIES[family](), plan, accelerator=accelerator, shard=shard == "shard")

    state, data = fresh(), Data(rank=accelerator.process_index, world=accelerator.num_processes, spoil=(7,))
    steps = list(fit(state.objective, data, plan, seed=3, state=state))
    tensors = state.tensors()
    other = fresh()
    other.load(tensors, state.record())
    report = {
        "world": accelerator.num_processes,
        "losses": [None if s.skipped else s.loss for s in steps],
        "norms": [s.norms[0] if not s.skipped else None for s in steps],
        "index": steps[7].index,
        "weights": hash_tensors({n: t for n, t in tensors.items() if n.startswith(("weights/", "average/"))}),
        "again": hash_tensors(other.tensors()) == hash_tensors(tensors),
    }
    with open(f"{out}/{accelerator.process_index}.json", "w") as file:
        json.dump(report, file)


if __name__ == "__main__":
    assert "RANK" in os.environ
    main(*sys.argv[1:])
    leave()
