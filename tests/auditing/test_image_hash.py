import cv2
import numpy as np
import pytest

from tlab.auditing.duplicates import Pair, near_duplicates, spanning_pairs
from tlab.auditing.image_hash import (
    ORIENTATIONS,
    close_pairs,
    closest_orientation,
    low_frequencies,
    oriented,
    oriented_pixels,
)


def gray(image_HWC: np.ndarray) -> np.ndarray:
    return cv2.resize(cv2.cvtColor(image_HWC, cv2.COLOR_RGB2GRAY), (64, 64), interpolation=cv2.INTER_AREA)


def compressed(image_HWC: np.ndarray, quality: int) -> np.ndarray:
    return cv2.imdecode(cv2.imencode(".jpg", image_HWC, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR)


CHANGES = {
    "resized": lambda x: cv2.resize(x, (90, 70), interpolation=cv2.INTER_AREA),
    "recompressed": lambda x: compressed(x, 30),
    "brightened": lambda x: (x * 1.2).clip(0, 255).astype(np.uint8),
    "mirrored": lambda x: x[:, ::-1],
    "turned": lambda x: np.rot90(x),
    "cropped at a corner": lambda x: x[8:, 8:],
    "cropped all around": lambda x: x[4:-4, 4:-4],
}


@pytest.mark.parametrize("orientation", range(len(ORIENTATIONS)))
def test_coefficients_of_a_turned_image_follow_from_those_of_the_image(scene, orientation):
    image = gray(scene(1))
    turned = low_frequencies(oriented_pixels(image, orientation)[None])
    np.testing.assert_allclose(turned, oriented(low_frequencies(image[None]), orientation), atol=1e-2)


def test_turned_images_have_close_hashes_and_others_have_not(scene):
    images = [gray(scene(seed)) for seed in range(20)]
    images.append(oriented_pixels(images[3], 6))
    coefficients = low_frequencies(np.stack(images))
    pairs, left_out = close_pairs(coefficients, 40, 100)
    assert pairs.tolist() == [[3, 20]]
    assert left_out == 0
    orientation, cosine = closest_orientation(coefficients[[3]], coefficients[[20]])
    assert orientation.tolist() == [6]
    assert cosine[0] > 0.999


def test_the_closest_of_too_many_pairs_are_kept(scene):
    images = np.stack([gray(scene(seed % 3)) for seed in range(12)])
    pairs, left_out = close_pairs(low_frequencies(images), 127, 18)
    assert left_out > 0
    assert {tuple(pair) for pair in pairs % 3} == {(0, 0), (1, 1), (2, 2)}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_copies_are_found_and_nothing_else(scene, change):
    pictures = [scene(seed) for seed in range(12)]
    images = np.stack([gray(each) for each in [*pictures, np.ascontiguousarray(CHANGES[change](pictures[5]))]])
    neighbors = np.full((13, 1), 0)
    neighbors[12] = 5  # as the features of a network say
    pairs, _ = near_duplicates(images, neighbors)
    assert [pair[:2] for pair in pairs] == [(5, 12)]
    assert 0.8 < pairs[0].score <= 1


def test_blank_images_are_no_copies_of_each_other():
    blank = np.full((4, 64, 64), 255, np.uint8)
    assert near_duplicates(blank, None) == ([], 0)


def test_three_copies_make_two_pairs():
    pairs = [Pair(0, 1, 0.9), Pair(1, 2, 0.9), Pair(0, 2, 0.8), Pair(4, 5, 0.9)]
    assert spanning_pairs(pairs, 6) == [pairs[0], pairs[1], pairs[3]]
