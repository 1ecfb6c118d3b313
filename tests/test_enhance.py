"""Enhancement and clean-up, against numbers worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from neurovision.errors import ModelError
from neurovision.scan import enhance
from neurovision.scan.phantom import phantom


@pytest.fixture(scope="module")
def gray() -> np.ndarray:
    return phantom("glioma", 3)[0].gray()


def in_range(picture: np.ndarray) -> bool:
    return picture.dtype == np.float32 and bool(picture.min() >= 0) and bool(picture.max() <= 1)


def test_musica_of_strength_one_gives_the_slice_back(gray: np.ndarray) -> None:
    assert np.abs(enhance.musica(gray, strength=1.0) - gray).max() < 1e-5


def test_musica_of_strength_zero_leaves_only_the_coarsest_level(gray: np.ndarray) -> None:
    assert enhance.musica(gray, strength=0.0).std(axis=1)[128] < gray.std(axis=1)[128]
    flat = np.full((64, 80), 0.4, np.float32)
    assert np.allclose(enhance.musica(flat, strength=5.0), 0.4, atol=1e-6)  # no detail, nothing to amplify


def test_musica_amplifies_one_chosen_level() -> None:
    """A checkerboard of single pixels lives in the finest level alone: doubling that level doubles its contrast."""
    board = (0.5 + 0.1 * (-1.0) ** np.indices((64, 64)).sum(0)).astype(np.float32)
    middle = (slice(16, 48), slice(16, 48))
    doubled = enhance.musica(board, strength=[2, 1, 1], levels=3)
    assert np.allclose(doubled[middle] - 0.5, 2 * (board[middle] - 0.5), atol=1e-4)
    assert np.allclose(enhance.musica(board, strength=[1, 9, 9], levels=3)[middle], board[middle], atol=1e-3)


def test_musica_below_power_one_lifts_faint_details_more(gray: np.ndarray) -> None:
    ramp = np.zeros((64, 64), np.float32) + 0.5
    ramp[:, 20] += 0.02
    ramp[:, 40] += 0.4
    linear, bent = (enhance.musica(ramp, strength=1.0, levels=1, power=p) for p in (1.0, 0.5))
    assert bent[32, 20] - linear[32, 20] > 5 * abs(bent[32, 40] - linear[32, 40])
    assert in_range(enhance.musica(gray, strength=4.0, power=0.7))


@pytest.mark.parametrize(("strength", "levels", "power"), [(-1.0, 3, 1.0), ([1, 2], 3, 1.0), (1.0, 0, 1.0), (1.0, 3, 0)])
def test_musica_refuses(gray: np.ndarray, strength: float, levels: int, power: float) -> None:
    with pytest.raises(ModelError, match="received"):
        enhance.musica(gray, strength, levels, power)


@pytest.mark.parametrize("how", enhance.CROPS)
def test_crop_encloses_a_bright_square_with_its_padding(how: str) -> None:
    picture = np.zeros((100, 120), np.float32)
    picture[30:60, 40:90] = 0.8
    top, left, bottom, right = enhance.crop_box(picture, how, padding=5)
    assert np.abs(np.array([top, left, bottom, right]) - (25, 35, 65, 95)).max() <= 3
    assert enhance.crop(picture, how, padding=5).shape == (bottom - top, right - left)


def test_soft_crop_keeps_a_dim_part_that_otsu_cuts() -> None:
    picture = np.zeros((120, 120), np.float32)
    picture[20:70, 20:100] = 0.9
    picture[70:100, 20:100] = 0.15
    assert enhance.crop_box(picture, "hard", 0)[2] < 80
    assert enhance.crop_box(picture, "soft", 0)[2] >= 98


def test_crop_of_an_even_slice_is_the_slice() -> None:
    assert enhance.crop_box(np.zeros((40, 50), np.float32), "hard") == (0, 0, 40, 50)
    with pytest.raises(ModelError, match="hard, soft"):
        enhance.crop_box(np.zeros((40, 50), np.float32), "medium")


def test_white_background_turns_black_and_the_head_stays(gray: np.ndarray) -> None:
    paper = gray.copy()
    paper[gray < 0.04] = 1.0
    cleaned = enhance.blacken_background(paper)
    assert cleaned[:8].max() == 0 and cleaned[:, -8:].max() == 0
    inner = (slice(100, 160), slice(90, 160))
    assert np.array_equal(cleaned[inner], paper[inner])
    assert np.array_equal(enhance.blacken_background(gray), gray)  # dark edge: nothing to do


def test_white_frame_turns_black_and_a_bright_tumor_stays() -> None:
    picture = np.full((100, 100), 0.3, np.float32)
    picture[2:5, 2:98] = 1.0
    picture[40:50, 40:50] = 1.0
    cleaned = enhance.blacken_border(picture)
    assert cleaned[1:6, 1:99].max() == 0  # the frame and one pixel around it
    assert cleaned[0, 50] == pytest.approx(0.3) and cleaned[7, 50] == pytest.approx(0.3)
    assert (cleaned[40:50, 40:50] == 1).all()


def test_equalization_spreads_four_levels_evenly() -> None:
    picture = np.repeat(np.array([10, 20, 30, 40], np.float32) / 255, 16).reshape(8, 8)
    # OpenCV: (cdf - cdf of the lowest level) / (pixels - that), in 255ths
    assert np.unique(np.rint(enhance.equalize(picture) * 255)).tolist() == [0, 85, 170, 255]


def test_local_equalization_leaves_air_dark(gray: np.ndarray) -> None:
    air = gray < 0.03
    assert enhance.equalize(gray, local=True)[air].mean() < 0.5 * enhance.equalize(gray)[air].mean()


def test_distribution_by_hand() -> None:
    picture = np.array([[0.0, 0.25], [0.5, 1.0]], np.float32)
    shares, cumulative = enhance.distribution(picture, bins=4)
    assert shares.tolist() == [[0.25, 0.25, 0.25, 0.25]]
    assert cumulative.tolist() == [[0.25, 0.5, 0.75, 1.0]]
    rgb = np.stack([picture, picture * 0, picture * 0 + 1], axis=-1)
    assert enhance.distribution(rgb)[1].shape == (3, 256)
    assert enhance.distribution(rgb)[0][1, 0] == 1 and enhance.distribution(rgb)[0][2, 255] == 1


def test_asymmetry_is_nothing_for_a_mirror_image_and_finds_a_one_sided_tumor() -> None:
    healthy = phantom("healthy", 5)[0].gray()
    half = healthy[:, :128]
    twin = np.concatenate([half, half[:, ::-1]], axis=1)
    assert enhance.asymmetry(twin).max() < 1e-5
    twin[100:130, 80:100] = 1.0
    map_ = enhance.asymmetry(twin)
    assert map_[105:125, 84:96].mean() > 5 * map_[150:170, 84:96].mean()
    assert map_[115, 90] == pytest.approx(map_[115, 255 - 90], abs=1e-5)


def test_edges_of_a_ramp_and_texture_of_an_even_area() -> None:
    ramp = np.tile(np.arange(64, dtype=np.float32) / 100, (64, 1))
    gradient, canny = enhance.edges(ramp)
    assert np.allclose(gradient[5:-5, 5:-5], 0.01, atol=1e-5) and not canny.any()
    step = np.where(np.arange(64) < 32, 0.0, 1.0).astype(np.float32) * np.ones((64, 1), np.float32)
    assert enhance.edges(step)[1][10:50].any(1).all()
    assert enhance.texture(step)[30, 10] == 0
    coin = (np.indices((64, 64)).sum(0) % 2).astype(np.float32)
    assert enhance.texture(coin)[30, 30] == pytest.approx(1.0, abs=0.02)  # two equally likely levels: one bit


def test_smoothing_and_sharpening(gray: np.ndarray) -> None:
    noisy = np.clip(gray + np.random.default_rng(0).normal(0, 0.03, gray.shape), 0, 1).astype(np.float32)
    assert np.abs(enhance.denoise(noisy) - gray).mean() < np.abs(noisy - gray).mean()
    assert np.abs(enhance.denoise(noisy, edges=False)[8:-8, 8:-8]).max() <= 1
    assert np.allclose(enhance.sharpen(gray, 0.0), gray, atol=1e-6)
    assert in_range(enhance.sharpen(gray, 3.0))
