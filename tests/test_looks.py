"""The two looks: the whole canvas, and closer at what is most suspect."""

from __future__ import annotations

import numpy as np
import pytest

from neurovision.ensemble.looks import CLOSER, look_twice, window

SIZE = 96


class Bright:
    """Finds a tumor where a canvas is bright, and remembers what it was shown."""

    device = "CPU"

    def __init__(self):
        self.shown = []

    def predict(self, canvases):
        self.shown.append(canvases.copy())
        tumor = 1 / (1 + np.exp(-4 * (canvases - 2)))
        softmax = np.stack([0 * tumor, 1 - tumor, tumor], -1)
        return np.stack([softmax, softmax]).astype(np.float32)


def spot(row, column, radius=6.0):
    rows, columns = np.mgrid[:SIZE, :SIZE]
    canvas = np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * radius**2))
    return ((canvas - canvas.mean()) / canvas.std()).astype(np.float32)


class TestLookTwice:
    @pytest.mark.parametrize("place", [(30, 60), (14, 16), (82, 48), (48, 48)])
    def test_both_looks_agree_on_the_place(self, place):
        canvas, engine = spot(*place), Bright()
        twice = look_twice(engine, canvas[None])
        once = Bright().predict(canvas[None])
        assert twice.shape == once.shape == (2, 1, SIZE, SIZE, 3) and len(engine.shown) == 2
        assert np.abs(twice.sum(-1) - 1).max() < 1e-5
        found = twice[0, 0, ..., 2]
        assert np.hypot(*(np.argwhere(found > 0.5).mean(0) - place)) < 1.0
        overlap = ((found > 0.5) & (once[0, 0, ..., 2] > 0.5)).sum() / (once[0, 0, ..., 2] > 0.5).sum()
        assert overlap > 0.75  # less than all: by itself the window is brighter than the whole

    def test_the_second_look_is_at_the_mirror_image_of_the_window_enlarged(self):
        canvas, engine = spot(30, 70), Bright()
        look_twice(engine, canvas[None])
        rows, columns = window(Bright().predict(canvas[None])[0, 0, ..., 2], SIZE)
        part, near = canvas[rows, columns], engine.shown[1][0, :, ::-1]
        steps = np.rint((np.arange(part.shape[0]) + 0.5) * CLOSER - 0.5).astype(int)
        assert np.corrcoef(near[np.ix_(steps, steps)].ravel(), part.ravel())[0, 1] > 0.99
        assert abs(near.mean()) < 1e-4 and near.std() == pytest.approx(1, abs=1e-3)

    def test_beyond_the_window_the_first_look_holds(self):
        canvas = np.maximum(spot(20, 20), 0.9 * spot(80, 84))
        twice, once = look_twice(Bright(), canvas[None]), Bright().predict(canvas[None])
        rows, columns = window(once[..., 2].mean(0)[0], SIZE)
        outside = np.ones((SIZE, SIZE), bool)
        outside[rows, columns] = False
        assert outside.any() and np.array_equal(twice[:, :, outside], once[:, :, outside])
        assert not np.array_equal(twice[:, :, ~outside], once[:, :, ~outside])

    def test_slices_do_not_disturb_each_other(self):
        canvases = np.stack([spot(30, 60), spot(70, 20), spot(10, 90)])
        together = look_twice(Bright(), canvases)
        for n, canvas in enumerate(canvases):
            assert np.allclose(together[:, n], look_twice(Bright(), canvas[None])[:, 0], atol=1e-6)


def test_the_window_holds_the_tumor_and_stays_on_the_canvas():
    side = round(SIZE / CLOSER)
    for place in ((0, 0), (95, 95), (20, 70), (48, 48)):
        tumor = np.full((SIZE, SIZE), 0.1)  # haze
        tumor[max(0, place[0] - 3) : place[0] + 4, max(0, place[1] - 3) : place[1] + 4] = 0.9
        rows, columns = window(tumor, SIZE)
        assert rows.stop - rows.start == columns.stop - columns.start == side
        assert 0 <= rows.start <= place[0] < rows.stop <= SIZE and 0 <= columns.start <= place[1] < columns.stop <= SIZE
    assert window(np.zeros((SIZE, SIZE)), SIZE) == (slice(16, 80), slice(16, 80))
