"""Every verb as a user meets it: a process, its exit code, what it prints and what it writes."""

import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_process import sfumato
from PIL import Image
from safetensors.torch import load_file, save_file

from sfumato.cli import main
from sfumato.cli.parser import Parser
from sfumato.cli.verbs import VERBS
from sfumato.core.errors import Diverged, WeightsError

DOCS = Path(__file__).parents[2] / "docs"


def here(capsys, *words):
    """(exit code, stdout, stderr) of a verb in this process: quicker, for what needs no process of its own."""
    code = main([str(word) for word in words])
    said = capsys.readouterr()
    return code, said.out, said.err


# ---- the door ----


def heavy(*words):
    """(what of the slow packages `sfumato WORDS` imports, its output): what costs the time, and is not the machine's.
    torch alone takes more than a second of a processor, the interpreter 0.02."""
    code = (
        "import sys, json; from sfumato.cli import main; code = main(sys.argv[1:])\n"
        "slow = {'torch', 'numpy', 'PIL', 'matplotlib', 'accelerate'} & set(sys.modules)\n"
        "sys.stderr.write(json.dumps(sorted(slow)))\n"
        "sys.exit(code)"
    )
    words = [sys.executable, "-c", code, *words]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stderr), done.stdout


def test_the_list_of_verbs_needs_no_torch():
    imported, said = heavy("--help")
    assert imported == []
    assert all(verb in said for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself_with_an_example(verb, capsys):
    code, out, _ = here(capsys, verb, "--help")
    assert code == 0
    assert f"sfumato {verb} " in out.split("example:")[1]


@pytest.mark.parametrize("verb", [v for v in VERBS if v not in ("list", "data", "train", "info", "completion")])
def test_a_run_that_is_not_there_is_a_usage_error(verb, capsys, tmp_path):
    picture = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(picture)
    more = {
        "reconstruct": [picture],
        "encode": [picture, "--out", tmp_path / "z.safetensors"],
        "decode": [tmp_path / "z.safetensors"],
        "edit": [picture, "--mask", picture],
        "interpolate": [picture, picture],
        "extend": [picture, "--right", 4],
        "upscale": [picture],
        "score": ["digits"],
        "push": ["someone/run"],
        "classify": [picture],
        "embed": [picture, "--out", tmp_path / "e.safetensors"],
    }
    save_file({"latent": torch.zeros(1, 2)}, tmp_path / "z.safetensors")
    code, out, err = here(capsys, verb, tmp_path / "nowhere", *more.get(verb, []))
    assert (code, out) == (2, "")
    assert "nowhere" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["smaple"], "Did you mean 'sample'?"),
        (["list", "recipies"], "Did you mean 'recipes'?"),
        (["info", "vqgann"], "Did you mean 'vqgan'?"),
        (["info", "vqgan", "--sise", "xs"], "Did you mean '--size'?"),
        (["info", "vqgan", "--size", "x"], "Did you mean 'xs'?"),
        (["info", "vqgan", "--codes", "many"], "--codes takes int, not 'many'"),
        (["data", "emojis"], "Did you mean 'emoji'?"),
        (["train", "dppm", "digits", "--out", "x"], "Did you mean 'ddpm'?"),
        (["train", "ddpm", "digit", "--out", "x"], "Did you mean 'digits'?"),
        (["train", "ddpm", "digits", "--out", "x", "--steps", "1", "--minutes", "1"], "steps or by minutes"),
        (["train", "ddpm", "digits", "--out", "x", "--from", "codec"], "STAGE=RUN"),
        (["train", "ddpm", "digits"], "needs OUT"),
        (["train", "ddpm", "digits", "--out", "x", "--precision", "fp8"], "--precision"),
        (["sample"], "needs RUN"),
        (["sample", "x", "-n", "few"], "--number takes int"),
        (["score", "x", "digits", "--metrics", "fdd"], "Did you mean 'fd'?"),
        (["score", "x", "digits", "one-more"], "one word too many"),
    ],
)
def test_wrong_words_exit_2_with_the_nearest(words, answer, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = here(capsys, *words)
    assert (code, out) == (2, "")
    assert answer in err
    assert len(err.strip().splitlines()) <= 2


def test_conditions_may_be_said_at_once_or_one_by_one():
    parser = Parser(VERBS["sample"])
    VERBS["sample"].options(parser, [])
    parsed = parser.parse(["run", "--text", "a: b", "--text", "null", "1", "--label", "2"])
    assert (parsed.text, parsed.label) == (["a: b", "null", "1"], ["2"])


def test_bad_data_exit_3(capsys, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("no picture")
    code, _, err = here(capsys, "train", "ddpm", tmp_path / "photos", "--out", tmp_path / "run", "--size", "xs")
    assert code == 3
    assert "0 usable" in err


@pytest.mark.parametrize(
    ("error", "code"),
    [(Diverged("it"), 4), (WeightsError("it"), 1), (KeyboardInterrupt(), 130), (RuntimeError("it"), 1)],
)
def test_errors_have_their_exit_codes_and_a_line_or_two(error, code, capsys, monkeypatch):
    def fail(words):
        raise error

    monkeypatch.setattr("sfumato.cli._verb", fail)
    found, _, err = here(capsys, "list")
    assert found == code
    assert 1 <= len(err.strip().splitlines()) <= 2
    assert here(capsys, "list", "--debug")[0] == code


def test_debug_shows_the_traceback(capsys):
    assert "Traceback" in here(capsys, "info", "nothing", "--debug")[2]


def test_an_orderly_stop_exits_143(tmp_path):
    """SIGTERM in the middle of a training: it saves, says nothing alarming, and resume ends the work."""
    words = ["train", "ddpm", "digits", "--out", "run", "--size", "xs", "--steps", 100000, "--score", 0]
    command = [sys.executable, "-m", "sfumato", *map(str, words)]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    log = tmp_path / "run" / "metrics.jsonl"
    for _ in range(600):
        if log.exists() and log.read_text().count("\n") > 1:
            break
        time.sleep(0.1)
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "Traceback" not in err
    assert "sfumato resume" in err
    assert any((tmp_path / "run" / "checkpoints").iterdir())


# ---- what reports ----


@pytest.mark.parametrize(
    ("topic", "known"),
    [
        ("recipes", {"ddpm", "vqgan", "ldm"}),
        ("codecs", {"vqgan", "dequantised"}),
        ("priors", {"flow", "masked"}),
        ("data", {"emoji"}),
        ("metrics", {"fd", "bits"}),
    ],
)
def test_list(topic, known, capsys):
    code, out, _ = here(capsys, "list", topic, "--json")
    assert code == 0
    rows = json.loads(out)
    assert known <= {row["name"] for row in rows}
    assert all(row["summary"] and "source" in row for row in rows)
    plain = here(capsys, "list", topic)[1].splitlines()
    assert [line.split("\t")[0] for line in plain] == [row["name"] for row in rows]


def test_info_counts_what_the_recipe_builds(capsys):
    from sfumato.recipes import build

    code, out, _ = here(capsys, "info", "vq-ar", "--size", "xs", "--classes", 7, "--json")
    assert code == 0
    facts = json.loads(out)
    system = build("vq-ar", size="xs", classes=7)
    count = lambda part: sum(p.numel() for p in part.parameters())
    assert facts["parameters"] == {
        "total": count(system),
        "codec": count(system.codec),
        "prior": count(system.prior),
        "conditioner": count(system.conditioner),
    }
    assert (facts["name"], facts["size"], facts["dials"]["classes"]) == ("vq-ar", "xs", 7)
    assert list(facts["stages"]) == ["codec", "prior"]
    assert facts["space"] == str(system.codec.space)
    assert facts["options"] == ["temperature", "top_k", "top_p", "order", "head_steps"]


@pytest.mark.parametrize("recipe", ["vdvae", "deep-vae"])
def test_info_counts_a_ladder_on_shapes_alone(capsys, recipe):
    """At a size that is never allocated: parameters, operations and memory are all numbers."""
    facts = json.loads(here(capsys, "info", recipe, "--size", "paper", "--json")[1])
    assert facts["parameters"]["prior"] > 38e6
    assert facts["compute"]["prior"] > 1e10
    assert facts["memory"]["per_picture"]["prior"] > 1e8


def test_info_of_a_part_that_is_absent_is_0(capsys):
    facts = json.loads(here(capsys, "info", "ddpm", "--size", "xs", "--json")[1])
    assert facts["parameters"]["codec"] == facts["parameters"]["conditioner"] == 0
    assert facts["parameters"]["total"] == facts["parameters"]["prior"] > 0


def test_info_of_a_cascade_lists_its_stages(capsys):
    facts = json.loads(here(capsys, "info", "cascade", "--size", "xs", "--json")[1])
    assert list(facts["stages"]) == ["small.prior", "large.prior"]
    own = [system["parameters"]["total"] for system in facts["systems"].values()]
    assert sum(own) == facts["parameters"]["total"]
    assert [stage["parameters"] for stage in facts["stages"].values()] == own


def test_info_of_the_published_size_needs_no_memory(capsys):
    facts = json.loads(here(capsys, "info", "ldm", "--size", "paper", "--json")[1])
    assert facts["parameters"]["total"] > 3e8
    assert facts["compute"]["prior"] > 1e10


def test_data_tells_what_it_skips(capsys, tmp_path):
    for k in range(3):
        Image.new("RGB", (9, 9), (k, 0, 0)).save(tmp_path / f"{k}.png")
        (tmp_path / f"{k}.txt").write_text(f"picture {k}")
    (tmp_path / "bad.jpg").write_bytes(b"")
    code, out, err = here(capsys, "data", tmp_path, "--json")
    assert code == 3  # one of four is more than a training bears
    assert "25%, at most 5%" in err
    facts = json.loads(out)
    assert (facts["images"], facts["captions"]) == (3, 3)
    assert [bad["file"] for bad in facts["skipped"]] == ["bad.jpg"]
    assert all(bad["reason"] for bad in facts["skipped"])
    assert isinstance(facts["warnings"], list)
    code, out, err = here(capsys, "data", tmp_path, "--allow-bad", 0.25)
    assert (code, err) == (0, "")
    assert "bad.jpg" in out


# ---- a run ----


def test_train_writes_a_run_and_says_so(trained):
    run, done = trained
    facts = json.loads(done.stdout)
    assert facts["steps"] == 24
    for name in ("recipe.json", "data.json", "metrics.jsonl", "model/weights.safetensors", "report.html"):
        assert (run / name).is_file(), name
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 24
    dials = json.loads((run / "recipe.json").read_text())["dials"]
    assert (dials["classes"], dials["channels"]) == (10, 1)  # what the digits say of themselves


def test_resume_of_a_finished_run_changes_nothing(trained, capsys):
    run, _ = trained
    before = (run / "model" / "weights.safetensors").read_bytes()
    code, out, _ = here(capsys, "resume", run, "--score", 0, "--json")
    assert (code, json.loads(out)["steps"]) == (0, 24)
    assert (run / "model" / "weights.safetensors").read_bytes() == before


def test_info_of_a_run(trained, capsys):
    facts = json.loads(here(capsys, "info", trained[0], "--json")[1])
    assert (facts["name"], facts["steps"], facts["data_set"]["images"]) == ("vq-ar", 24, 1498)


def test_a_stage_is_taken_over(trained, capsys, tmp_path):
    run, _ = trained
    words = ["train", "vq-ar", "digits", "--out", tmp_path / "second", "--size", "xs", "--steps", 1, "--score", 0]
    code, _, err = here(capsys, *words, "--from", f"codec={run}")
    assert code == 0, err
    mine, theirs = (load_file(folder / "model" / "weights.safetensors") for folder in (tmp_path / "second", run))
    codec = [name for name in theirs if name.startswith("codec.")]
    assert codec
    assert all(torch.equal(mine[name], theirs[name]) for name in codec)


def test_a_folder_that_holds_a_run_is_refused(trained, capsys):
    code, _, err = here(capsys, "train", "vq-ar", "digits", "--out", trained[0], "--size", "xs")
    assert code == 2
    assert "resume" in err


def test_samples_are_named_by_seed_and_say_what_they_are(trained, capsys, tmp_path):
    run, _ = trained
    words = ["sample", run, "--label", "3", "7", "-n", 3, "--seed", 5, "--guidance", 2, "--top-k", 9]
    code, out, err = here(capsys, *words, "--out", tmp_path, "--json")
    assert code == 0, err
    assert json.loads(out)["written"] == [str(tmp_path / f"{seed}.png") for seed in (5, 6, 7)]
    image = Image.open(tmp_path / "6.png")
    assert image.size == (16, 16)
    chunks = {"run": str(run), "seed": "6", "prompt": "7", "guidance": "2.0", "top_k": "9"}
    assert image.text == chunks
    again = tmp_path / "again"
    here(capsys, *words, "--out", again)
    assert (again / "6.png").read_bytes() == (tmp_path / "6.png").read_bytes()


def test_an_option_without_a_name_of_its_own_is_given_as_name_and_value(trained, capsys, tmp_path):
    """The same numbers by either way, and the same picture; a word that is no JSON is a word."""
    run, _ = trained
    here(capsys, "sample", run, "--label", "3", "-n", 1, "--top-k", 2, "--temperature", 0.5, "--out", tmp_path / "a")
    code, _, err = here(
        capsys,
        "sample",
        run,
        "--label",
        "3",
        "-n",
        1,
        "--option",
        "top-k=2",
        "temperature=0.5",
        "--out",
        tmp_path / "b",
    )
    assert code == 0, err
    one, other = (Image.open(tmp_path / name / "0.png") for name in "ab")
    assert one.tobytes() == other.tobytes()
    assert (one.text["top_k"], one.text["temperature"]) == (other.text["top_k"], other.text["temperature"])
    code, _, err = here(capsys, "sample", run, "-n", 1, "--option", "order=column", "--out", tmp_path / "c")
    assert code == 2
    assert "learned one order, 'raster'" in err


def test_samples_are_those_of_the_python_face(trained, capsys, tmp_path):
    import sfumato as face

    system = face.load(trained[0])
    assert not system.training
    images = system.sample(2, {"label": torch.tensor([4, 4])}, seeds=[1, 2])
    here(capsys, "sample", trained[0], "--label", "4", "-n", 2, "--seed", 1, "--out", tmp_path)
    drawn = np.stack([np.asarray(Image.open(tmp_path / f"{seed}.png").convert("L")) for seed in (1, 2)])
    assert np.array_equal(drawn, ((images[:, 0] + 1) * 127.5).round().byte().numpy())


def test_a_grid_names_its_prompts_and_seeds(trained, capsys, tmp_path):
    here(capsys, "sample", trained[0], "--label", "1", "2", "--out", tmp_path / "grid.png")
    text = Image.open(tmp_path / "grid.png").text
    assert json.loads(text["seed"]) == [0, 1]
    assert json.loads(text["prompt"]) == ["1", "2"]
    assert text["run"] == str(trained[0])


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["--label", "frog"], "No class is called 'frog'"),
        (["--label", "10"], "No class is called '10'"),
        (["--text", "frog"], "conditioned on label"),
        (["--solver", "ddim"], "no sampling option 'solver'"),
        (["--option", "temperatur=0.7"], "Did you mean 'temperature'"),
        (["--option", "temperature"], "--option takes NAME=VALUE"),
        (["-n", "0"], "at least 1"),
        (["--device", "toaster"], "--device toaster"),
    ],
)
def test_what_a_run_cannot_do_is_a_usage_error(words, answer, trained, capsys, tmp_path):
    code, _, err = here(capsys, "sample", trained[0], *words, "--out", tmp_path / "x.png")
    assert code == 2
    assert answer in err
    assert not (tmp_path / "x.png").exists()


def test_there_and_back(trained, capsys, tmp_path):
    """encode then decode is reconstruct, pixel by pixel."""
    run, _ = trained
    pixels = np.random.default_rng(0).integers(0, 256, (2, 16, 16), dtype=np.uint8)
    files = [tmp_path / f"{name}.png" for name in "ab"]
    for file, array in zip(files, pixels):
        Image.fromarray(array).save(file)
    code, out, err = here(capsys, "reconstruct", run, *files, "--out", tmp_path / "back", "--json")
    assert code == 0, err
    scores = json.loads(out)["images"]
    assert [score["file"] for score in scores] == list(map(str, files))
    assert here(capsys, "encode", run, *files, "--out", tmp_path / "z.safetensors")[0] == 0
    assert load_file(tmp_path / "z.safetensors")["latent"].shape == (2, 16)
    assert here(capsys, "decode", run, tmp_path / "z.safetensors", "--out", tmp_path / "decoded")[0] == 0
    for i, (name, array, score) in enumerate(zip("ab", pixels, scores)):
        back = np.asarray(Image.open(tmp_path / "back" / f"{name}.png").convert("L"))
        assert np.array_equal(back, np.asarray(Image.open(tmp_path / "decoded" / f"{i}.png").convert("L")))
        error = ((back.astype(float) - array) / 255) ** 2
        assert score["psnr"] == pytest.approx(-10 * np.log10(error.mean()), abs=1e-3)
    assert here(capsys, "reconstruct", run, *files, "--out", tmp_path / "grid.png")[0] == 0


def test_edit_leaves_what_is_dark_in_the_mask(trained, capsys, tmp_path):
    run, _ = trained
    image = np.random.default_rng(1).integers(0, 256, (16, 16), dtype=np.uint8)
    mask = np.zeros((16, 16), np.uint8)
    mask[4:12, 4:12] = 255
    Image.fromarray(image).save(tmp_path / "image.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    words = ["edit", run, tmp_path / "image.png", "--mask", tmp_path / "mask.png", "--label", "3", "-n", 2]
    code, _, err = here(capsys, *words, "--out", tmp_path / "edited")
    assert code == 0, err
    edited = np.asarray(Image.open(tmp_path / "edited" / "1.png").convert("L"))
    assert np.array_equal(edited[mask == 0], image[mask == 0])
    assert not np.array_equal(edited, image)
    Image.fromarray(mask * 0).save(tmp_path / "mask.png")
    assert here(capsys, *words, "--out", tmp_path / "x")[0] == 2


def test_interpolate_draws_its_frames(trained, capsys, tmp_path):
    for name in "ab":
        Image.new("L", (16, 16), 50 * ord(name) % 256).save(tmp_path / f"{name}.png")
    words = ["interpolate", trained[0], tmp_path / "a.png", tmp_path / "b.png", "--frames", 3]
    assert here(capsys, *words, "--out", tmp_path / "way")[0] == 0
    assert sorted(path.name for path in (tmp_path / "way").iterdir()) == ["000.png", "001.png", "002.png"]
    assert here(capsys, *words[:-1], 1)[0] == 2


def test_score_writes_scores_with_their_protocol(trained, capsys, tmp_path):
    words = ["score", trained[0], "digits", "--metrics", "psnr,usage", "-n", 16, "--features", "random"]
    code, out, err = here(capsys, *words, "--json", "--out", tmp_path / "scores.json")
    assert code == 0, err
    found = json.loads(out)
    assert set(found) == {"scores", "protocol"}
    assert set(found["scores"]) == {"psnr", "usage"}
    assert found["protocol"]["reference"]["count"] == 16
    kept = json.loads((tmp_path / "scores.json").read_text())
    assert kept["scores"] == found["scores"]
    assert kept["protocol"] == {**found["protocol"], "split": "train"}
    assert [record["name"] for record in kept["records"]] == ["psnr", "usage"]
    # another measurement is added, and what was measured before stays
    words = ["score", trained[0], "digits", "--metrics", "ssim", "-n", 8, "--features", "random", "--split", "test"]
    assert here(capsys, *words, "--out", tmp_path / "scores.json")[0] == 0
    again = json.loads((tmp_path / "scores.json").read_text())
    assert set(again["scores"]) == {"psnr", "usage", "ssim"}
    assert again["records"][:2] == kept["records"]
    assert [r["protocol"]["split"] for r in again["records"]] == ["train", "train", "test"]


def test_a_reader_that_leaves_is_no_error(tmp_path):
    command = f"{sys.executable} -m sfumato list metrics | head -c 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.stderr == ""


def test_the_module_is_the_command(tmp_path):
    done = sfumato("--version")
    assert (done.returncode, done.stdout.split()[0]) == (0, "sfumato")
    assert sfumato().returncode == 2


@pytest.mark.parametrize("said", [{}, {"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "active"}])
def test_threads_wait_politely_unless_the_user_has_said_how(monkeypatch, said):
    """Figures beside cli._wait_politely; set before torch is imported, which is when libgomp reads it."""
    environment = dict(said)
    monkeypatch.setattr("sfumato.cli.os.environ", environment)
    assert main(["--version"]) == 0
    assert environment == (said or {"GOMP_SPINCOUNT": "1000"})


# ---- the pages ----


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_a_page_that_names_its_options(verb):
    page = (DOCS / "verbs" / f"{verb}.md").read_text()
    parser = Parser(VERBS[verb])
    VERBS[verb].options(parser, [])
    flags = {action.option_strings[-1] for action in parser._actions if action.option_strings}
    short = {"--number": "-n"}
    missing = [flag for flag in flags - {"--help", "--debug"} if short.get(flag, flag) not in page]
    assert missing == []
    assert f"verbs/{verb}.md" in (DOCS / "index.md").read_text()


def commands():
    """Every `sfumato …` line of a page's code blocks."""
    for path in sorted([*(DOCS / "verbs").glob("*.md"), DOCS / "index.md"]):
        for line in path.read_text().splitlines():
            if line.startswith("sfumato "):
                yield line.split("#")[0].strip()


@pytest.mark.parametrize("line", commands())
def test_every_command_of_the_pages_can_be_parsed(line):
    verb, *words = shlex.split(line)[1:]
    parser = Parser(VERBS[verb])
    VERBS[verb].options(parser, words)
    parser.parse(words)
