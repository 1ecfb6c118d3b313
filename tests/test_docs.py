"""What the documents say is what the code does."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import urllib.error
from dataclasses import replace
from email.message import Message
from pathlib import Path

import pytest
import server
import yaml
from standin import standin
from typer.testing import CliRunner

from neurovision import __version__
from neurovision.cli import DAILY, LABORATORY, app
from neurovision.ensemble.manifest import Provenance

ROOT = Path(__file__).parents[1]


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for their module
    spec.loader.exec_module(module)
    return module


README = (ROOT / "README.md").read_text()
checker = load(ROOT / "docs" / "links.py")
PAGES = checker.pages()
generated = load(ROOT / "docs" / "readme.py")
SNIPPETS = re.findall(r"^```(?:python|sh)\n(.*?)^```$", README, re.M | re.S)  # Python, command line, HTTP


def anchors(page: Path) -> set[str]:
    """What can stand behind # in a link to a page, as GitHub makes it from headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("name", generated.BLOCKS)
def test_generated_blocks_are_current(name):
    text = (ROOT / name).read_text()
    assert generated.render(name, text) == text, "run: python docs/readme.py"


def test_the_model_card_is_current():
    from neurovision.ensemble.weights import load_manifest
    from neurovision.evaluation.card import ABLATION, card

    beside = (generated.EVALUATION.parent / ABLATION).is_file()
    made = card(load_manifest(ROOT / "weights"), json.loads(generated.EVALUATION.read_text()), beside)
    assert (ROOT / "docs" / "MODEL_CARD.md").read_text() == made, "run: python docs/readme.py"


def test_the_readme_is_short_and_types_no_figure_by_hand():
    assert len(README.splitlines()) <= 120
    prose = re.sub(r"<!-- scores -->.*<!-- /scores -->", "", README, flags=re.S)
    assert "<!--" not in prose and not re.findall(r"(?<![\w.])0\.\d+|\d\.\d+ ?%", prose)


def test_what_a_visitor_must_know_stands_at_the_top():
    top = README.split("![")[0]
    assert "Not a medical device" in top and "non-commercial" in top


def test_the_table_says_where_the_vote_is_not_better():
    result = json.loads(generated.EVALUATION.read_text())
    first, *rest = result["vote_against_best"]
    for source, (p, difference) in {first: (0.001, 0.01), **dict.fromkeys(rest, (0.001, -0.01))}.items():
        result["vote_against_best"][source]["wilcoxon_p"] = p
        result["vote_against_best"][source]["difference"]["low"] = difference
    said = generated.scores(result)
    assert f"better than its best member (p < 0.05, the interval above 0) on {generated.TITLES[first]}." in said
    negative = said.split("not shown to be better** on ")[1].split("The verdict")[0]
    assert rest and all(generated.TITLES[source] in negative for source in rest)
    result["vote_against_best"][first]["wilcoxon_p"] = 0.05
    assert "is better than" not in generated.scores(result)


def test_the_table_takes_evaluations_with_and_without_sequences():
    result = json.loads(generated.EVALUATION.read_text())
    for key in ("by_sequence", "robustness"):
        result.pop(key, None)
    assert "size of the tumor: [docs" in generated.scores(result)
    result |= {"by_sequence": {"a": {}}, "robustness": {"n": 1}}
    assert "sequence and change of the picture" in generated.scores(result)


def test_hours_are_told_where_the_manifest_has_them():
    manifest = standin().manifest
    assert "does not record" in generated.hours(manifest)
    took = Provenance(seconds=5400.0, scans=678, scans_seen=12345, hardware="two cores", date="2026-01-02")
    timed, other = (replace(m, provenance=took) for m in manifest.members[:2])
    manifest = replace(manifest, members=(timed, other))
    said = generated.hours(manifest)
    assert f"| {timed.name} | 678 | 12,345 | 1.5 | two cores | 2026-01-02 |" in said and said.endswith("3.0 hours in all.\n")
    untimed = replace(other, provenance=replace(took, seconds=None))
    said = generated.hours(replace(manifest, members=(timed, untimed)))
    assert f"| {other.name} | 678 | 12,345 | - | two cores |" in said
    assert "1.5 hours in all, without the 1 part whose time was not recorded" in said


def test_rates_of_a_batch_by_hand():
    scale = load(ROOT / "docs" / "scale.py")
    row = {"status": "ok", "slices": 2, "weights": "ab" * 6, "bytes": 2_000_000, "cpu_ms": 400.0}
    row |= {f"{stage}_ms": 20.0 for stage in scale.STAGES} | {"networks_ms": 220.0}
    run = {"finished": "2026-01-02T03:04:05", "machine": "two cores", "workers": 1, "peak_mb": 500.4, "started": 9.6}
    said = scale.rates([row, {"status": "unread", "slices": None}], run, 4000)
    assert "on 2026-01-02 by 1 local worker over 2 slices, on two cores" in said and "200 core-ms a slice, 500 MB" in said
    assert "| CPU only | 56 | 0 | 2.22 | 3.5 | 0.9 |" in said  # 200 ms x 1e6 / 3.6e6 = 55.6 hours, at 0.04
    assert "| one GPU fed by 30 cores | 25 | 0.8 | 3.08 | 1.6 | 0.8 |" in said  # 90 ms beside 3 ms; 25 h and 0.83 h
    assert "2.0 GB a million slices" in said and "| disk of 500 MB/s, the same slices | 962 | 192 |" in said
    assert "| one core's reading and decoding | 100 | 20 |" in said and "| 110.0 (69%) |" in said
    page = (ROOT / "docs" / "scale.md").read_text()
    assert said in scale.render(page, said)
    with pytest.raises(scale.DataError, match="no analyzed scan"):
        scale.rates([], run, 0)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    for link in checker.links(page):
        if re.match(r"\w+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_links_to_other_sites_are_whole_addresses():
    """Whether they answer is asked by ``make links``, with a network."""
    found = checker.outside()
    assert len(found) > 10
    for address in found:
        assert re.fullmatch(r"https://([a-z0-9-]+\.)+[a-z]{2,}(/[\w./~%#?&=+:,-]*)?", address), address


def test_a_link_that_leads_nowhere_is_named(monkeypatch, capsys):
    def answer(asked, timeout):
        if "gone" in asked.full_url:
            raise urllib.error.HTTPError(asked.full_url, 404, "", Message(), None)
        if "closed" in asked.full_url:
            raise urllib.error.HTTPError(asked.full_url, 403, "", Message(), None)
        if "silent" in asked.full_url:
            raise TimeoutError
        return contextlib.nullcontext()

    monkeypatch.setattr(checker.urllib.request, "urlopen", answer)
    names = ("there", "gone", "closed", "silent")
    monkeypatch.setattr(checker, "outside", lambda: {f"https://{name}.example": ["README.md"] for name in names})
    with pytest.raises(SystemExit) as ended:
        checker.main()
    said = capsys.readouterr().out.splitlines()
    assert ended.value.code == 1 and len(said) == 2
    assert said == ["https://gone.example: status 404; in README.md",
                    "https://silent.example: no answer (TimeoutError); in README.md"]  # fmt: skip


def test_the_index_has_every_page():
    index = (ROOT / "docs" / "index.md").read_text()
    names = {p.name for p in (ROOT / "docs").glob("*.md")} - {"index.md"}
    assert not [n for n in names if f"]({n})" not in index]


def test_only_real_commands_are_named():
    text = "\n".join(p.read_text() for p in PAGES if p.name not in ("cli.md", "CHANGELOG.md"))
    named = set(re.findall(r"(?:^|`|; do )neurovision ([a-z][a-z-]*)", text, re.M))
    assert {"predict", "data", "stack", "evaluate"} <= named <= {*DAILY, *LABORATORY}
    assert CliRunner().invoke(app, ["--help"]).exit_code == 0


def test_the_python_of_the_readme_runs(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    names = {}
    exec(SNIPPETS[0], names)
    state, probability, _ = capsys.readouterr().out.split(maxsplit=2)
    assert state in ("tumor", "borderline") and 0 <= float(probability) <= 1
    assert names["mask"].shape == names["overlay"].shape[:2] and names["mask"].max() > 1


def test_the_command_line_of_the_readme_runs(tmp_path):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    lines = f'neurovision() {{ "{sys.executable}" -m neurovision "$@"; }}\n{SNIPPETS[1]}'
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", lines], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for example in (ROOT / "examples").glob("*.png"):
        for ending in ("json", "mask.png", "overlay.png"):
            assert (tmp_path / "results" / f"{example.stem}.{ending}").is_file()


def test_the_http_of_the_readme_runs(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    with server.page(tmp_path / "page") as served:
        names = {}
        assert "http://127.0.0.1:7860" in SNIPPETS[2]
        exec(SNIPPETS[2].replace("http://127.0.0.1:7860", served.url), names)
    assert names["verdict"] in ("tumor", "borderline", "no tumor", "rejected") and names["findings"]["verdict"]


def test_the_screenshots_are_of_the_tabs_that_the_page_has():
    """What ``make screenshots`` noted when it drew them, against the page as it is built now."""
    import gradio as gr

    from neurovision.views.ui.page import build
    from neurovision.views.ui.room import Room

    room = Room(standin)
    blocks = build(room).blocks.values()
    tabs = [str(b.label) for b in blocks if isinstance(b, gr.Tab) and b.parent is not None and b.parent.elem_id == "tabs"]
    images = ROOT / "docs" / "images"
    shown = json.loads((images / "tabs.json").read_text())
    assert set(shown) == set(tabs), "the page has other tabs than when it was drawn; run: make screenshots"
    drawn = {p.name for theme in ("light", "dark") for p in images.glob(f"*-{theme}.png")}
    assert drawn == {name for names in shown.values() for name in names}


def test_the_citation_is_of_this_version():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "type", "authors", "license"} <= set(cited)
    assert str(cited["version"]) == __version__ and cited["license"] == "MIT" and cited["type"] == "software"


def test_makefile_has_the_promised_targets():
    text = (ROOT / "Makefile").read_text()
    assert re.search(r"^run:", text, re.M) and re.search(r"^test:", text, re.M)
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_examples_are_of_every_kind():
    names = {p.stem for p in (ROOT / "examples").glob("*.png")}
    for kind in ("no-tumor", "glioma", "meningioma", "pituitary"):
        assert any(kind in n for n in names), kind


def test_the_space_front_matter_fits_the_pins():
    front = (ROOT / "README.md").read_text().split("---")[1]
    pins = (ROOT / "requirements.txt").read_text()
    assert f"gradio=={re.search(r'sdk_version: (.+)', front)[1]}" in pins
    assert (ROOT / re.search(r"app_file: (.+)", front)[1]).is_file()
