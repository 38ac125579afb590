"""RUN/report.html: one file, loads nothing, says what is there and what is not."""

import json
import re
import shutil

import pytest

from sfumato.report.run import write_report
from sfumato.report.scores import better, metric_of
from sfumato.train.run import train


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("report") / "tiny"
    train("vq-ar", "digits", out=out, size="xs", steps=8, batch=8, quiet=True)
    return out


@pytest.fixture(scope="module")
def html(run):
    return write_report(run, samples=4).read_text()


def copied(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    return tmp_path / "run"


def test_it_has_its_sections(html):
    assert re.findall("<h2>(.*?)</h2>", html) == [
        "What this is",
        "The pictures it learned from",
        "Samples",
        "Is it copying?",
        "Reconstructions",
        "On the way",
        "How it learned",
        "Scores",
        "How to go on",
    ]
    assert "Stage codec" in html
    assert "Stage prior" in html


def test_it_loads_nothing_and_runs_nothing(html):
    """Every address in it is a data: URI; there is no script, no import, no url() in the style."""
    addresses = re.findall(r"""(?:src|href|action|srcset|poster|data)\s*=\s*["']?([^"'\s>]+)""", html)
    assert addresses
    assert all(address.startswith("data:image/png;base64,") for address in addresses)
    assert not re.search(r"https?://|<script|<iframe|<link|@import|url\(|javascript:| on\w+=", html, re.IGNORECASE)
    assert "default-src 'none'" in html


def test_it_shows_what_was_asked_for_and_counted(html):
    # thumbnails, samples, samples beside three neighbours each, reconstructions with their errors, grids on the way
    assert html.count("<img") == 12 + 4 + 4 * 4 + 3 * 6 + html.count("<figcaption>after step")
    assert "1,498 pictures" in html
    assert "16 steps, in the stages codec, then prior" in html
    assert "16 tokens, each one of 512" in html


def test_scores_stand_with_their_protocol(run, tmp_path):
    folder = copied(run, tmp_path)
    found = {
        "scores": {"fd-random@64": 12.5, "psnr": 20.25},
        "protocol": {"reference": {"set": "<digits>", "count": 64}, "features": {"name": "random"}},
    }
    (folder / "scores.json").write_text(json.dumps(found))
    html = write_report(folder, samples=0).read_text()
    assert "fd-random@64" in html
    assert "12.5" in html
    assert "&lt;digits&gt;" in html
    assert "<digits>" not in html
    assert "lower is better" in html


def test_what_went_wrong_is_said(run, tmp_path):
    folder = copied(run, tmp_path)
    data = json.loads((folder / "data.json").read_text())
    data |= {"skipped": [{"file": "bad.jpg", "reason": "truncated"}], "warnings": ["two captions were cut"]}
    (folder / "data.json").write_text(json.dumps(data))
    with open(folder / "metrics.jsonl", "a") as log:
        log.write('{"step": 17, "loss": null, "stage": "prior", "skipped": "a non-finite loss", "index": [4]}\n')
        log.write('{"stage": "prior", "rollback": 8}\n{"step": 18, "lo')
    html = write_report(folder, samples=0).read_text()
    for words in ("bad.jpg", "truncated", "two captions were cut", "a non-finite loss", "went back to step 8"):
        assert words in html


def test_data_that_moved_away_cost_their_pictures_not_the_page(run, tmp_path):
    folder = copied(run, tmp_path)
    request = json.loads((folder / "train.json").read_text())
    (folder / "train.json").write_text(json.dumps(request | {"data": "moved/away"}))
    html = write_report(folder, samples=2).read_text()
    assert "moved/away" in html
    assert "<h2>Samples</h2>" in html
    assert "<h2>Reconstructions</h2>" not in html


def test_a_run_without_a_model_has_a_page_too(run, tmp_path):
    folder = copied(run, tmp_path)
    shutil.rmtree(folder / "model")
    html = write_report(folder, samples=2).read_text()
    assert "How it learned" in html
    assert "holds no model yet" in html


@pytest.mark.parametrize(
    ("score", "metric", "way"),
    [
        ("fd-mobilenetv2@10k", "fd", "lower"),
        ("fid@50k", "fd", "lower"),
        ("rfd-random@64", "rfd", "lower"),
        ("precision-random@64", "precision", "higher"),
        ("r@1-random@64", "retrieval", "higher"),
        ("bits", "bits", "lower"),
        ("unheard-of", None, None),
    ],
)
def test_a_score_knows_its_metric(score, metric, way):
    assert (metric_of(score), better(score)) == (metric, way)


def test_it_says_what_was_asked_for(run, html, tmp_path):
    assert "8 steps a stage, precision fp32, batches of 8, seed 0" in html
    folder = copied(run, tmp_path)
    request = json.loads((folder / "train.json").read_text())
    (folder / "train.json").write_text(json.dumps(request | {"steps": None, "minutes": 2.5, "seed": 7}))
    data = json.loads((folder / "data.json").read_text())
    (folder / "data.json").write_text(json.dumps(data | {"training": {"device": "cpu (2 threads)"}}))
    again = write_report(folder, samples=0).read_text()
    assert "2.5 minutes in all, precision fp32, batches of 8, seed 7, on cpu (2 threads)" in again


def test_pixels_stay_squares_however_large_a_grid_is(html):
    """Every picture but a drawing of lines is shown without smoothing, grids wider than 128 pixels too."""
    tags = re.findall(r"<img [^>]*?width=\"(\d+)\"[^>]*>", html)
    assert max(map(int, tags)) >= 38  # the grids on the way are the widest here
    assert len(re.findall(r"<img [^>]*class=\"pixels\"", html)) == html.count("<img")


def test_grids_of_one_stage_stand_together(html):
    way = html[html.index("<h2>On the way") : html.index("<h2>How it learned")]
    assert re.findall("<h3>(.*?)</h3>", way) == ["Stage codec", "Stage prior"]
