"""Masks from points and boxes: a tiny SAM with random weights, the way to the pinned ones, and what a person accepts."""

from __future__ import annotations

import csv
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import neurovision.views.ui  # noqa: F401 - before Gradio: it switches the calls home off
from neurovision.aids import prompted
from neurovision.aids.prompted import Hint, Prompter, cached, load_prompter, read_box, read_hints
from neurovision.classes import SHIPPED
from neurovision.errors import DataError, ModelError, WeightsMissing, WeightsTampered
from neurovision.scan.phantom import phantom
from neurovision.training.accepted import ACCEPTED, Acceptance, accept, accepted_items
from neurovision.training.dataset import SOURCES, load_index
from neurovision.training.fit import group_of

pytest.importorskip("transformers", reason="SAM's packages are not installed: make sam, or pip install 'neurovision[sam]'")
torch = pytest.importorskip("torch", reason="SAM's packages are not installed: make sam, or pip install 'neurovision[sam]'")
pytestmark = pytest.mark.slow

GRAY = phantom("glioma", 4, size=96)[0].gray()[:80]  # 80 rows, 96 columns


@pytest.fixture(scope="module")
def tiny() -> Any:
    from transformers import SamConfig, SamModel

    torch.manual_seed(0)
    vision = {
        "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 64, "patch_size": 8,
        "output_channels": 16, "mlp_dim": 32, "window_size": 4, "global_attn_indexes": [0],
        "num_pos_feats": 8,
    }  # fmt: skip
    prompts = {"hidden_size": 16, "image_size": 64, "patch_size": 8, "mask_input_channels": 4, "image_embedding_size": 8}
    decoder = {
        "hidden_size": 16, "mlp_dim": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "iou_head_hidden_dim": 16,
        "attention_downsample_rate": 1,
    }  # fmt: skip
    return SamModel(SamConfig(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder))


@pytest.fixture(scope="module")
def folder(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sam")
    tiny.save_pretrained(path)
    return path


class Disk:
    """Stands where SAM stands: marks a disk of 8 of its pixels around the first point, in three sizes of certainty."""

    config = SimpleNamespace(vision_config=SimpleNamespace(image_size=64))

    def eval(self) -> Disk:
        return self

    def __call__(self, pixel_values: Any, input_points: Any, input_labels: Any, multimask_output: bool) -> Any:
        x, y = input_points[0, 0, 0].tolist()
        rows, columns = np.mgrid[0:16, 0:16] * 4 + 1.5
        plane = torch.tensor(8 - np.hypot(rows - y, columns - x), dtype=torch.float32)
        scores = torch.tensor([[[0.2, 0.9, 1.4]]])
        return SimpleNamespace(pred_masks=torch.stack([plane] * 3)[None, None], iou_scores=scores)


def test_three_masks_in_the_slice_s_own_pixels(tiny: Any) -> None:
    prompter = Prompter(tiny)
    found = prompter.propose(GRAY, [Hint(40, 30)])
    assert len(found) == 3 and all(p.mask.shape == (80, 96) and p.mask.dtype == bool for p in found)
    scores = [p.score for p in found]
    assert scores == sorted(scores, reverse=True) and all(0 <= s <= 1 for s in scores)
    again = prompter.propose(GRAY, [Hint(40, 30)])
    assert all(np.array_equal(a.mask, b.mask) and a.score == b.score for a, b in zip(found, again, strict=True))
    for other in (
        prompter.propose(GRAY, [Hint(40, 30), Hint(5, 5, inside=False)]),
        prompter.propose(GRAY, box=(20, 20, 60, 50)),
    ):
        assert [p.score for p in other] != scores


@pytest.mark.parametrize("shape", [(80, 96), (200, 120), (48, 48)])
def test_a_point_lands_where_it_was_set(shape: tuple[int, int]) -> None:
    x, y = 0.7 * shape[1], 0.3 * shape[0]
    found = Prompter(Disk()).propose(np.zeros(shape, np.float32), [Hint(x, y)])  # type: ignore[arg-type]
    assert [round(p.score, 1) for p in found] == [1.0, 0.9, 0.2]
    rows, columns = np.nonzero(found[0].mask)
    pixel = max(shape) / 64  # of SAM's grid, in pixels of the slice
    assert abs(rows.mean() - y) < pixel and abs(columns.mean() - x) < pixel
    assert abs(np.sqrt(found[0].mask.sum() / np.pi) - 8 * pixel) < pixel


def test_inputs_are_those_of_the_library_s_own_preparation(tiny: Any) -> None:
    from transformers import SamProcessor
    from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

    seen: dict[str, Any] = {}

    class Spy:
        config = tiny.config

        def eval(self) -> Spy:
            return self

        def __call__(self, multimask_output: bool, **asked: Any) -> Any:
            seen.update(asked)
            return tiny(**asked)

    levels = np.repeat(np.rint(GRAY * 255).astype(np.uint8)[..., None], 3, 2)
    Prompter(Spy()).propose(levels[..., 0].astype(np.float32) / 255, [Hint(40, 30), Hint(9, 70, False)], (20, 10, 60, 50))  # type: ignore[arg-type]
    library = SamProcessor(SamImageProcessorPil(size={"longest_edge": 64}, pad_size={"height": 64, "width": 64}))
    expected = library(
        images=levels, input_points=[[[[40.0, 30.0], [9.0, 70.0]]]], input_labels=[[[1, 0]]],
        input_boxes=[[[20.0, 10.0, 60.0, 50.0]]], return_tensors="pt",
    )  # fmt: skip
    for key in ("input_points", "input_boxes"):
        assert torch.allclose(seen[key].double(), expected[key].double(), atol=1e-4), key
    assert torch.equal(seen["input_labels"], expected["input_labels"])
    # Only the resampling differs: area against antialiased bilinear, over values from -2 to 2.6.
    assert float((seen["pixel_values"] - expected["pixel_values"]).abs().mean()) < 0.1


@pytest.mark.parametrize(
    ("hints", "box", "words"),
    [
        ([], None, "at least one point inside"),
        ([Hint(3, 3, inside=False)], None, "say nothing"),
        ([Hint(96, 3)], None, "The point 96,3 lies outside the slice, which is 96 x 80"),
        ([], (50, 10, 20, 40), "received 50,10,20,40"),
        ([], (0, 0, 97, 80), "inside the slice"),
        ([Hint(float("nan"), 3)], None, "lies outside"),
    ],
)
def test_refusals(tiny: Any, hints: list[Hint], box: Any, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        Prompter(tiny).propose(GRAY, hints, box)


def test_points_and_boxes_as_people_write_them() -> None:
    assert read_hints(["3,4", "5.5,6"], False) == [Hint(3, 4, False), Hint(5.5, 6, False)]
    assert read_box("1, 2,3,4") == (1, 2, 3, 4)
    for text in ("", "3", "3,4,5", "a,b", "nan,1"):
        with pytest.raises(ModelError, match="A point is x,y"):
            read_hints([text], True)


def test_weights_from_a_folder(tiny: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = Prompter(tiny).propose(GRAY, [Hint(40, 30)])
    loaded = load_prompter(folder)
    found = loaded.propose(GRAY, [Hint(40, 30)])
    assert [p.score for p in found] == pytest.approx([p.score for p in expected]) and folder.name in loaded.name
    monkeypatch.setenv("NEUROVISION_SAM", str(folder))
    assert load_prompter().name == loaded.name
    for file in prompted.FILES:
        (tmp_path / file).write_bytes((folder / file).read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"\x08" + bytes(40))
    with pytest.raises(WeightsTampered, match="not a SAM that can be read"):
        load_prompter(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(WeightsMissing, match=r"has no model\.safetensors"):
        load_prompter(tmp_path)


@pytest.fixture
def server(folder: Path) -> Iterator[str]:
    """The two files as the Hub serves them, at the pinned revision only."""

    class Hub(http.server.BaseHTTPRequestHandler):
        def _answer(self, body: bool) -> None:
            prefix = f"/{prompted.REPOSITORY}/resolve/{prompted.REVISION}/"
            name = self.path.removeprefix(prefix)
            if not self.path.startswith(prefix) or name not in prompted.FILES:
                self.send_error(404)
                return
            data = (folder / name).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("ETag", f'"{name}-etag"')
            self.send_header("X-Repo-Commit", prompted.REVISION)
            self.end_headers()
            if body:
                self.wfile.write(data)

        def do_HEAD(self) -> None:
            self._answer(False)

        def do_GET(self) -> None:
            self._answer(True)

        def log_message(self, *args: Any) -> None:
            """Say nothing."""

    served = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=served.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{served.server_port}"
    served.shutdown()
    served.server_close()
    thread.join(10)


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.delenv("NEUROVISION_SAM", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


@pytest.mark.usefixtures("empty_cache")
def test_weights_are_fetched_once_at_the_pinned_revision(server: str, folder: Path) -> None:
    with pytest.raises(WeightsMissing, match="run neurovision sam fetch once"):
        cached()
    path = cached(fetch=True, endpoint=server)
    assert path.name == prompted.REVISION
    assert (path / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert cached() == path  # from now on without a network


@pytest.mark.usefixtures("empty_cache")
def test_without_a_network_there_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.utils import _http

    monkeypatch.setattr(_http.time, "sleep", lambda seconds: None)  # between its attempts
    with pytest.raises(WeightsMissing, match="connect to the network and try again"):
        cached(fetch=True, endpoint="http://127.0.0.1:9")
    with pytest.raises(WeightsMissing, match="not on this computer"):
        load_prompter()


def test_missing_packages_are_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompted.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"pip install 'neurovision\[sam\]'"):
        load_prompter()


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    path = tmp_path / "Jane_Doe_1970.png"
    Image.fromarray(np.rint(GRAY * 255).astype(np.uint8)).save(path)
    return path


def run(*words: Any) -> str:
    from neurovision.cli import app

    result = CliRunner().invoke(app, ["sam", *map(str, words)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_from_a_proposal_to_a_training_set(scan: Path, folder: Path, tmp_path: Path) -> None:
    out, data = tmp_path / "out", tmp_path / "data"
    told = run("propose", scan, "--out", out, "--point", "40,30", "--box", "20,10,60,50", "--model", folder)
    assert told.count("score") == 3
    listed = out / "Jane_Doe_1970.proposals.json"
    record = json.loads(listed.read_text())
    assert record["hints"] == [{"x": 40, "y": 30, "inside": True}] and record["box"] == [20, 10, 60, 50]
    number = 1 + int(np.argmax([p["pixels"] for p in record["proposals"]]))
    said = ["--number", number, "--data", data, "--label", "glioma", "--fold", 2, "--patient", "P7", "--by", "reader 1"]
    run("accept", listed, "--scan", scan, *said)
    (item,) = load_index(data, [ACCEPTED])
    mask = np.asarray(Image.open(out / record["proposals"][number - 1]["file"])) > 127
    assert np.array_equal(item.truth(), mask) and np.allclose(item.gray(), GRAY, atol=0.01)
    assert (item.label, item.fold, item.patient) == ("glioma", 2, "P7")
    with (data / ACCEPTED / "index.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["mask_by"] == f"folder {folder.name} by hints" and row["accepted_by"] == "reader 1"
    assert [i.id for i in accepted_items(data, [1, 2], SHIPPED)] == [item.id] and not accepted_items(data, [1, 3], SHIPPED)
    assert not accepted_items(tmp_path, [2], SHIPPED)
    assert group_of(item) == "figshare"  # as scans with a mask and a type are drawn
    assert ACCEPTED not in SOURCES  # nothing measures or trains on it unasked
    assert not [p for p in data.rglob("*") if "jane" in p.name.lower()] and "Jane" not in json.dumps(row)
    with pytest.raises(DataError, match="accepted before"):
        run("accept", listed, "--scan", scan, *said)
    other = tmp_path / "other.png"
    Image.fromarray(np.rint(GRAY[::-1] * 255).astype(np.uint8)).save(other)
    with pytest.raises(DataError, match="not the scan"):
        run("accept", listed, "--scan", other, *said)


def test_what_cannot_be_accepted_leaves_nothing(tmp_path: Path) -> None:
    mask = np.zeros(GRAY.shape, bool)
    mask[30:40, 30:50] = True
    said = {"label": "glioma", "fold": 2, "patient": "P7", "accepted_by": "reader", "mask_by": "model"}
    (tmp_path / "lgg").mkdir()
    (tmp_path / "lgg" / "index.csv").write_text("id,image,label,fold,tumor,mask,patient\na,b,none,1,0,,P7\n")
    with pytest.raises(DataError, match="stands in fold 1 of lgg"):
        accept(GRAY, mask, Acceptance(**said), tmp_path)
    with pytest.raises(DataError, match="at least one pixel"):
        accept(GRAY, mask & False, Acceptance(**said), tmp_path)
    assert not [p for p in (tmp_path / ACCEPTED).rglob("*") if p.suffix in (".png", ".csv")]
    for key, value in (("label", "none"), ("fold", 6), ("patient", " "), ("accepted_by", ""), ("mask_by", "a\nb")):
        with pytest.raises(DataError):
            Acceptance(**{**said, key: value})


def test_two_people_accept_at_once(tmp_path: Path) -> None:
    mask = np.ones(GRAY.shape, bool)

    def add(k: int) -> None:
        accept(np.roll(GRAY, k, 1), mask, Acceptance("glioma", 1, f"P{k}", "reader", "model"), tmp_path)

    threads = [threading.Thread(target=add, args=(k,)) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {i.patient for i in load_index(tmp_path, [ACCEPTED])} == {f"P{k}" for k in range(6)}


# --- page ------------------------------------------------------------------------------------------------------------


def test_clicks_become_points_and_boxes() -> None:
    from neurovision.views.ui.prompt import CORNER, INSIDE, OUTSIDE, clicked, draw_hints

    shape = (96, 48)  # drawn at 768 x 384: eight times
    assert clicked((80, 160), shape, INSIDE, ("1,2", "", "")) == ("1,2 10,20", "", "")
    assert clicked((383, 767), shape, OUTSIDE, ("", "", "")) == ("", "47,95", "")
    first = clicked((160, 80), shape, CORNER, ("", "", ""))
    assert first == ("", "", "20,10")
    assert clicked((80, 240), shape, CORNER, first) == ("", "", "10,10,21,31")
    assert clicked((80, 240), shape, CORNER, ("", "", "10,10,21,31")) == ("", "", "10,30")
    plain = draw_hints(np.zeros(shape, np.float32), ("", "", ""))
    drawn = draw_hints(np.zeros(shape, np.float32), ("10,20", "", ""))
    rows, columns = np.nonzero((drawn != plain).any(-1))
    assert abs(rows.mean() - 164) < 2 and abs(columns.mean() - 84) < 2
    assert np.array_equal(draw_hints(np.zeros(shape, np.float32), ("10;20", "", "")), plain)


def test_the_page_proposes_and_says_what_is_missing(
    folder: Path, scan: Path, monkeypatch: pytest.MonkeyPatch, empty_cache: None
) -> None:
    import gradio as gr
    from standin import standin

    from neurovision.scan.read import read
    from neurovision.views.ui import prompt
    from neurovision.views.ui.case import analyze
    from neurovision.views.ui.read import Tab
    from neurovision.views.ui.room import Room

    room = Room(standin)
    room.open()
    case = analyze(standin(), read(scan))

    def handlers() -> dict[str, Any]:
        with gr.Blocks() as page:
            opened = Tab(room)
            with gr.Tab("Propose") as tab:
                prompt.build(room, opened, [tab])
        return {f.fn.__name__: f.fn for f in page.fns.values() if f.fn is not None}

    assert "propose" not in handlers()  # without the weights the tab is one line
    monkeypatch.setenv("NEUROVISION_SAM", str(folder))
    propose = handlers()["propose"]
    with pytest.raises(gr.Error, match="No scan is open"):
        propose(None, "40,30", "", "")
    pictures, files = propose(case, "40,30", "5,5", "20,10,60,50")
    assert len(pictures) == 3 and "score" in pictures[0][1] and pictures[0][0].shape == (640, 768, 3)
    assert [Path(f).suffix for f in files] == [".png"] * 3 + [".json"]
    assert Image.open(files[0]).size == (96, 80)
    with pytest.raises(gr.Error, match="A point is x,y"):
        propose(case, "40;30", "", "")
