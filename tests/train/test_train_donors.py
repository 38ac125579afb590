"""What a run takes from another: stages, systems of a cascade, parts; and which stages are then over."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sfumato import recipes
from sfumato.checkpoint import hash_tensors, load_model, save_model
from sfumato.conditioners import Picture
from sfumato.core.errors import UsageError, WeightsError
from sfumato.systems import Cascade, System
from sfumato.train.donors import given_stages, part_of, parts_of, taken
from sfumato.train.run import train

XS = {"size": "xs", "channels": 1}


def cascade():
    return recipes.build("cascade", side=16, **XS)


def small(**dials):
    """The recipe that the cascade's first system is, with weights of its own."""
    return recipes.build("ddpm", side=8, schedule="cosine", **XS, **dials)


@pytest.fixture(scope="module")
def vae():
    return recipes.build("vqvae+autoregressive", side=16, **XS)


def weights(module):
    return hash_tensors(module.state_dict())


def test_parts_are_stages_systems_and_what_of_them_has_weights(vae):
    assert parts_of(cascade()) == ["small.prior", "large.prior", "small", "large"]
    assert parts_of(vae) == ["codec", "prior"]
    assert part_of(vae, "codec") is vae.codec
    assert part_of(vae, "prior") is vae  # the stage: a prior's weights mean nothing beside another codec
    assert part_of(vae, "codec.encoder") is vae.codec.encoder
    whole = cascade()
    assert part_of(whole, "small") is whole.systems["small"]
    assert part_of(whole, "small.prior") is whole.systems["small"]
    assert part_of(whole, "small.prior.net") is whole.systems["small"].prior.net
    assert part_of(whole, "tiny") is None


@pytest.mark.parametrize(
    ("name", "donor", "theirs"),
    [
        ("small", cascade, lambda d: d.systems["small"]),
        ("small.prior", cascade, lambda d: d.systems["small"]),
        ("small", small, lambda d: d),
        ("small.prior", small, lambda d: d),
        ("small.prior.net", small, lambda d: d.prior.net),
    ],
)
def test_of_a_cascade_the_same_name_and_of_a_system_the_rest_of_it_or_all(name, donor, theirs):
    mine, donor = cascade(), donor()
    ours, found = taken(mine, name, donor, "cascade", "RUN")
    assert found is theirs(donor)
    assert ours is part_of(mine, name)
    assert ours.state_dict().keys() == found.state_dict().keys()


@pytest.mark.parametrize(
    ("name", "donor", "said"),
    [
        ("smal", cascade, "cascade has no stage or part 'smal'. Did you mean 'small'?"),
        ("small.codec", cascade, "cascade has no stage or part 'small.codec'"),  # pixels have no weights
        ("small.prior.rest", small, "has no stage or part 'small.prior.rest'"),
        (
            "large.prior.net",
            lambda: System(small().codec),
            "RUN has no stage or part 'large.prior.net' to give. It has no",
        ),
    ],
)
def test_errors_name_the_parts_that_there_are(name, donor, said):
    with pytest.raises(UsageError) as error:
        taken(cascade(), name, donor(), "cascade", "RUN")
    assert said in str(error.value)
    if "cascade has no" in said:
        assert "It has small.prior, large.prior, small, large." in str(error.value)


def shared():
    """Two systems over one codec that learns."""
    codec = recipes.build("vqvae", side=8, **XS).codec
    prior = lambda: recipes.build("vqvae+autoregressive", side=8, **XS).prior
    second = System(codec, prior(), Picture(1, (8, 8)))
    return Cascade(small=System(codec, prior()), large=second)


def test_a_stage_whose_parameters_were_all_given_is_over():
    thing = shared()
    assert list(thing.stages()) == ["small.codec", "small.prior", "large.prior"]
    assert given_stages(thing, []) == []
    assert given_stages(thing, ["small.codec"]) == ["small.codec"]
    assert given_stages(thing, ["large.codec"]) == ["small.codec"]  # it is the same
    assert given_stages(thing, ["small"]) == ["small.codec", "small.prior"]
    assert given_stages(thing, ["small", "large"]) == ["small.codec", "small.prior", "large.prior"]
    assert given_stages(thing, ["small.codec.encoder", "large.prior.net"]) == ["large.prior"]
    assert given_stages(thing, ["small.codec.encoder"]) == []


def test_a_system_is_taken_and_only_the_others_are_trained(tmp_path):
    donor = small(classes=10)
    save_model(tmp_path / "small", donor)
    run = train(
        "cascade",
        "digits",
        out=tmp_path / "run",
        steps=2,
        side=16,
        quiet=True,
        from_={"small": tmp_path / "small"},
        **XS,
    )
    made = load_model(run.path)
    assert run.steps == 2  # of large.prior alone
    assert weights(made.systems["small"]) == weights(donor)
    with pytest.raises(WeightsError, match="does not fit 'large' of cascade"):
        train(
            "cascade",
            "digits",
            out=tmp_path / "no",
            steps=2,
            side=16,
            quiet=True,
            from_={"large": tmp_path / "small"},
            **XS,
        )


def test_a_tower_that_two_systems_use_is_stored_once_and_learned_once(tmp_path):
    thing = shared()
    thing.recipe = {"name": "shared", "dials": {}}
    with torch.no_grad():
        for parameter in thing.parameters():
            parameter.normal_()
    save_model(tmp_path / "m", thing)
    build = lambda name: shared()
    back = load_model(tmp_path / "m", build)
    assert back.systems["small"].codec is back.systems["large"].codec
    assert weights(back) == weights(thing)
    once = sum(t.numel() * t.element_size() for t in {id(t): t for t in tensors_of(thing)}.values())
    size = (tmp_path / "m" / "weights.safetensors").stat().st_size
    header = int.from_bytes((tmp_path / "m" / "weights.safetensors").read_bytes()[:8], "little")
    assert size == 8 + header + once


def tensors_of(thing: nn.Module):
    kept = thing.state_dict(keep_vars=True)
    return list(kept.values())
