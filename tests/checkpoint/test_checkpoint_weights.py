"""C2–C5: weights that are damaged, belong elsewhere, are too large, or come from the future."""

from __future__ import annotations

import json
import os
import resource
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from sfumato.checkpoint import check_model, disk, load_model, load_state, save_model, save_state
from sfumato.checkpoint.tensors import DTYPES, encode_tensors, hash_tensors, read_tensors
from sfumato.core.errors import WeightsError


class Net(nn.Module):
    """A tied pair, a buffer, an integer: what a state may hold."""

    def __init__(self, width: int = 4, depth: int = 1):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(width, width) for _ in range(depth)])
        self.tied = nn.Linear(width, width)
        self.tied.weight = self.layers[0].weight
        self.norm = nn.BatchNorm1d(width)
        self.recipe = {"name": "net", "dials": {"width": width, "depth": depth}}


def build(name: str, **dials) -> Net:
    return Net(**dials)


@pytest.fixture
def folder(tmp_path) -> Path:
    save_model(tmp_path / "model", Net())
    return tmp_path / "model"


def test_a_model_goes_to_disk_and_back_bit_for_bit(tmp_path):
    net = Net(depth=3)
    before = torch.random.get_rng_state()
    save_model(tmp_path / "m", net)
    loaded = load_model(tmp_path / "m", build)
    assert torch.equal(before, torch.random.get_rng_state()), "the caller's generator was moved"
    assert not loaded.training
    for name, value in net.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    recipe = json.loads((tmp_path / "m" / "recipe.json").read_text())
    assert recipe.keys() == {"name", "dials", "schema", "versions"}


def test_a_tied_weight_is_stored_once_under_its_first_name(tmp_path):
    net = Net()
    save_model(tmp_path / "m", net)
    assert set(read_tensors(tmp_path / "m" / "weights.safetensors")) == set(net.state_dict()) - {"tied.weight"}
    loaded = load_model(tmp_path / "m", build)
    assert loaded.tied.weight is loaded.layers[0].weight
    assert torch.equal(loaded.tied.weight, net.tied.weight)
    assert hash_tensors(loaded.state_dict()) == hash_tensors(net.state_dict())


def test_a_file_that_has_it_under_both_names_is_read(tmp_path):
    """As files were written before. Of another shape, it is no second name."""
    net = Net()
    save_model(tmp_path / "m", net)
    path = tmp_path / "m" / "weights.safetensors"
    (tmp_path / "m" / "manifest.json").unlink()
    path.write_bytes(b"".join(encode_tensors(net.state_dict())))
    assert torch.equal(load_model(tmp_path / "m", build).tied.weight, net.tied.weight)
    path.write_bytes(b"".join(encode_tensors(net.state_dict() | {"tied.weight": torch.zeros(3, 3)})))
    with pytest.raises(WeightsError, match=r"unexpected tied\.weight"):
        load_model(tmp_path / "m", build)


def test_an_average_reaches_every_name_of_a_tied_weight(tmp_path):
    net = Net()
    save_model(tmp_path / "m", net, {"layers.0.weight": torch.full((4, 4), 7.0)})
    loaded = load_model(tmp_path / "m", build)
    assert (loaded.tied.weight == 7).all()
    assert (loaded.layers[0].weight == 7).all()
    assert torch.equal(loaded.tied.bias, net.tied.bias)


def test_our_writer_and_the_reference_reader_agree(tmp_path):
    """Every dtype, a scalar, an empty tensor, a transposed view; read by safetensors' own code."""
    tensors = {name: torch.arange(6).reshape(2, 3).to(dtype) for name, dtype in DTYPES.items()}
    tensors |= {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 3), "view": torch.arange(6.0).reshape(2, 3).T}
    (tmp_path / "f.safetensors").write_bytes(b"".join(encode_tensors(tensors)))
    theirs, ours = load_file(tmp_path / "f.safetensors"), read_tensors(tmp_path / "f.safetensors")
    for name, value in tensors.items():
        assert torch.equal(theirs[name], value), name
        assert torch.equal(ours[name], value), name
        assert ours[name].dtype == value.dtype
    save_file({"x": torch.ones(3)}, tmp_path / "g.safetensors")
    assert torch.equal(read_tensors(tmp_path / "g.safetensors")["x"], torch.ones(3))


# ---- C2 ----


def raw(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(start: int, stop: int, shape: list[int], dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def poisoned(value: float) -> bytes:
    return b"".join(encode_tensors({"x": torch.tensor([1.0, value])}))


ONE = entry(0, 4, [1])
FAULTS = {
    "empty": (b"", "truncated"),
    "seven bytes": (b"1234567", "truncated"),
    "no safetensors": (b"PK\x03\x04" + b"x" * 100, "truncated or no safetensors"),
    "header longer than the file": ((1 << 40).to_bytes(8, "little") + b"{}", "truncated"),
    "header is no JSON": (raw(b"{not json"), "JSON"),
    "header is no UTF-8": (raw(b"\xff\xfe{}"), "JSON"),
    "header is a list": (raw([1, 2]), "JSON object"),
    "deeply nested": (raw(b"[" * 100_000), "JSON"),
    "data cut": (raw({"x": entry(0, 8, [2])}, b"1234"), "truncated"),
    "data too long": (raw({"x": ONE}, b"12345678"), "too long"),
    "overlap": (raw({"x": entry(0, 8, [2]), "y": entry(4, 12, [2])}, b"x" * 12), "overlaps"),
    "gap": (raw({"x": ONE, "y": entry(8, 12, [1])}, b"x" * 12), "gap"),
    "duplicate": (raw(b'{"x":%b,"x":%b}' % ((json.dumps(ONE).encode(),) * 2), b"1234"), "twice"),
    "negative": (raw({"x": entry(-4, 0, [1])}, b""), "no sizes"),
    "fraction": (raw({"x": entry(0, 4, [1.0])}, b"1234"), "no sizes"),
    "wrong size": (raw({"x": entry(0, 4, [2])}, b"1234"), "not those of"),
    "vast shape": (raw({"x": entry(0, 4, [1 << 62, 1 << 62])}, b"1234"), "not those of"),
    "unknown dtype": (raw({"x": entry(0, 4, [1], "F31")}, b"1234"), "dtype"),
    "no offsets": (raw({"x": {"dtype": "F32", "shape": [1]}}, b"1234"), "incomplete"),
    "entry is a number": (raw({"x": 3}), "incomplete"),
    "nan": (poisoned(float("nan")), "NaN or Inf"),
    "inf": (poisoned(float("inf")), "NaN or Inf"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_c2_damaged_weights_name_file_and_reason_before_any_tensor_is_read(tmp_path, monkeypatch, fault):
    """What a header shows is refused by the header: the file is opened as tensors only to find NaN and Inf."""
    content, reason = FAULTS[fault]
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    if fault not in ("nan", "inf"):
        monkeypatch.setattr("sfumato.checkpoint.tensors.safe_open", lambda *_, **__: pytest.fail("it read tensors"))
    with pytest.raises(WeightsError, match=reason) as caught:
        read_tensors(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("fault", FAULTS)
def test_c2_a_model_with_damaged_weights_is_refused(folder, fault):
    (folder / "weights.safetensors").write_bytes(FAULTS[fault][0])
    with pytest.raises(WeightsError, match=r"weights\.safetensors"):
        load_model(folder, build)


@pytest.mark.parametrize("name", ["recipe.json", "weights.safetensors"])
def test_c2_missing_and_altered_files_are_named(folder, name):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
    with pytest.raises(WeightsError, match=name):
        load_model(folder, build)
    (folder / name).unlink()
    with pytest.raises(WeightsError, match=name):
        load_model(folder, build)


# ---- C3, C4 ----


def test_c3_weights_of_another_model_name_both_and_load_nothing(tmp_path):
    save_model(tmp_path / "a", Net(depth=2))
    other = Net(width=6, depth=30)
    other.recipe["name"] = "stranger"
    save_model(tmp_path / "b", other)
    (tmp_path / "a" / "weights.safetensors").write_bytes((tmp_path / "b" / "weights.safetensors").read_bytes())
    with pytest.raises(WeightsError) as caught:
        load_model(tmp_path / "a", build)
    message = str(caught.value)
    assert "'stranger'" in message
    assert "'net'" in message
    listed = [line.split()[0] for line in message.splitlines() if line.startswith("  ")]
    assert len(listed) == 11
    assert listed[-1] == "…"
    assert "  unexpected layers." in message


def test_c3_lists_missing_and_reshaped(tmp_path):
    """A file that lacks one tensor and has another in the wrong shape, and vouches for itself correctly."""
    net = Net()
    save_model(tmp_path / "m", net)
    tensors = net.state_dict()
    del tensors["tied.bias"]
    tensors["norm.weight"] = torch.ones(9)
    (tmp_path / "m" / "weights.safetensors").write_bytes(b"".join(encode_tensors(tensors)))
    with pytest.raises(WeightsError, match=r"missing tied\.bias(.|\n)*reshaped norm\.weight: \(9,\), not \(4,\)"):
        load_model(tmp_path / "m", build)


def test_c4_sizes_are_checked_before_anything_is_allocated(folder):
    """A recipe.json that asks for 4 TB: the refusal comes from the meta device, where it is built once and nowhere
    else, and without the memory."""
    recipe = json.loads((folder / "recipe.json").read_text())
    recipe["dials"]["width"] = 1_000_000
    (folder / "recipe.json").write_text(json.dumps(recipe))
    devices = []

    def watched(name: str, **dials) -> Net:
        devices.append(torch.get_default_device().type)
        return build(name, **dials)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(WeightsError, match="reshaped"):
        load_model(folder, watched)
    assert devices == ["meta"]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


# ---- C5 ----


@pytest.mark.parametrize("name", ["recipe.json", "manifest.json"])
def test_c5_a_newer_schema_is_refused_with_both_versions(folder, name):
    record = json.loads((folder / name).read_text())
    record["schema"] = 7
    (folder / name).write_text(json.dumps(record))
    with pytest.raises(WeightsError, match=r"schema 7.*up to schema 1"):
        load_model(folder, build)


GOLDEN = Path(__file__).parent / "golden" / "schema1"


def test_c5_the_first_schema_stays_readable():
    """A model written by the first release, kept in the repository as it was."""
    loaded = load_model(GOLDEN, build)
    assert torch.equal(loaded.tied.bias, torch.tensor([0.0, 1.0, 2.0, 3.0]))


def test_a_model_composed_by_hand_is_refused(tmp_path):
    net = Net()
    net.recipe = {}
    with pytest.raises(WeightsError, match="composed by hand"):
        save_model(tmp_path / "m", net)
    assert not (tmp_path / "m").exists()


def test_a_run_without_a_model_says_what_to_do(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(WeightsError, match="sfumato resume"):
        load_model(tmp_path, build)


def test_dials_that_the_recipe_refuses_are_no_traceback(folder):
    recipe = json.loads((folder / "recipe.json").read_text())
    recipe["dials"]["colour"] = "red"
    (folder / "recipe.json").write_text(json.dumps(recipe))
    with pytest.raises(WeightsError, match="refuses its dials"):
        load_model(folder, build)


# ---- what vouches, and what is no plain file ----


@pytest.mark.parametrize("dtype", [torch.int32, torch.bool, torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_dtype_are_refused(tmp_path, dtype):
    """A file that vouches for itself: names and shapes are the recipe's, the numbers are not."""
    net = Net()
    save_model(tmp_path / "m", net)
    retype(tmp_path / "m", {name: t.to(dtype) if t.is_floating_point() else t for name, t in net.state_dict().items()})
    word = str(dtype).removeprefix("torch.")
    with pytest.raises(WeightsError, match=rf"retyped layers\.0\.weight: {word}, not float32"):
        load_model(tmp_path / "m", build)
    if not dtype.is_floating_point:
        with pytest.raises(WeightsError, match="not what was learned"):
            load_model(tmp_path / "m", build, dtype=torch.float32)


def test_floating_weights_are_converted_where_a_dtype_is_asked_for(tmp_path):
    net = Net()
    save_model(tmp_path / "m", net)
    retype(tmp_path / "m", {name: t.half() if t.is_floating_point() else t for name, t in net.state_dict().items()})
    loaded = load_model(tmp_path / "m", build, dtype=torch.float32)
    assert loaded.norm.num_batches_tracked.dtype == torch.int64
    for name, value in net.state_dict().items():
        found = loaded.state_dict()[name]
        assert torch.equal(found, value.half().to(value.dtype) if value.is_floating_point() else value), name
    assert load_model(tmp_path / "m", build, dtype=torch.bfloat16).tied.weight.dtype == torch.bfloat16


def retype(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    (folder / "weights.safetensors").write_bytes(b"".join(encode_tensors(tensors)))
    vouch(folder, ("recipe.json", "weights.safetensors"))


def vouch(folder: Path, names: tuple[str, ...]) -> None:
    """A manifest that is true of these files and knows no others."""
    lines = {n: {"sha256": disk.hash_file(folder / n), "bytes": (folder / n).stat().st_size} for n in names}
    (folder / "manifest.json").write_text(json.dumps({"schema": 1, "files": lines}))


@pytest.mark.parametrize("left", ["recipe.json", "weights.safetensors"])
def test_a_manifest_of_a_part_of_the_files_vouches_for_none(folder, left):
    vouch(folder, (left,))
    with pytest.raises(WeightsError, match="only a part of the files"):
        check_model(folder, build)
    vouch(folder, ("recipe.json", "weights.safetensors"))
    assert check_model(folder, build)["name"] == "net"


def test_a_manifest_of_a_part_of_a_checkpoint_vouches_for_none(tmp_path):
    save_state(tmp_path / "checkpoints" / "1", {"a": torch.ones(2)}, {})
    vouch(tmp_path / "checkpoints" / "1", ("state.json",))
    with pytest.raises(WeightsError, match=r"state\.safetensors not"):
        load_state(tmp_path / "checkpoints" / "1")


@pytest.mark.parametrize("line", [{}, {"sha256": 3, "bytes": 1}, {"sha256": "a", "bytes": "1"}, [], None])
def test_a_line_of_a_manifest_that_says_nothing_is_damage(folder, line):
    record = json.loads((folder / "manifest.json").read_text())
    record["files"]["recipe.json"] = line
    (folder / "manifest.json").write_text(json.dumps(record))
    with pytest.raises(WeightsError, match="no line of ours"):
        load_model(folder, build)


@pytest.mark.timeout(60)  # a reader that waits for a writer waits for ever
@pytest.mark.parametrize("name", ["recipe.json", "weights.safetensors", "manifest.json"])
def test_a_pipe_is_refused_without_waiting(folder, name):
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(WeightsError, match=rf"{name} cannot be read: it is no plain file"):
        load_model(folder, build)


@pytest.mark.parametrize("name", ["recipe.json", "weights.safetensors", "manifest.json"])
def test_a_link_out_of_the_folder_is_not_followed(folder, tmp_path, name):
    (folder / name).rename(tmp_path / name)
    (folder / name).symlink_to(tmp_path / name)
    with pytest.raises(WeightsError, match="link out of its folder"):
        load_model(folder, build)


def test_the_links_of_the_hubs_cache_are_followed(folder, tmp_path):
    """snapshots/REVISION/FILE → blobs/HASH, as huggingface_hub lays it out."""
    cache, blobs = tmp_path / "models--o--n" / "snapshots" / "0a1b", tmp_path / "models--o--n" / "blobs"
    cache.mkdir(parents=True)
    blobs.mkdir()
    for path in folder.iterdir():
        path.rename(blobs / path.name)
        (cache / path.name).symlink_to(Path("../../blobs") / path.name)
    assert load_model(cache, build).recipe["name"] == "net"


@pytest.mark.parametrize("name", ["os.system", "ldm2", "", "../../etc/passwd"])
def test_a_recipe_that_no_table_has_is_called_newer_or_not_ours(folder, name):
    recipe = json.loads((folder / "recipe.json").read_text())
    recipe |= {"name": name, "versions": {"sfumato": "9.9"}}
    (folder / "recipe.json").write_text(json.dumps(recipe))
    vouch(folder, ("recipe.json", "weights.safetensors"))
    for read in (check_model, load_model):
        with pytest.raises(WeightsError, match=r"made by sfumato 9\.9, or is not ours"):
            read(folder)
