"""Help, lists, files of options, completion, and what people type who come from elsewhere: all without torch."""

import json
import random
import shutil
import subprocess
import sys
from io import StringIO

import pytest
from rich.console import Console

from sfumato.cli import console, elsewhere, main
from sfumato.cli.completion import flags
from sfumato.cli.index import PLACE, index, live
from sfumato.cli.parser import Parser
from sfumato.cli.verbs import VERBS
from sfumato.core.errors import UsageError
from sfumato.train.fit import Step
from sfumato.train.log import Bar
from sfumato.train.stop import Stopped

SLOW = {"torch", "numpy", "PIL", "matplotlib", "accelerate", "huggingface_hub"}


def parsed(verb, *words):
    parser = Parser(VERBS[verb])
    VERBS[verb].options(parser, list(map(str, words)))
    return parser.parse(list(map(str, words)))


def said(capsys, *words):
    """(exit code, stdout, stderr)"""
    code = main(list(map(str, words)))
    out = capsys.readouterr()
    return code, out.out, out.err


def quick(*words):
    """The output of a process that may not import what is slow: that is where the seconds would go, on any machine."""
    code = (
        "import sys; from sfumato.cli import main; code = main(sys.argv[2:])\n"
        "slow = set(sys.argv[1].split()) & set(sys.modules)\n"
        "sys.exit(f'it imported {slow}' if slow else code)"
    )
    words = [sys.executable, "-c", code, " ".join(SLOW), *words]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout


# ---- the index ----


def test_the_index_says_what_the_tables_say():
    assert json.loads(PLACE.read_text("utf8")) == json.loads(json.dumps(live())), "run tools/make_index.py"


@pytest.mark.parametrize(
    "words",
    [
        *(["list", topic, "--json"] for topic in ("recipes", "codecs", "priors", "data", "metrics")),
        ["train", "--help"],
        ["train", "vqgan", "--help"],
        ["info", "ldm", "--help"],
        ["sample", "--help"],
        ["completion", "bash"],
    ],
)
def test_lists_and_help_import_nothing_slow(words):
    assert quick(*words)


def test_a_dial_explains_itself_and_lists_its_choices(capsys):
    _, out, _ = said(capsys, "train", "gan", "--help")
    text = " ".join(out.split())
    for dial in next(row["dials"] for row in index()["recipes"] if row["name"] == "gan"):
        if dial["name"] not in ("size", "side"):  # of which `train` speaks by itself
            assert " ".join(dial["help"].split()) in text, dial["name"]
            assert all(str(choice) in text for choice in dial["choices"] or ())
    assert all(dial["help"] for row in index()["recipes"] for dial in row["dials"])


def test_a_pair_without_a_name_has_its_dials_too(capsys):
    assert "--codec" in said(capsys, "train", "vqvae+masked", "--help")[1]


# ---- words ----


def test_a_run_behind_an_option_of_several_values_is_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "a.png").touch()
    found = parsed("sample", "--text", "a cat", "a dog", "runs")
    assert (found.run, found.text) == ("runs", ["a cat", "a dog"])
    found = parsed("sample", "--label", "1", "--text", "a cat", "hub:someone/vae", "-n", "2")
    assert (found.run, found.text, found.label, found.number) == ("hub:someone/vae", ["a cat"], ["1"], 2)
    found = parsed("edit", "--text", "a cat", "runs", "a.png", "--mask", "a.png")
    assert (found.run, found.image, found.text) == ("runs", "a.png", ["a cat"])
    found = parsed("sample", "runs", "--text", "a.png", "runs")  # nothing is missing, so all are captions
    assert (found.run, found.text) == ("runs", ["a.png", "runs"])
    for words in (["--text", "a cat", "nowhere"], ["--text", "runs"]):
        with pytest.raises(UsageError, match="needs RUN"):
            parsed("sample", *words)


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["train", "ddpm", "x", "--out", "r", "--epochs", "3"], "--steps N for each stage or --minutes M"),
        (["train", "ddpm", "x", "--out", "r", "--lr", "1e-4"], "the recipe's own"),
        (["train", "ddpm", "x", "--out", "r", "--batch-size", "3"], "Here it is --batch."),
        (["train", "ddpm", "x", "--out", "r", "--resolution=64"], "Here it is --side."),
        (["train", "ddpm", "x", "--outdir", "r"], "Here it is --out."),
        (["train", "ddpm", "x", "--out", "r", "--codes", "3"], "It is a dial of vqvae"),
        (["train", "ddpm", "x", "--out", "r", "--minuets", "3"], "Did you mean '--minutes'?"),
        (["train", "ddpm", "x", "--out", "r", "--zzz"], "`sfumato train --help` lists what there is."),
        (["train", "ddpm", "x", "--out", "r", "--bach", "3"], "Did you mean '--batch'?"),
        (["sample", "r", "--prompt", "a cat"], "Here it is --text."),
        (["sample", "r", "--cfg_scale", "3"], "Here it is --guidance."),
        (["sample", "r", "--num-samples", "3"], "Here it is --number."),
        (["sample", "r", "--num-inference-steps", "3"], "Here it is --steps."),
        (["sample", "r", "--negative-prompt", "dog"], "no negative prompts"),
        (["sample", "r", "--epochs", "3"], "there are no epochs"),
        (["score", "r", "x", "--sampler", "3"], "lists what there is"),
    ],
)
def test_a_flag_of_another_program_is_answered_with_ours(words, answer, capsys):
    code, out, err = said(capsys, *words)
    assert (code, out) == (2, "")
    assert answer in err
    assert len(err.strip().splitlines()) == 1


def test_whatever_the_table_of_other_flags_leads_to_exists():
    everywhere = {flag for known in flags(VERBS).values() for flag in known}
    assert set(elsewhere.SAME) <= everywhere
    words = [word for theirs in (*elsewhere.SAME.values(), *elsewhere.SAID) for word in theirs.split()]
    assert len(words) == len(set(words)), "a word with two answers"


ODD = [
    "",
    " ",
    "-",
    "--",
    "---",
    "-n",
    "--text",
    "--seed",
    "null",
    "{}",
    "[",
    "{",
    "a: b",
    "!!python/object:os",
    "&a *a",
    "%s",
    "%",
    "nan",
]
ODD += [
    "1e999",
    "\0",
    "ß",
    "🍎",
    "=",
    "--=",
    "--seed=",
    "--seed=[1]",
    "--text={a: 1}",
    "--config=",
    "--config",
    "/",
    "--print_config",
    "@x",
]
ODD += [
    "--print_config=x",
    "x" * 5000,
    "-1",
    "--option",
    "a=b",
    "--steps=0x10",
    "--json=3",
    "--debug=3",
    "--help=3",
    "../..",
    "~nobody/x",
]


def test_odd_words_are_answered_in_a_sentence(tmp_path, monkeypatch):
    """2,000 lines of odd words for every verb: they are parsed or are a UsageError, never anything else."""
    monkeypatch.chdir(tmp_path)
    draw = random.Random(0)
    for _ in range(2000):
        verb = draw.choice(list(VERBS))
        words = draw.choices([*ODD, "ddpm", "vqgan", "digits", "run", "--out", "--side"], k=draw.randint(0, 6))
        monkeypatch.setattr("sys.stdout", StringIO())
        answer, code = "", 0
        try:
            parsed(verb, *words)
        except UsageError as error:
            answer = str(error)
        except SystemExit as asked:  # --help, --print_config
            code = asked.code
        assert (len(answer) < 1000, code or 0) == (True, 0), (verb, words)


# ---- files of options ----


def test_a_printed_configuration_is_a_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["train", "vqvae", "digits", "--out", "r", "--codes", "32", "--minutes", "0.5", "--from", "codec=x"]
    code, out, _ = said(capsys, *words, "--print_config")
    assert code == 0
    (tmp_path / "run.yaml").write_text(out)
    alike = parsed("train", *words[1:])
    found = parsed("train", "--config", "run.yaml")
    for key in ("recipe", "data", "out", "minutes", "from_", "size", "given"):
        assert found[key] == alike[key], key
    assert found.given["codes"] == 32
    again = parsed("train", "--config", "run.yaml", "--minutes", "2", "--codes", "8")
    assert (again.minutes, again.given["codes"]) == (2.0, 8)
    assert parsed("train", "vqvae", "emoji", "--config=run.yaml").data == "emoji"


def test_a_configuration_may_be_written_by_hand(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.json").write_text(json.dumps({"run": "runs/a", "text": ["a cat"], "guidance": 3, "number": 2}))
    found = parsed("sample", "--config", "s.json")
    assert (found.run, found.text, found.guidance, found.number) == ("runs/a", ["a cat"], 3.0, 2)
    (tmp_path / "t.yaml").write_text("recipe: ddpm\ndata: digits\nout: r\nepochs: 3\n")
    code, _, err = said(capsys, "train", "--config", "t.yaml")
    assert code == 2
    assert "has 'epochs'" in err
    assert "--steps N" in err
    for text in ("recipe: [", "\0", "- a", "recipe: {a: 1}", "steps: many\nrecipe: ddpm\ndata: x\nout: r"):
        (tmp_path / "t.yaml").write_text(text)
        code, _, err = said(capsys, "train", "--config", "t.yaml")
        assert code == 2, text
        assert "foresee" not in err
    assert said(capsys, "train", "--config", "nowhere.yaml")[2].startswith("sfumato: There is no file")


# ---- completion ----


def complete(script, *words):
    """What bash would offer for the last of the words."""
    code = f'{script}\nCOMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _sfumato; printf "%s\\n" "${{COMPREPLY[@]}}"'
    done = subprocess.run(["bash", "-c", code, "bash", *words], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_bash_completes_verbs_recipes_options_and_choices(capsys):
    script = said(capsys, "completion", "bash")[1]
    assert complete(script, "sfumato", "re") == ["resume", "reconstruct", "report"]
    assert complete(script, "sfumato", "train", "vqg") == ["vqgan"]
    assert complete(script, "sfumato", "list", "") == ["recipes", "codecs", "priors", "data", "metrics"]
    assert complete(script, "sfumato", "sample", "r", "--guid") == ["--guidance"]
    assert complete(script, "sfumato", "train", "vqgan", "d", "--cod") == ["--codes"]
    assert complete(script, "sfumato", "train", "ddpm", "d", "--cod") == []
    assert complete(script, "sfumato", "train", "ddpm", "d", "--size", "") == ["xs", "s", "m", "paper"]
    assert complete(script, "sfumato", "train", "ddpm", "d", "--precision", "b") == ["bf16"]
    gan = next(row for row in index()["recipes"] if row["name"] == "gan")
    design = next(dial for dial in gan["dials"] if dial["name"] == "design")
    assert complete(script, "sfumato", "train", "gan", "d", "--design", "") == design["choices"]
    assert complete(script, "sfumato", "sample", "") == [], "a path, which bash completes by itself"


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_are_told_every_verb_and_dial(shell, capsys):
    """Their own reading of it is tried where they are installed."""
    script = said(capsys, "completion", shell)[1]
    dials = {dial["name"].replace("_", "-") for row in index()["recipes"] for dial in row["dials"]}
    assert all(word in script for word in (*VERBS, *dials))
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=script, text=True, check=True)


# ---- for the eye ----


def narrow():
    return Console(file=StringIO(), width=60, force_terminal=True, color_system=None, legacy_windows=False)


def test_the_bar_of_a_training_fits_60_columns():
    """Every line that is drawn is one line, and says how far, the loss, the rate and the time that is left."""
    screen = narrow()
    bar = Bar("large.prior", screen)
    step = Step(
        step=123456,
        progress=0.37,
        loss=1234.5,
        terms={},
        norms=[1.0],
        rate=1e-4,
        rows=64,
        seconds=0.05,
        skipped="",
        index=[],
    )
    for _ in range(3):
        bar.step(step)
    shown = screen.render_lines(bar.progress.get_renderable(), pad=False)
    bar.close()
    lines = ["".join(segment.text for segment in line).rstrip() for line in shown]
    lines = [line for line in lines if line]
    assert len(lines) == 1, lines
    assert len(lines[0]) <= 60
    for said in ("37%", "123456", "1234", "1.28k/s", "--:--"):
        assert said in lines[0], (said, lines[0])


def test_the_bar_of_a_drawing_fits_60_columns():
    screen = narrow()
    bars = console.bars_of("Training the judge", "pictures", screen)
    bars.add_task("", total=1000, completed=512)
    lines = ["".join(s.text for s in line).rstrip() for line in screen.render_lines(bars.get_renderable(), pad=False)]
    lines = [line for line in lines if line]
    assert len(lines) == 1, lines
    assert "Training the judge" in lines[0]
    assert "512/1000" in lines[0]
    assert "--:--" in lines[0]


def test_ctrl_c_names_the_folder_and_the_command_that_goes_on(capsys, monkeypatch):
    def stop(words):
        stopped = Stopped(130)
        stopped.run = "runs/my cats"
        raise stopped

    monkeypatch.setattr("sfumato.cli._verb", stop)
    code, _, err = said(capsys, "train")
    assert code == 130
    assert "saved in runs/my cats. `sfumato resume 'runs/my cats'` goes on" in err
