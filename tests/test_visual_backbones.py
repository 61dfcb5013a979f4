"""`thumbnail` against a loop over pixels, written from its docstring."""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from modeling_dualspace.backbones import Steps
from modeling_dualspace.visual_backbones import Thumbnail

# All numbers lie within 0 and 1, where float32 has steps of 6e-8, and each is the end of about ten operations on such;
# a gradient is a difference of two. Another order of summing moves the mean of 16 cells by no more (seen: 2e-7).
CLOSE = 1e-6


def of_cell(number, length):
    """Which pixels of a row or a column a cell of 64 covers; where there are fewer, one stands for several."""
    first, after = number * length // 64, (number + 1) * length // 64
    return range(first, max(after, first + 1))


def naive(frame):
    """Python's numbers, one by one."""
    height, width, _ = frame.shape
    pixels = frame.tolist()
    small = [[None] * 64 for _ in range(64)]
    for row in range(64):
        for column in range(64):
            cell = [pixels[y][x] for y in of_cell(row, height) for x in of_cell(column, width)]
            small[row][column] = [sum(pixel[colour] for pixel in cell) / len(cell) / 255 for colour in range(3)]

    def luma(row, column):
        red, green, blue = small[min(max(row, 0), 63)][min(max(column, 0), 63)]
        return 0.299 * red + 0.587 * green + 0.114 * blue

    numbers = []
    for channel in range(4):
        for top in range(0, 64, 4):
            for left in range(0, 64, 4):
                values = []
                for row in range(top, top + 4):
                    for column in range(left, left + 4):
                        if channel < 3:
                            values.append(small[row][column][channel])
                        else:
                            down = luma(row + 1, column) - luma(row - 1, column)
                            right = luma(row, column + 1) - luma(row, column - 1)
                            values.append(math.hypot(down / 2, right / 2))
                numbers.append(sum(values) / 16)
    return np.array(numbers)


def vector(frame):
    backbone = Thumbnail()
    found = backbone.embed([[backbone.prepare(frame)]])
    assert found.shape == (1, 1024) and found.dtype == np.float32
    return found[0]


def picture(width, height, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "size", [(1, 1), (3, 5), (64, 64), (65, 33), (33, 65), (63, 64), (1, 200), (480, 360)], ids=lambda one: f"{one}"
)
def test_a_frame_of_any_size_gives_the_numbers_of_a_loop_over_its_pixels(size):
    frame = picture(*size)
    assert np.abs(vector(frame) - naive(frame)).max() < CLOSE


def test_white_is_one_black_is_zero_and_neither_has_edges():
    for value, expected in ((255, 1.0), (0, 0.0)):
        found = vector(np.full((37, 50, 3), value, dtype=np.uint8)).reshape(4, 256)
        assert (found[:3] == expected).all() and (found[3] == 0).all()


def test_colours_come_in_their_order_and_rows_from_the_top():
    frame = np.zeros((64, 64, 3), dtype=np.uint8)
    frame[:4, :, 0] = 255  # the first row of cells is red
    frame[:, :4, 2] = 255  # the first column has blue
    red, green, blue, edges = vector(frame).reshape(4, 16, 16)
    assert (red[0] == 1).all() and (red[1:] == 0).all() and (green == 0).all()
    assert (blue[:, 0] == 1).all() and (blue[:, 1:] == 0).all()
    assert edges[8, 8] == 0 and edges[0, 8] > 0 and edges[8, 0] > 0


def test_a_bright_step_is_an_edge_of_half_its_height_where_it_lies():
    frame = np.zeros((64, 64, 3), dtype=np.uint8)
    frame[:, 32:] = 255
    edges = vector(frame).reshape(4, 16, 16)[3]
    # Two columns of 64 see the step, one on either side of the border of two cells: a quarter of each, by a half.
    assert np.abs(edges[:, [7, 8]] - 0.125).max() < CLOSE and np.abs(np.delete(edges, [7, 8], axis=1)).max() < CLOSE


def test_a_large_frame_is_summed_without_loss():
    # Eight thousand rows of white: sums of bytes that float32 holds exactly, up to 2^24.
    assert (vector(np.full((8_000, 70, 3), 255, dtype=np.uint8)).reshape(4, 256)[:3] == 1).all()


def test_four_threads_at_once_make_what_one_makes():
    backbone, frames = Thumbnail(), [picture(90 + seed, 70, seed) for seed in range(24)]
    alone = [backbone.prepare(frame) for frame in frames]
    with ThreadPoolExecutor(4) as pool:
        for found, expected in zip(pool.map(backbone.prepare, frames), alone, strict=True):
            assert np.array_equal(found, expected)


def test_what_is_given_is_left_as_it_was_and_may_be_a_view():
    frame = picture(60, 40)
    frame.flags.writeable = False
    mirrored = frame[:, ::-1]
    assert np.array_equal(vector(mirrored), vector(np.ascontiguousarray(mirrored)))
    assert np.array_equal(vector(np.asfortranarray(frame)), vector(frame))


def test_a_units_vector_depends_on_that_unit_alone():
    backbone = Thumbnail()
    units = [[backbone.prepare(picture(60, 40, seed))] for seed in range(5)]
    for unit, row in zip(units, backbone.embed(units), strict=True):
        assert np.array_equal(backbone.embed([unit])[0], row)


def test_the_name_in_a_feature_spec_is_the_one_it_has_had():
    # It is written into models and data sets: whoever changes what this backbone computes changes a constant with it,
    # and then this line; all that was made before is another's.
    assert Thumbnail().spec == "thumbnail@cdb600da"


@pytest.mark.parametrize(
    "other",
    [type("Other", (Thumbnail,), {"SIDE": 32})(), type("Other", (Thumbnail,), {"CELLS": 8})(), Thumbnail(fps=2)],
    ids=["side", "cells", "rate"],
)
def test_another_constant_makes_another_name(other):
    assert other.spec.startswith("thumbnail@") and other.spec != Thumbnail().spec


def test_its_constants_are_those_it_describes():
    backbone = Thumbnail(fps=2.5)
    assert (backbone.modality, backbone.width, backbone.weights) == ("visual", 1024, "")
    assert backbone.steps == Steps(rate=2.5, length=1, hop=1)
    assert backbone.constants == {"side": 64, "cells": 16, "channels": "red green blue edges"}
    with pytest.raises(ValueError, match="A rate, a length and a hop are positive"):
        Thumbnail(fps=0)
