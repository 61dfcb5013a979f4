"""Whatever people call a film, a sound or a picture becomes one form of it, or a sentence."""

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from modeling_dualspace.media import MediaError
from modeling_dualspace.media_inputs import as_list, as_pixels, as_samples, is_path, named
from modeling_dualspace.optional import require

Image = require("PIL.Image", extra="media")


def colours(height=6, width=9, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


# One or several.


@pytest.mark.parametrize("many, shape", [(1, (50,)), (3, (4, 5, 3)), (4, (2, 4, 5, 3))])
@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
def test_an_array_is_one_and_with_one_axis_more_it_is_several(many, shape, kind):
    one, several = kind(np.ones(shape, np.float32)), kind(np.ones((3, *shape), np.float32))
    assert len(as_list(one, many)) == 1 and as_list(one, many)[0] is one
    assert [tuple(each.shape) for each in as_list(several, many)] == [shape] * 3
    for wrong in (kind(np.ones(shape[:-1], np.float32)), kind(np.ones((1, 1, *shape), np.float32))):
        with pytest.raises(
            ValueError, match=rf"^Expected an array of {many} axes, or {many + 1} for several, got .*\.$"
        ):
            as_list(wrong, many)


@pytest.mark.parametrize("many", [1, 3, 4])
def test_a_path_is_one_of_anything_and_a_list_of_paths_is_several(many):
    assert as_list("film.mp4", many) == ["film.mp4"] and as_list(Path("film.mp4"), many) == [Path("film.mp4")]
    for several in (["a", Path("b")], ("a", Path("b")), iter(["a", Path("b")])):
        assert as_list(several, many) == ["a", Path("b")]


@pytest.mark.parametrize("many", [1, 3, 4])
def test_nothing_is_none_and_an_empty_list_is_a_sentence(many):
    assert as_list(None, many) == []
    for empty in ([], (), iter([])):
        with pytest.raises(ValueError, match=r"^Nothing to look at or listen to: the list is empty\.$"):
            as_list(empty, many)


@pytest.mark.parametrize("many, shape", [(1, (0, 50)), (3, (0, 4, 5, 3)), (4, (0, 2, 4, 5, 3))])
def test_an_array_of_none_is_the_same_sentence(many, shape):
    with pytest.raises(ValueError, match="^Nothing to look at or listen to"):
        as_list(np.zeros(shape, np.float32), many)


def test_a_list_of_numbers_is_one_sound_and_a_list_of_sounds_several():
    (one,) = as_list([0.5, -0.5, 0, 1], 1)
    assert one.tolist() == [0.5, -0.5, 0, 1]
    (one,) = as_list((value / 10 for value in range(5)), 1)
    assert one.shape == (5,)
    assert len(as_list([[0.5, 0.25], [0.5]], 1)) == len(as_list([np.zeros(3), np.zeros(5)], 1)) == 2


def test_a_list_of_numpys_numbers_is_one_sound_too():
    assert len(as_list(list(np.zeros(5, np.float32)), 1)) == 1


def test_a_list_of_frames_is_one_film_and_a_list_of_such_lists_several():
    frame, picture = colours(), Image.fromarray(colours())
    for frames in ([frame, frame], [picture, picture], (frame for _ in range(2)), [torch.from_numpy(frame)] * 2):
        ((first, second),) = as_list(frames, 4)
        assert np.array_equal(as_pixels(first), frame) and np.array_equal(as_pixels(second), frame)
    assert [len(film) for film in as_list([[frame] * 2, [picture] * 3, np.stack([frame] * 4)], 4)] == [2, 3, 4]
    assert len(as_list([frame, frame], 3)) == 2  # pictures


@pytest.mark.parametrize("many", [1, 3, 4])
def test_what_is_neither_one_nor_several_is_a_sentence(many):
    with pytest.raises(ValueError, match=r"\.$"):
        as_list(5, many)


def test_what_is_a_path_and_how_things_are_called():
    assert is_path("a") and is_path(Path("a")) and not any(map(is_path, (b"a", np.zeros(3), ["a"], None, 5)))
    assert named(Path("a/b.mp4")) == "a/b.mp4" and named(np.zeros(3)) == "ndarray" and named([colours()]) == "list"


# Sounds.


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_samples_of_any_float_are_those_numbers_in_float32(kind):
    samples = np.linspace(-1, 1, 33, dtype=np.float32).astype(kind)
    for given in (samples, samples[::-1][::-1], torch.from_numpy(samples)):
        found = as_samples(given)
        assert found.dtype == np.float32 and np.array_equal(found, samples.astype(np.float32))
    assert as_samples([0.5, -0.25]).tolist() == [0.5, -0.25]


def test_a_little_beyond_one_is_let_pass_as_resamplers_make_it():
    assert as_samples(np.array([1.3, -1.2])).max() == np.float32(1.3)


@pytest.mark.parametrize(
    "wrong",
    [np.zeros((2, 50)), np.zeros((50, 2)), np.zeros(9, np.int16), np.zeros(9, bool), np.zeros(9, complex), 0.5, None],
    ids=["stereo", "stereo the other way", "whole numbers", "truths", "complex", "a number", "nothing"],
)  # fmt: skip
def test_what_is_no_row_of_floats_is_refused_and_told_what_to_do(wrong):
    with pytest.raises(ValueError) as caught:
        as_samples(wrong)
    given = np.asarray(wrong)
    assert str(caught.value) == (
        f"A sound is one row of samples within -1 and 1, as floats, got {given.dtype} of shape {given.shape}: average "
        "channels, and divide whole numbers by their largest."
    )


@pytest.mark.parametrize("wrong, largest", [(np.nan, "nan"), (np.inf, "inf"), (-32768.0, "32768")])
def test_samples_beyond_one_or_that_are_no_numbers_are_refused(wrong, largest):
    with pytest.raises(ValueError, match=rf"^Samples must lie within -1 and 1, the largest is {largest}\.$"):
        as_samples(np.array([0.5, wrong, 0.25]))


def test_a_sound_of_no_samples_is_refused():
    with pytest.raises(ValueError, match=r"^A sound has no samples: leave it out"):
        as_samples(np.zeros(0))


def test_a_sound_of_no_samples_is_told_that_it_is_empty():
    with pytest.raises(ValueError, match="empty|no samples"):
        as_samples(np.zeros(0))


# Pictures.


MODES = ["RGB", "L", "RGBA", "P", "LA", "1", "CMYK"]


@pytest.mark.parametrize("mode", MODES)
def test_a_picture_of_any_mode_is_what_pil_makes_rgb_of_it_also_from_a_file(mode, tmp_path):
    picture = Image.fromarray(colours()).convert(mode)
    expected = np.asarray(picture.convert("RGB"))
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    picture.save(path)
    for given in (picture, path, str(path)):
        found = as_pixels(given)
        assert found.dtype == np.uint8 and found.shape == (6, 9, 3) and np.array_equal(found, expected)


def test_an_array_is_taken_as_it_is():
    assert np.array_equal(as_pixels(colours()), colours())
    assert np.array_equal(as_pixels(torch.from_numpy(colours())), colours())
    assert np.array_equal(as_pixels(colours()[:, ::-1]), colours()[:, ::-1])


@pytest.mark.parametrize(
    "wrong",
    [colours() / 255, colours().astype(np.int64), colours()[:, :, 0], colours().transpose(2, 0, 1), colours()[None],
     colours()[:, :, [0, 1, 2, 0]], colours()[:0], colours()[:, :0]],
    ids=["floats", "int64", "grey", "channels first", "a batch", "four channels", "no rows", "no columns"],
)  # fmt: skip
def test_an_array_that_is_no_rgb_picture_is_refused_with_what_came(wrong):
    with pytest.raises(ValueError) as caught:
        as_pixels(wrong)
    assert str(caught.value) == (
        f"A picture is an array (height, width, 3) of uint8, RGB, got {wrong.dtype} of shape {wrong.shape}."
    )


@pytest.mark.parametrize("name", ["gone.png", "folder", "text.png", "empty.png", "a\nb.png"])
def test_a_file_that_is_no_picture_is_a_sentence_with_its_name(name, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.png").touch()
    with pytest.raises(MediaError) as caught:
        as_pixels(tmp_path / name)
    assert str(caught.value).startswith(repr(str(tmp_path / name))) and str(caught.value).endswith(".")
    assert "\n" not in str(caught.value) and "is no picture that can be read" in caught.value.reason


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "WEBP", "PPM"])
def test_a_damaged_picture_is_read_or_refused_but_never_ends_in_anything_else(form, tmp_path):
    chance, stream, path = np.random.default_rng(0), io.BytesIO(), tmp_path / "damaged"
    Image.fromarray(colours(20, 30)).save(stream, form)
    whole, outcomes = stream.getvalue(), set()
    for number in range(150):
        damaged = bytearray(whole[: chance.integers(1, len(whole))] if number % 2 else whole)
        for _ in range(int(chance.integers(0, 4))):
            # Not its size: see what is said of bombs below.
            damaged[int(chance.integers(min(40, len(damaged) - 1), len(damaged)))] = int(chance.integers(256))
        path.write_bytes(damaged)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                assert as_pixels(path).ndim == 3
                outcomes.add("read")
            except MediaError as error:
                assert "\n" not in str(error)
                outcomes.add("refused")
    assert outcomes == {"read", "refused"}


def test_a_small_file_of_a_huge_picture_is_refused_by_a_sentence(tmp_path):
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    assert (tmp_path / "bomb.png").stat().st_size < 100_000
    with pytest.raises(MediaError, match="pixels"):
        as_pixels(tmp_path / "bomb.png")


def test_a_photograph_from_a_telephone_held_upright_is_upright_as_a_film_is(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    Image.fromarray(colours()).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(as_pixels(tmp_path / "a.png"), np.rot90(colours(), -1))
