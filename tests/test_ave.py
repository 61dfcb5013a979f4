"""AVE: the official release, its leaks and films, the authors' six keys, and sources that are broken in every way."""

import csv
import os
import re
import shlex
import shutil
from collections import Counter
from fractions import Fraction

import h5py
import numpy as np
import pytest
from datasets import get_dataset_config_names, load_dataset

from modeling_dualspace.clip_folder import list_clips
from modeling_dualspace.feature_builder import GUESS

# Of DESIGN.md, section 4: clips of train, validation and test.
COUNTS = {
    "Goat": (80, 10, 10),
    "Clock": (128, 16, 16),
    "Motorcycle": (81, 9, 9),
    "Train horn": (142, 17, 17),
    "Bark": (137, 17, 17),
    "Cat": (48, 6, 6),
    "Bus": (57, 6, 6),
    "Rodents, rats, mice": (89, 10, 10),
    "Toilet flush": (144, 18, 18),
    "Acoustic guitar": (150, 18, 18),
    "Frying (food)": (146, 18, 18),
    "Chainsaw": (128, 16, 16),
    "Horse": (52, 6, 6),
    "Helicopter": (144, 17, 17),
    "Baby cry, infant cry": (67, 8, 8),
    "Truck": (112, 13, 13),
}
CLASSES = {
    "ave15": [name for name in COUNTS if name != "Clock"],
    "ave15-as-printed": [name for name in COUNTS if name != "Goat"],
}
OTHERS = [
    "Church bell",
    "Male speech, man speaking",
    "Fixed-wing aircraft, airplane",
    "Race car, auto racing",
    "Female speech, woman speaking",
    "Violin, fiddle",
    "Flute",
    "Ukulele",
    "Shofar",
    "Banjo",
    "Accordion",
    "Mandolin",
]
SPLITS = ("train", "validation", "test")
ORDERS = dict(zip(SPLITS, ("train_order.h5", "val_order.h5", "test_order.h5"), strict=True))
LISTS = dict(zip(SPLITS, ("trainSet.txt", "valSet.txt", "testSet.txt"), strict=True))
HEADER = "Category&VideoID&Quality&StartTime&EndTime"


def write_h5(path, **arrays):
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            if array is not None:
                file[name] = array
    return path


class Release:
    """A release of 60 clips: of each class two, one of them for train; then four that share films with others."""

    def __init__(self):
        names = [name for pair in zip(OTHERS, COUNTS, strict=False) for name in pair] + list(COUNTS)[len(OTHERS) :]
        self.categories = [name for name in names for _ in range(2)] + ["Bark", "Bark", "Bark", "Flute"]
        self.names = names
        self.videos = [f"film-{row:02d}" for row in range(60)]
        self.splits = {"train": [*range(0, 56, 2), 58], "validation": [*range(1, 56, 4), 57], "test": []}
        self.splits["test"] = [row for row in range(60) if row not in sum(self.splits.values(), [])]
        self.videos[58] = self.videos[57] = self.videos[56] = "everywhere"
        self.videos[self.categories.index("Cat")] = self.videos[49] = "train+validation"
        self.videos[self.categories.index("Flute")] = self.videos[59] = "train+test"
        self.videos[0] = self.videos[2] = "twice in train"
        generator = np.random.default_rng(0)
        self.splits = {name: generator.permutation(rows).tolist() for name, rows in self.splits.items()}
        self.times = [(float(row % 4), row % 4 + 2.5) for row in range(60)]

    @property
    def lines(self):
        return [
            f"{category}&{video}&good&{start:g}&{end:g}"
            for category, video, (start, end) in zip(self.categories, self.videos, self.times, strict=True)
        ]

    def features(self, axes, width, stored):
        """Eighths: they sum without rounding in any order."""
        return (np.random.default_rng(width).integers(-99, 99, (60, *axes, width), dtype=np.int16) / 8).astype(stored)

    def write(self, root, visual_axes=(2, 1, 1), audio="<f8", visual="<f4", text=None):
        root.mkdir(parents=True)
        (root / "Annotations.txt").write_text("\n".join(self.lines) + "\n" if text is None else text)
        for split, name in ORDERS.items():
            write_h5(root / name, order=np.array(self.splits[split]))
        self.audio, self.visual = self.features((10,), 128, audio), self.features(visual_axes, 512, visual)
        write_h5(root / "audio_feature.h5", avadataset=self.audio)
        write_h5(root / "visual_feature.h5", avadataset=self.visual)
        return self


def averaged(array):
    flat = array.reshape(len(array), -1, array.shape[-1]).astype(np.float64)
    return (flat.sum(axis=1) / flat.shape[1]).astype(np.float32)


def load(folder, cache, config=None):
    return load_dataset(str(folder), config, cache_dir=str(cache)).with_format("numpy")


def card_of(folder):
    return (folder / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def ave(script):
    return script("ave")


@pytest.fixture(scope="module")
def release(ave, tmp_path_factory):
    """The release in its published shape, and `out`, the folder that the command made of it."""
    root = tmp_path_factory.mktemp("release")
    made = Release().write(root / "AVE_Dataset", visual_axes=(10, 7, 7))
    made.out = root / "out"
    assert ave.main(["--source", str(root / "AVE_Dataset"), "--out", str(made.out)]) == 0
    (root / "AVE_Dataset" / "visual_feature.h5").unlink()  # 60 MB that nobody reads again
    return made


@pytest.fixture
def built(ave, builds):
    """`built(source, flags...)`: the folder that the command made."""
    return builds(ave.main)


@pytest.fixture
def refused(ave, refuses):
    """`refused(source, flags...)`: the one line in which the command ends, having made no folder."""
    return refuses(ave.main)


# The real annotations.


@pytest.fixture(scope="module")
def real(data_root):
    if not (data_root / "ave").is_dir():
        pytest.skip("the annotations of AVE are not in the folder of real data")
    return data_root / "ave"


def test_the_official_annotations_have_the_rows_and_films_that_are_known(ave, real):
    clips = ave.read_annotations(real / "Annotations.txt")
    assert len(clips) == 4143 and len({clip.video for clip in clips}) == 4097
    assert list(dict.fromkeys(clip.category for clip in clips)) == ave.OFFICIAL
    assert sorted(ave.OFFICIAL) == sorted([*COUNTS, *OTHERS])


@pytest.mark.parametrize(
    ("config", "rows"),
    [("ave15", (1577, 189, 189)), ("ave15-as-printed", (1625, 195, 195)), ("ave28", (3339, 402, 402))],
)
def test_the_official_splits_have_the_counts_of_the_paper(config, rows, ave, real):
    splits, taken = ave.official_splits(real, config)
    assert tuple(len(splits[name]) for name in SPLITS) == rows and not any(taken.values())
    counts = [Counter(clip.category for clip in splits[name]) for name in SPLITS]
    for name in CLASSES.get(config, COUNTS):
        assert tuple(count[name] for count in counts) == COUNTS[name]
    assert {clip.category for clip in splits["train"]} == set(CLASSES.get(config, COUNTS)) | (
        set(OTHERS) if config == "ave28" else set()
    )


def test_the_official_splits_share_the_films_that_are_known(ave, real):
    found = {pair: len(videos) for pair, videos in ave.leaks(ave.official_splits(real, "ave28")[0]).items()}
    assert found == {("train", "validation"): 10, ("train", "test"): 8, ("validation", "test"): 0}


@pytest.mark.parametrize("config", ["ave15", "ave15-as-printed", "ave28"])
def test_deduplicated_official_splits_share_no_film_and_test_stays_whole(config, ave, real):
    before = ave.official_splits(real, config)[0]
    splits, taken = ave.official_splits(real, config, deduplicate=True)
    assert not any(ave.leaks(splits).values()) and splits["test"] == before["test"]
    for name in SPLITS:
        assert taken[name] == [clip for clip in before[name] if clip not in splits[name]]
    later = {clip.video for name in ("validation", "test") for clip in before[name]}
    assert splits["train"] == [clip for clip in before["train"] if clip.video not in later]


# A release of our own.


def test_the_release_has_three_configurations_of_which_the_papers_is_the_default(release, tmp_path):
    assert get_dataset_config_names(str(release.out)) == ["ave15", "ave15-as-printed", "ave28"]
    assert load(release.out, tmp_path)["test"].features["label"].names == CLASSES["ave15"]


@pytest.mark.parametrize("config", ["ave15", "ave15-as-printed", "ave28"])
def test_rows_come_out_averaged_in_the_official_order_bit_for_bit(config, release, ave, tmp_path):
    clips = load(release.out, tmp_path, config)
    names = CLASSES.get(config, [name for name in ave.OFFICIAL if name in release.names])
    audio, visual = averaged(release.audio), averaged(release.visual)
    assert list(clips) == list(SPLITS)
    for name, split in clips.items():
        rows = [row for row in release.splits[name] if release.categories[row] in names]
        assert list(split["clip_id"]) == [f"{release.videos[row]}/{row:06d}" for row in rows]
        assert split["audio_features"][:].tobytes() == audio[rows].tobytes()
        assert split["visual_features"][:].tobytes() == visual[rows].tobytes()
        assert split.features["label"].names == names
        assert split["label"][:].tolist() == [names.index(release.categories[row]) for row in rows]
        assert list(split["video"]) == [release.videos[row] for row in rows]
        assert list(zip(split["event_start"], split["event_end"], strict=True)) == [release.times[row] for row in rows]


def test_the_twin_of_the_mean_is_the_mean():
    array = Release().features((2, 3), 4, "f4")[:2]
    frames = array.reshape(2, 6, 4).tolist()
    expected = [[float(sum(map(Fraction, column)) / 6) for column in zip(*rows, strict=True)] for rows in frames]
    assert averaged(array).tolist() == np.array(expected).astype(np.float32).tolist()


@pytest.mark.parametrize(("audio", "visual"), [(">f8", ">f4"), ("<f4", "<f8"), ("<f2", ">f2")])
def test_features_of_any_float_type_and_byte_order_are_read(audio, visual, built, tmp_path):
    made = Release().write(tmp_path / "AVE_Dataset", audio=audio, visual=visual)
    clips = load(built(tmp_path / "AVE_Dataset"), tmp_path / "cache", "ave28")
    for name, split in clips.items():
        assert split["audio_features"][:].tobytes() == averaged(made.audio)[made.splits[name]].tobytes()
        assert split["visual_features"][:].tobytes() == averaged(made.visual)[made.splits[name]].tobytes()


NOTE = re.compile(r"- Videos with clips in both (\w+) and (\w+): (\d+) \(([^)]*)\)(.*)\.")


def test_films_in_two_splits_stand_in_the_card_by_configuration(release):
    found = {config: {} for config in ("ave15", "ave15-as-printed", "ave28")}
    for line in card_of(release.out).splitlines():
        if line.startswith("- Videos"):
            first, second, count, videos, where = NOTE.fullmatch(line).groups()
            assert int(count) == len(videos.split(", "))
            for config in re.findall("`(.+?)`", where) or found:
                found[config][first, second] = videos.split(", ")
    printed = {
        ("train", "validation"): ["everywhere", "train+validation"],
        ("train", "test"): ["everywhere"],
        ("validation", "test"): ["everywhere"],
    }
    everything = printed | {("train", "test"): ["everywhere", "train+test"]}
    assert found == {"ave15": printed, "ave15-as-printed": printed, "ave28": everything}


def test_the_card_says_that_the_features_are_not_the_papers(release):
    assert "visual features are not the paper's" in " ".join(card_of(release.out).split())


def test_without_duplicates_no_film_is_in_two_splits_and_the_later_one_keeps_it(built, tmp_path):
    release = Release().write(tmp_path / "AVE")
    folder = built(tmp_path / "AVE", "--deduplicate")
    clips = load(folder, tmp_path / "cache", "ave28")
    rows = {name: [int(clip.split("/")[1]) for clip in split["clip_id"]] for name, split in clips.items()}
    films = {name: {release.videos[row] for row in chosen} for name, chosen in rows.items()}
    assert rows["test"] == release.splits["test"]
    assert rows["validation"] == [row for row in release.splits["validation"] if release.videos[row] != "everywhere"]
    gone = ("everywhere", "train+validation", "train+test")
    assert rows["train"] == [row for row in release.splits["train"] if release.videos[row] not in gone]
    assert (
        "twice in train" in films["train"] and not films["train"] & films["validation"] | films["train"] & films["test"]
    )
    assert clips["train"]["audio_features"][:].tobytes() == averaged(release.audio)[rows["train"]].tobytes()
    card = card_of(folder)
    assert "`ave28` lost 3 of train and 1 of validation." in card and "Videos with clips in both" not in card
    assert "`ave15` lost 2 of train and 1 of validation," in card


TEXTS = {
    "with a header": lambda lines: "\n".join([HEADER, *lines, ""]),
    "with spaces in the header": lambda lines: "\n".join(
        ["Category & VideoID & Quality & StartTime & EndTime", *lines]
    ),
    "without a last line break": lambda lines: "\n".join(lines),
    "from Windows": lambda lines: "\r\n".join([*lines, ""]),
    "with a mark of its encoding": lambda lines: "\ufeff" + "\n".join(lines),
    "with a mark and a header": lambda lines: "\n".join(["\ufeffCategory&VideoID&Quality&StartTime&EndTime", *lines]),
}


@pytest.mark.parametrize("case", TEXTS)
def test_annotations_are_read_with_and_without_a_header(case, ave, tmp_path):
    made = Release()
    (tmp_path / "Annotations.txt").write_text(TEXTS[case](made.lines), encoding="utf-8", newline="")
    clips = ave.read_annotations(tmp_path / "Annotations.txt")
    assert [(clip.row, clip.category, clip.video) for clip in clips] == list(
        zip(range(60), made.categories, made.videos, strict=True)
    )
    assert [(clip.start, clip.end) for clip in clips] == made.times


def test_the_files_may_lie_deeper_and_behind_a_link(built, tmp_path):
    # The features of the release are gigabytes, and often lie on another disk.
    made = Release().write(tmp_path / "AVE")
    for number, path in enumerate(sorted((tmp_path / "AVE").glob("*.h5"))):
        target = (tmp_path / "disk") if number % 2 else (tmp_path / "AVE" / "data")
        target.mkdir(exist_ok=True)
        path.rename(target / path.name)
    (tmp_path / "AVE" / "linked").symlink_to(tmp_path / "disk", target_is_directory=True)
    clips = load(built(tmp_path / "AVE"), tmp_path / "cache", "ave28")
    assert clips.num_rows == {name: len(rows) for name, rows in made.splits.items()}


def test_orders_of_another_key_and_shape_are_read(built, tmp_path):
    made = Release().write(tmp_path / "AVE")
    write_h5(tmp_path / "AVE" / "val_order.h5", rows=np.array(made.splits["validation"], ">u2")[:, None])
    clips = load(built(tmp_path / "AVE"), tmp_path / "cache", "ave28")
    assert clips.num_rows["validation"] == len(made.splits["validation"])


# Releases that are not what they should be.


def with_array(name, array, key=None):
    return lambda root: write_h5(root / name, **{key or ("order" if "order" in name else "avadataset"): array})


def with_text(old, new):
    def change(root):
        path = root / "Annotations.txt"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new, 1))

    return change


def with_nothing(name):
    return lambda root: (root / name).unlink()


def cut(name, share):
    return lambda root: (root / name).write_bytes(
        (root / name).read_bytes()[: int(share * (root / name).stat().st_size)]
    )


BAD = np.ones((60, 10, 128))
BAD[[0, 5], 3, 7] = np.nan, np.inf
LINE = Release().lines[3]
HOSTILE = {
    "no annotations": (with_nothing("Annotations.txt"), "expected Annotations.txt somewhere below it, and found none"),
    "no order": (with_nothing("val_order.h5"), "expected val_order.h5 somewhere below it, and found none"),
    "no features": (with_nothing("visual_feature.h5"), "expected visual_feature.h5 somewhere below it"),
    "a line of four": (
        with_text(LINE, LINE.replace("&good", "")),
        "Annotations.txt, row 3: expected `category&video&quality&start&end`, got 'Goat",
    ),
    "a line of six": (with_text(LINE, LINE + "&6"), "Annotations.txt, row 3: expected `category&video&quality&start"),
    "a time in words": (with_text(LINE, LINE.replace("&3&", "&three&")), "Annotations.txt, row 3"),
    "a time that is no number": (with_text(LINE, LINE.replace("&3&", "&nan&")), "Annotations.txt, row 3"),
    "a class of nobody's": (with_text("Flute&", "Flut&"), "Flut"),
    "no lines": (lambda root: (root / "Annotations.txt").write_text("\n"), "Annotations.txt has no rows"),
    "no UTF-8": (lambda root: (root / "Annotations.txt").write_bytes(b"caf\xe9&a&good&1&2\n"), "not UTF-8 (byte 3)"),
    "a row beyond": (with_array("val_order.h5", [60]), "val_order.h5: expected rows of the annotations, 0 to 59"),
    "a row before": (with_array("val_order.h5", [-1]), "val_order.h5: expected rows of the annotations, 0 to 59"),
    "rows with halves": (with_array("val_order.h5", [1.5]), "val_order.h5: expected rows of the annotations"),
    "rows in words": (with_array("val_order.h5", [b"one"]), "val_order.h5: expected rows of the annotations"),
    "no rows": (with_array("val_order.h5", np.ones(0, int)), "val_order.h5: expected rows of the annotations"),
    "a row twice": (
        with_array("val_order.h5", [1, 5, 1]),
        "row 1 of the annotations stands in the orders more than once",
    ),
    "a row of train": (with_array("val_order.h5", [1, 4]), "row 4 of the annotations stands in the orders more than"),
    "other keys": (
        lambda root: write_h5(root / "val_order.h5", a=[1], b=[2]),
        "val_order.h5: expected the key `order`, got a, b",
    ),
    "no keys": (lambda root: write_h5(root / "audio_feature.h5"), "expected the key `avadataset`, got no keys at all"),
    "a group": (
        lambda root: h5py.File(root / "audio_feature.h5", "w").create_group("avadataset").file.close(),
        "audio_feature.h5",
    ),
    "a scalar": (with_array("audio_feature.h5", 1.0), "audio_feature.h5"),
    "nothing": (with_array("audio_feature.h5", h5py.Empty("f4")), "audio_feature.h5"),
    "fewer rows": (
        with_array("audio_feature.h5", np.ones((59, 10, 128))),
        "rows must pair up: 59 here, 60 annotations",
    ),
    "narrow sound": (
        with_array("audio_feature.h5", np.ones((60, 10, 64))),
        "audio_feature.h5: expected rows of width 128",
    ),
    "channels first": (
        with_array("visual_feature.h5", np.ones((60, 10, 512, 1, 1))),
        "visual_feature.h5: expected rows of width 512, got an array of shape (60, 10, 512, 1, 1)",
    ),
    "one vector": (with_array("audio_feature.h5", np.ones(60)), "audio_feature.h5: expected rows of width 128"),
    "no frames": (with_array("audio_feature.h5", np.ones((60, 0, 128))), "rows hold NaN or infinity"),
    "strings": (with_array("audio_feature.h5", np.full((60, 1, 128), b"x")), "audio_feature.h5: expected numbers"),
    "not numbers": (with_array("audio_feature.h5", BAD), "rows hold NaN or infinity (film-"),
    "half a file": (cut("visual_feature.h5", 0.5), "visual_feature.h5 is truncated"),
    "nearly a file": (cut("val_order.h5", 0.99), "val_order.h5 is truncated"),
    "text": (lambda root: (root / "train_order.h5").write_text("1\n2\n"), "train_order.h5 is no HDF5 file"),
}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A release to copy and to spoil."""
    root = tmp_path_factory.mktemp("small") / "AVE"
    Release().write(root)
    return root


@pytest.mark.parametrize("case", HOSTILE)
def test_a_release_that_does_not_fit_is_refused_in_one_sentence(case, small, refused, tmp_path):
    spoil, message = HOSTILE[case]
    shutil.copytree(small, tmp_path / "AVE")
    spoil(tmp_path / "AVE")
    assert message in refused(tmp_path / "AVE")


def test_a_class_without_clips_is_refused(small, refused, tmp_path):
    shutil.copytree(small, tmp_path / "AVE")
    path = tmp_path / "AVE" / "Annotations.txt"
    path.write_text(path.read_text().replace("Goat&", "Bark&"))
    assert "Configuration ave15 has no clip of 'Goat'" in refused(tmp_path / "AVE", "--config", "ave15")


def test_bad_rows_of_a_release_are_left_out_when_asked_for(small, built, tmp_path):
    shutil.copytree(small, tmp_path / "AVE")
    write_h5(tmp_path / "AVE" / "audio_feature.h5", avadataset=BAD)
    folder = built(tmp_path / "AVE", "--drop-bad-rows", "--config", "ave28")
    assert "- 2 rows of the source held NaN or infinity and were left out." in card_of(folder)
    assert sum(load(folder, tmp_path / "cache").num_rows.values()) == 58


def test_an_order_of_classes_for_a_source_that_names_them_is_refused(small, refused, tmp_path):
    (tmp_path / "order.txt").write_text("\n".join(reversed(CLASSES["ave15"])))
    assert "class-order" in refused(small, "--class-order", tmp_path / "order.txt").replace(
        "class_order", "class-order"
    )


def test_a_configuration_that_is_not_there_is_named(small, refused):
    line = refused(small, "--config", "ave16")
    assert "the configurations ave15, ave15-as-printed, ave28, not ave16" in line


def test_without_a_source_the_command_says_whom_to_ask(ave, capfd, tmp_path):
    assert ave.main(["--out", str(tmp_path / "out")]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "--source is missing" in line and "Tian" in line and not list(tmp_path.iterdir())


# The official videos, as a list of films.


def write_films(root, lines, splits, *, orders=False, lists=True, annotations=True, header=False):
    """The download: films that hold nothing, for nothing is decoded, and the texts beside them."""

    def text(rows):
        return "\n".join([*([HEADER] if header else []), *(lines[row] for row in rows), ""])

    (root / "AVE").mkdir(parents=True)
    for line in lines:
        (root / "AVE" / f"{line.split('&')[1]}.mp4").touch()
    if annotations:
        (root / "Annotations.txt").write_text(text(range(len(lines))))
    for name in SPLITS:
        if lists:
            (root / LISTS[name]).write_text(text(splits[name]))
        if orders:
            write_h5(root / ORDERS[name], order=np.array(splits[name]))
    return root


@pytest.fixture
def listed(ave, tmp_path):
    """`listed(source, flags...)`: the rows of the list that the command made."""

    def of(source, *flags):
        out = tmp_path / "films.csv"
        assert ave.main(["--source", str(source), "--films", "--out", str(out), "--overwrite", *flags]) == 0
        with out.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    return of


def rows_of_list(release, config, folder="AVE_Dataset/AVE"):
    """What the list of a release should be: a video belongs to the last of its splits."""
    wanted = CLASSES.get(config, [*COUNTS, *OTHERS])
    chosen = {name: [row for row in release.splits[name] if release.categories[row] in wanted] for name in SPLITS}
    last = {release.videos[row]: name for name in SPLITS for row in chosen[name]}
    return [
        {
            "clip_id": f"{video}/{row:06d}",
            "path": f"{folder}/{video}.mp4",
            "label": release.categories[row],
            "split": name,
        }
        for name in SPLITS
        for row in chosen[name]
        if last[video := release.videos[row]] == name
    ]


@pytest.mark.parametrize("config", ["ave15", "ave15-as-printed", "ave28"])
@pytest.mark.parametrize("by", [{"orders": True, "lists": False}, {}, {"header": True}, {"orders": True}])
def test_orders_and_lists_give_the_same_films(by, config, listed, tmp_path):
    made = Release()
    source = write_films(tmp_path / "AVE_Dataset", made.lines, made.splits, **by)
    assert listed(source, "--config", config) == rows_of_list(made, config)


def test_the_papers_classes_are_listed_unless_told_otherwise_and_the_file_called_so(ave, tmp_path, monkeypatch):
    made = Release()
    write_films(tmp_path / "AVE_Dataset", made.lines, made.splits)
    monkeypatch.chdir(tmp_path)
    assert ave.main(["--source", "AVE_Dataset", "--films"]) == 0
    assert {clip.label for clip in list_clips("ave15.csv").clips} == set(CLASSES["ave15"])
    assert ave.main(["--films", "--source=AVE_Dataset", "--config=ave28"]) == 0
    assert len(list_clips(tmp_path / "ave28.csv").class_names) == 28


def test_the_list_is_taken_by_list_clips_as_it_is(listed, tmp_path):
    made = Release()
    rows = listed(write_films(tmp_path / "AVE_Dataset", made.lines, made.splits), "--config", "ave28")
    found = list_clips(tmp_path / "films.csv")
    assert {(clip.clip_id, str(clip.path), clip.label, clip.split) for clip in found.clips} == {
        (row["clip_id"], str(tmp_path / row["path"]), row["label"], row["split"]) for row in rows
    }
    assert len(found.clips) == len(rows) and all(clip.start is clip.end is None for clip in found.clips)
    assert all(note.startswith("Classes without a clip in ") for note in found.notes)


def test_the_lists_split_a_release_with_features_as_well(ave, tmp_path):
    made = Release().write(tmp_path / "by orders")
    shutil.copytree(tmp_path / "by orders", tmp_path / "by lists")
    for name in SPLITS:
        (tmp_path / "by lists" / ORDERS[name]).unlink()
        (tmp_path / "by lists" / LISTS[name]).write_text("\n".join(made.lines[row] for row in made.splits[name]))
    for deduplicate in (False, True):
        one, other = (ave.official_splits(tmp_path / by, "ave28", deduplicate) for by in ("by orders", "by lists"))
        assert one == other


def test_without_annotations_the_lines_of_the_lists_are_numbered_through(listed, tmp_path):
    made = Release()
    source = write_films(tmp_path / "AVE_Dataset", made.lines, made.splits, annotations=False)
    rows = listed(source, "--config", "ave28")
    numbers = {row: number for number, row in enumerate(sum(made.splits.values(), []))}
    assert [row["clip_id"] for row in rows] == [
        f"{video}/{numbers[int(number)]:06d}"
        for video, number in (row["clip_id"].split("/") for row in rows_of_list(made, "ave28"))
    ]
    assert [row["path"] for row in rows] == [row["path"] for row in rows_of_list(made, "ave28")]


def test_lines_that_read_alike_are_different_rows(listed, tmp_path):
    lines = ["Cat&one&good&0&10", "Cat&two&good&0&10", "Cat&one&good&0&10", "Cat&three&good&0&10", "Cat&one&good&0&9"]
    source = write_films(tmp_path / "AVE_Dataset", lines, {"train": [4, 0, 2], "validation": [1], "test": [3]})
    rows = listed(source)
    assert [row["clip_id"] for row in rows[:3]] == ["one/000004", "one/000000", "one/000002"]
    assert len(list_clips(tmp_path / "films.csv").clips) == 5


def test_what_a_split_lost_is_said_with_its_videos(listed, tmp_path, capfd):
    made = Release()
    source = write_films(tmp_path / "AVE_Dataset", made.lines, made.splits)
    for config, lost in (("ave15", "2 (everywhere, train+validation)"), ("ave28", "3 (everywhere, train+test, train+")):
        listed(source, "--config", config)
        said = capfd.readouterr()
        assert f"Clips of train left out, as a later split has their videos too: {lost}" in said.out and not said.err
        assert "Clips of validation left out, as a later split has their videos too: 1 (everywhere)." in said.out
        assert "Clips of test" not in said.out and "films are not there" not in said.out


def test_clips_are_counted_by_split_and_class_and_the_next_command_is_told(listed, tmp_path, capfd):
    made = Release()
    rows = listed(write_films(tmp_path / "AVE_Dataset", made.lines, made.splits))
    *table, last = [line for line in capfd.readouterr().out.splitlines() if not line.startswith("Clips ")]
    table = {line[:30].strip(): line[30:].split() for line in table}
    counts = Counter((row["label"], row["split"]) for row in rows)
    assert table.pop("clips") == list(SPLITS)
    assert table.pop("all") == [str(sum(row["split"] == name for row in rows)) for name in SPLITS]
    assert table == {name: [str(counts[name, split]) for split in SPLITS] for name in CLASSES["ave15"]}
    command = f"dualspace extract {shlex.quote(str(tmp_path / 'films.csv'))} --recipe extract_ave --out films-features"
    assert last == f"Wrote {tmp_path / 'films.csv'}. Next: {command}"


def test_clips_whose_films_are_not_there_are_left_out_and_counted(listed, tmp_path, capfd):
    made = Release()
    source = write_films(tmp_path / "AVE_Dataset", made.lines, made.splits)
    expected = rows_of_list(made, "ave28")
    gone = sorted({row["path"] for row in expected})[::4]
    for path in gone:
        (tmp_path / path).rename(tmp_path / f"{path}.part")
    rows = listed(source, "--config", "ave28")
    assert rows == [row for row in expected if row["path"] not in gone]
    absent = sorted(row["clip_id"] for row in expected if row["path"] in gone)
    said = capfd.readouterr().out
    assert f"Clips left out, as their films are not there: {len(absent)} ({', '.join(absent[:5])}, …)." in said
    assert len(list_clips(tmp_path / "films.csv").clips) == len(rows)


def test_films_are_found_at_any_depth_with_any_extension_and_behind_links(listed, tmp_path):
    lines = [f"Cat&{video}&good&0&10" for video in ("-a_1", "b", "c", "d")]
    source = write_films(tmp_path / "AVE_Dataset", lines, {"train": [0, 1], "validation": [2], "test": [3]})
    (source / "AVE" / "b.mp4").rename(source / "b.WebM")
    (source / "AVE" / "old").mkdir()
    (source / "AVE" / "old" / "b.mp4").touch()
    (source / "AVE" / "b.f137.mp4").touch()
    (source / "AVE" / "b.jpg").touch()
    (tmp_path / "disk").mkdir()
    (source / "AVE" / "c.mp4").rename(tmp_path / "disk" / "c.mp4")
    (source / "linked").symlink_to(tmp_path / "disk", target_is_directory=True)
    (tmp_path / "link").symlink_to(source, target_is_directory=True)
    paths = ["AVE_Dataset/AVE/-a_1.mp4", "AVE_Dataset/b.WebM", "disk/c.mp4", "AVE_Dataset/AVE/d.mp4"]
    assert [row["path"] for row in listed(tmp_path / "link")] == paths
    assert len(list_clips(tmp_path / "films.csv").clips) == 4


def test_a_list_that_is_there_is_replaced_only_when_asked_for(listed, refused, tmp_path):
    made = Release()
    source = write_films(tmp_path / "AVE_Dataset", made.lines, made.splits)
    (tmp_path / "films.csv").write_text("mine")
    line = refused(source, "--films", "--out", tmp_path / "films.csv")
    assert "films.csv exists already: choose another name, or pass --overwrite" in line
    assert (tmp_path / "films.csv").read_text() == "mine"
    assert listed(source) == rows_of_list(made, "ave15")


def test_without_a_source_the_list_says_whom_to_ask(ave, capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert ave.main(["--films"]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "--source is missing" in line and "Tian" in line and not list(tmp_path.iterdir())


def without_films(root):
    shutil.rmtree(root / "AVE")


def with_line(name, line):
    return lambda root: (root / name).write_text((root / name).read_text() + line + "\n")


BAD_FILMS = {
    "no film at all": (without_films, [], "expected films called <video id>.mp4 below it, and found none of"),
    "no annotations for orders": (with_nothing("Annotations.txt"), [], "expected Annotations.txt somewhere below it"),
    "no list": (with_nothing("valSet.txt"), [], "expected valSet.txt somewhere below it, and found none"),
    "an order more": (
        lambda root: write_h5(root / "val_order.h5", order=[1]),
        [],
        "expected train_order.h5 somewhere below it, and found none",
    ),
    "a line of nobody's": (
        with_line("valSet.txt", "Cat&nobody&good&0&10"),
        [],
        "row 15 of valSet.txt, Cat in nobody, is not in Annotations.txt, or not as often",
    ),
    "a line of another time": (
        with_line("testSet.txt", "Flute&train+test&good&0&10"),
        [],
        "Flute in train+test, is not",
    ),
    "a line of train twice": (with_line("valSet.txt", Release().lines[0]), [], "in twice in train, is not in"),
    "a line of four": (with_line("valSet.txt", "Cat&nobody&good&0"), [], "valSet.txt, row 15: expected `category&"),
    "an empty list": (lambda root: (root / "valSet.txt").write_text(HEADER), [], "valSet.txt has no rows"),
    "another ending": (None, ["--out", "films.txt"], "A list of films ends in .csv, unlike"),
    "a folder": (None, ["--out", "AVE_Dataset"], "AVE_Dataset is a folder, and a file will be written"),
    "a place elsewhere": (None, ["--out", "AVE_Dataset/lists/films.csv"], "must lie in a folder above"),
    "another configuration": (
        None,
        ["--config", "ave16"],
        "one of ave15, ave15-as-printed, ave28 as --config, got ave16",
    ),
    "two configurations": (None, ["--config", "ave15", "--config", "ave28"], "as --config, got ave15, ave28"),
    "a file": (None, ["--source", "AVE_Dataset/Annotations.txt"], "Expected the folder of the official videos"),
    "nothing": (None, ["--source", "nowhere"], "and nowhere is none. The official release"),
}


@pytest.mark.parametrize("case", BAD_FILMS)
def test_films_that_cannot_be_listed_are_refused_in_one_sentence(case, refused, tmp_path, monkeypatch):
    spoil, flags, message = BAD_FILMS[case]
    made = Release()
    write_films(tmp_path / "AVE_Dataset", made.lines, made.splits, lists="orders" not in case, orders="orders" in case)
    if spoil:
        spoil(tmp_path / "AVE_Dataset")
    monkeypatch.chdir(tmp_path)
    assert message in refused("AVE_Dataset", "--films", "--out", "films.csv", *flags)


def test_a_folder_of_films_whose_name_is_no_text_is_refused(refused, tmp_path):
    made = Release()
    source = write_films(tmp_path / os.fsdecode(b"caf\xe9"), made.lines, made.splits)
    assert "is not UTF-8 and cannot stand in a list: rename it" in refused(
        source, "--films", "--out", tmp_path / "a.csv"
    )


@pytest.mark.parametrize("flags", [["--deduplicate"], ["--drop-bad-rows"], ["--class-order", "order.txt"]])
def test_what_only_features_have_is_no_flag_of_a_list(flags, ave, tmp_path, capfd):
    with pytest.raises(SystemExit, match="2"):
        ave.main(["--source", str(tmp_path), "--films", *flags])
    assert f"unrecognized arguments: {flags[0]}" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("config", "lost", "leaking"),
    [
        ("ave15", 1, ["Chainsaw"]),
        ("ave15-as-printed", 1, ["Chainsaw"]),
        ("ave28", 19, ["Chainsaw", "Helicopter", "Motorcycle"]),
    ],
)
def test_the_official_films_have_the_counts_of_the_paper_less_the_leaks(
    config, lost, leaking, ave, real, listed, tmp_path
):
    before = ave.official_splits(real, config)[0]
    lines = [line for line in (real / "Annotations.txt").read_text().splitlines() if not line.startswith("Category&")]
    splits = {name: [clip.row for clip in clips] for name, clips in ave.official_splits(real, "ave28")[0].items()}
    rows = listed(write_films(tmp_path / "AVE_Dataset", lines, splits), "--config", config)
    counts = Counter((row["label"], row["split"]) for row in rows)
    for name in CLASSES.get(config, COUNTS):
        train, validation, test = COUNTS[name]
        assert tuple(counts[name, split] for split in SPLITS) == (train - (name in leaking), validation, test)
    assert len(rows) == sum(map(len, before.values())) - lost
    assert len(list_clips(tmp_path / "films.csv").clips) == len(rows)


# The authors' six keys.


def six_arrays(**changes):
    generator = np.random.default_rng(0)
    arrays = {}
    for split, rows in (("train", 45), ("test", 15)):
        arrays[f"audio_{split}"] = (generator.integers(-99, 99, (rows, 10, 128)) / 8).astype(">f4")
        arrays[f"visual_{split}"] = (generator.integers(-99, 99, (rows, 10, 1024)) / 8).astype(np.float32)
        arrays[f"lab_{split}"] = np.eye(15)[np.arange(rows) % 15]
    return arrays | changes


def test_sequences_of_six_keys_are_averaged_bit_for_bit(built, tmp_path):
    arrays = six_arrays()
    folder = built(write_h5(tmp_path / "AVE_feature_updated_squence.h5", **arrays))
    clips = load(folder, tmp_path / "cache")
    assert get_dataset_config_names(str(folder)) == ["ave15"]
    assert clips.num_rows == {"train": 30, "validation": 15, "test": 15}
    for name, split in clips.items():
        source = "test" if name == "test" else "train"
        rows = [int(clip.split("/")[1]) for clip in split["clip_id"]]
        assert split["audio_features"][:].tobytes() == averaged(arrays[f"audio_{source}"])[rows].tobytes()
        assert split["visual_features"][:].tobytes() == averaged(arrays[f"visual_{source}"])[rows].tobytes()
        assert split["label"][:].tolist() == [row % 15 for row in rows]
        assert split.features["label"].names == CLASSES["ave15"]
    assert GUESS in card_of(folder)


def test_an_order_of_classes_names_those_of_six_keys_and_the_card_says_so(built, tmp_path):
    (tmp_path / "order.txt").write_text("\n".join(reversed(CLASSES["ave15-as-printed"])))
    folder = built(write_h5(tmp_path / "six.h5", **six_arrays()), "--class-order", tmp_path / "order.txt")
    names = load(folder, tmp_path / "cache")["test"].features["label"].names
    assert names == CLASSES["ave15-as-printed"][::-1]
    card = card_of(folder)
    assert (
        "The names of the classes are in the order of the file given with `--class-order`" in card and GUESS not in card
    )


SIX = {
    "a missing key": ({"lab_test": None}, [], "six.h5: expected the key `lab_test`"),
    "other keys": (dict.fromkeys(six_arrays()), [], "six.h5: expected the keys audio_train"),
    "official widths": ({"visual_test": np.ones((15, 512))}, [], "expected `visual_test` to be 1024 wide"),
    "28 classes": ({"lab_test": np.arange(15) + 13}, [], "lab_test: label 15 of row 2 is out of range"),
    "one-hot of 28": ({"lab_test": np.eye(28)[np.arange(15)]}, [], "one-hot rows of 15 classes, but rows are 28"),
    "films that nobody knows": ({}, ["--deduplicate"], "does not say which video a clip is from"),
    "28 classes asked for": ({}, ["--config", "ave28"], "the configurations ave15, not ave28"),
}


@pytest.mark.parametrize("case", SIX)
def test_six_keys_that_do_not_fit_are_refused_in_one_sentence(case, refused, tmp_path):
    changes, flags, message = SIX[case]
    assert message in refused(write_h5(tmp_path / "six.h5", **six_arrays(**changes)), *flags)


# The builder, used directly.


@pytest.mark.parametrize("deduplicate", [False, True])
def test_the_builder_streams_and_prepares_what_the_folder_holds(deduplicate, ave, small, built, tmp_path):
    folder = built(small, "--config", "ave28", *(["--deduplicate"] if deduplicate else []))
    settings = {"source": small, "config_name": "ave28", "deduplicate": deduplicate}
    builder = ave.Ave(**settings, cache_dir=str(tmp_path / "cache"))
    builder.download_and_prepare()
    prepared = builder.as_dataset()
    for name, split in load_dataset(str(folder), cache_dir=str(tmp_path / "cache")).items():
        assert prepared[name].to_list() == split.to_list() == list(builder.as_streaming_dataset(name))


@pytest.mark.parametrize("change", ["features", "annotations"])
def test_a_release_rewritten_in_its_place_is_read_anew(change, ave, small, tmp_path):
    shutil.copytree(small, tmp_path / "AVE")
    found = []
    for value in (1.0, 2.0):
        if change == "features":
            write_h5(tmp_path / "AVE" / "audio_feature.h5", avadataset=np.full((60, 10, 128), value))
        else:
            with_text(LINE, LINE.replace("&3&", f"&3.{value:g}&"))(tmp_path / "AVE")
        builder = ave.Ave(source=tmp_path / "AVE", config_name="ave28", cache_dir=str(tmp_path / "cache"))
        builder.download_and_prepare()
        rows = {row["clip_id"]: row for split in builder.as_dataset().values() for row in split}
        found.append(rows[f"{Release().videos[3]}/000003"])
        with_text(f"&3.{value:g}&", "&3&")(tmp_path / "AVE") if change == "annotations" else None
    if change == "features":
        assert [row["audio_features"][0] for row in found] == [1, 2]
    else:
        assert [row["event_start"] for row in found] == [3.1, 3.2]


@pytest.mark.parametrize("config", ["ave-15", "default"])
def test_the_builder_refuses_a_configuration_that_is_not_there(config, ave, small, tmp_path):
    with pytest.raises(ValueError, match="ave15, ave15-as-printed, ave28"):
        ave.Ave(source=small, config_name=config, cache_dir=str(tmp_path))
