"""The command every builder shares, and the builder used directly, on a data set of 3 and 4 columns."""

import multiprocessing
import os
import signal
import sys
import time
import warnings
from dataclasses import dataclass

import datasets
import numpy as np
import pytest
from datasets import Value, load_dataset

from modeling_dualspace.data_card import DataCard
from modeling_dualspace.feature_builder import FeatureBuilder, FeatureConfig, build, read_class_order
from modeling_dualspace.feature_parts import FeatureSource
from modeling_dualspace.feature_schema import Description, feature_columns

NAMES = ["dog", "drum"]


@dataclass
class ToyConfig(FeatureConfig):
    """A flag of its own."""

    negate: bool = False


class Toy(FeatureBuilder):
    """Reads `(n, 7)` of a text file: three columns of sound, four of picture; classes take turns."""

    BUILDER_CONFIG_CLASS = ToyConfig
    CARD = DataCard("Toy features", "toy-features")
    WHERE_FROM = "It grows in this test."

    @classmethod
    def configs(cls, settings):
        return ["all", "few"]

    @classmethod
    def add_arguments(cls, parser):
        parser.add_argument("--negate", action="store_true")

    @classmethod
    def open(cls, settings):
        numbers = np.loadtxt(settings.source) * (-1 if settings.negate else 1)
        numbers = numbers[:12] if settings.name == "few" else numbers
        names = read_class_order(settings.class_order, 2) if settings.class_order else NAMES
        quarters = np.array_split(np.arange(len(numbers)), 4)

        def rows(part):
            chosen = quarters[int(part[-1])]
            yield {
                "clip_id": [f"clip/{row:03d}" for row in chosen],
                "audio_features": numbers[chosen, :3],
                "visual_features": numbers[chosen, 3:],
                "label": chosen % 2,
                "row": chosen,
            }

        return FeatureSource(
            name=settings.name,
            features=feature_columns(3, 4, names, extra={"row": Value("int64")}),
            splits={
                "train": [f"{settings.name}/{n}" for n in (0, 1)],
                "validation": [f"{settings.name}/2"],
                "test": [f"{settings.name}/3"],
            },
            rows=rows,
            audio="ears@toy",
            visual="eyes@toy",
        )


class Grown(Toy):
    """One that needs no source."""

    WHERE_FROM = ""

    @classmethod
    def configs(cls, settings):
        return ["all"]

    @classmethod
    def open(cls, settings):
        raise ValueError("nothing\nto   see")


def write_source(path, seed=0, bad=()):
    numbers = np.random.default_rng(seed).standard_normal((40, 7))
    numbers[list(bad)] = np.nan
    np.savetxt(path, numbers, fmt="%.17g")
    return numbers


def values_of(folder, config, cache, split):
    return load_dataset(str(folder), config, cache_dir=str(cache), split=split).with_format("numpy")


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def source(tmp_path):
    write_source(tmp_path / "toy.txt")
    return tmp_path / "toy.txt"


@pytest.fixture
def refused(capfd, tmp_path):
    """`refused(*argv)`: the one line in which the command ends, having left the place as it was."""

    def refuse(*argv, code=1, builder=Toy, out=tmp_path / "out"):
        before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
        capfd.readouterr()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default")
            found = build(builder, [*map(str, argv), "--out", str(out)], "A manual.")
        lines = capfd.readouterr().err.splitlines() + [
            str(one.message) for one in caught if one.category is not DeprecationWarning
        ]
        assert found == code and len(lines) == 1, lines
        assert {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")} == before
        return lines[0]

    return refuse


# The command.


def test_the_command_writes_a_folder_that_loads_by_its_configurations(source, tmp_path, capsys):
    assert build(Toy, ["--source", str(source), "--out", str(tmp_path / "out")], "A manual.") == 0
    printed = capsys.readouterr()
    assert printed.err == "" and "all: fingerprint=" in printed.out and "load_dataset('out')" in printed.out
    numbers = np.loadtxt(source).astype(np.float32)
    for config, rows in (("all", 40), ("few", 12)):
        edges = {"train": (0, rows // 2), "validation": (rows // 2, 3 * rows // 4), "test": (3 * rows // 4, rows)}
        for split, (start, stop) in edges.items():
            clips = values_of(tmp_path / "out", config, tmp_path / "cache", split)
            np.testing.assert_array_equal(clips["row"][:], np.arange(start, stop))
            assert clips["audio_features"][:].tobytes() == numbers[start:stop, :3].tobytes()
            assert clips["visual_features"][:].tobytes() == numbers[start:stop, 3:].tobytes()
            assert clips["label"][:].tolist() == [row % 2 for row in range(start, stop)]
            assert clips.features["label"].names == NAMES
    assert datasets.get_dataset_config_names(str(tmp_path / "out")) == ["all", "few"]


def test_the_description_names_fingerprint_and_backbones(source, tmp_path):
    build(Toy, ["--source", str(source), "--out", str(tmp_path / "out")], None)
    found = {
        config: Description.parse(values_of(tmp_path / "out", config, tmp_path / "cache", "test").info.description)
        for config in ("all", "few")
    }
    assert all((one.audio, one.visual, one.synthetic) == ("ears@toy", "eyes@toy", False) for one in found.values())
    assert found["all"].fingerprint != found["few"].fingerprint


def test_a_build_repeated_writes_the_same_bytes(source, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        assert build(Toy, ["--source", str(source), "--out", str(tmp_path / name / "out")], None) == 0
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_a_flag_of_a_subclass_reaches_its_configuration(source, tmp_path):
    assert build(Toy, ["--source", str(source), "--out", str(tmp_path / "out"), "--negate"], None) == 0
    clips = values_of(tmp_path / "out", "all", tmp_path / "cache", "test")
    assert clips["audio_features"][:].tobytes() == (-np.loadtxt(source)[30:, :3]).astype(np.float32).tobytes()


def test_the_first_configuration_asked_for_is_the_default(source, tmp_path):
    argv = ["--source", str(source), "--out", str(tmp_path / "out"), "--config", "few", "--config", "all"]
    assert build(Toy, argv, None) == 0
    clips = load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert sum(clips.num_rows.values()) == 12
    assert datasets.get_dataset_config_names(str(tmp_path / "out")) == ["few", "all"]


def test_a_configuration_asked_for_twice_is_refused(refused, source):
    assert "few" in refused("--source", source, "--config", "few", "--config", "few")


def test_the_command_without_a_source_says_where_to_get_one(refused):
    assert "--source is missing. It grows in this test." in refused(code=2)


def test_a_source_that_is_not_there_is_named_with_where_to_get_it(refused, tmp_path):
    line = refused("--source", tmp_path / "absent.txt")
    assert f"There is nothing at {tmp_path / 'absent.txt'}. It grows in this test." in line


def test_a_configuration_that_is_not_there_is_named_with_those_that_are(refused, source):
    line = refused("--source", source, "--config", "few", "--config", "fewer")
    assert "This source has the configurations all, few, not fewer." in line


def test_a_failure_of_several_lines_is_told_in_one(refused):
    assert refused(builder=Grown).endswith(": nothing to see")


def test_a_builder_that_needs_no_source_has_no_flag_for_one(capsys):
    with pytest.raises(SystemExit) as raised:
        build(Grown, ["--source", "x"], None)
    assert raised.value.code == 2 and "unrecognized arguments: --source" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--sourc", "--over", "--conf"])
def test_flags_are_not_guessed(flag, capsys):
    with pytest.raises(SystemExit) as raised:
        build(Toy, [flag, "x"], None)
    assert raised.value.code == 2 and "unrecognized" in capsys.readouterr().err


def test_the_manual_is_the_help(capsys):
    with pytest.raises(SystemExit) as raised:
        build(Toy, ["--help"], "A manual\n\n    of 100% lines.")
    printed = capsys.readouterr().out
    assert raised.value.code == 0 and "    of 100% lines." in printed and "--drop-bad-rows" in printed


# Rows that are no numbers.


def test_bad_rows_are_counted_and_named(refused, tmp_path):
    write_source(tmp_path / "toy.txt", bad=[3, 17])
    line = refused("--source", tmp_path / "toy.txt", "--config", "all")
    assert "2 rows hold NaN or infinity (clip/003, clip/017)" in line and "--drop-bad-rows" in line


def test_of_many_bad_rows_the_first_are_named(refused, tmp_path):
    write_source(tmp_path / "toy.txt", bad=range(0, 40, 4))
    line = refused("--source", tmp_path / "toy.txt", "--config", "all")
    assert "10 rows" in line and "clip/016, ..." in line and "clip/020" not in line


def test_bad_rows_are_left_out_when_asked_for_and_the_card_says_how_many(tmp_path):
    numbers = write_source(tmp_path / "toy.txt", bad=[3, 17, 39]).astype(np.float32)
    argv = ["--source", str(tmp_path / "toy.txt"), "--out", str(tmp_path / "out"), "--drop-bad-rows"]
    assert build(Toy, [*argv, "--config", "all"], None) == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "3 rows of the source held NaN or infinity and were left out." in card
    clips = values_of(tmp_path / "out", "all", tmp_path / "cache", "train")
    kept = [row for row in range(20) if row not in (3, 17)]
    assert clips["row"][:].tolist() == kept
    assert clips["visual_features"][:].tobytes() == numbers[kept, 3:].tobytes()


def test_nothing_is_left_when_all_rows_are_bad(refused, tmp_path):
    write_source(tmp_path / "toy.txt", bad=range(40))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("modeling_dualspace.feature_dataset.logger.warning", lambda *_: None)
        assert "Split train of configuration all is empty" in refused(
            "--source", tmp_path / "toy.txt", "--drop-bad-rows"
        )


# The order of classes.


def test_another_order_of_classes_names_them_anew(source, tmp_path):
    (tmp_path / "order.txt").write_text("\r\n  cat \r\n\r\n# hash: |\r\n", encoding="utf-8")
    argv = ["--source", str(source), "--out", str(tmp_path / "out"), "--class-order", str(tmp_path / "order.txt")]
    assert build(Toy, argv, None) == 0
    clips = values_of(tmp_path / "out", "all", tmp_path / "cache", "test")
    assert clips.features["label"].names == ["cat", "# hash: |"]
    assert clips["label"][:].tolist() == [row % 2 for row in range(30, 40)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"cat\n", "order.txt: expected 2 different class names, one a line, got 1: ['cat']"),
        (b"cat\ndog\ncow\n", "expected 2 different class names, one a line, got 3"),
        (b"cat\n cat \n", "expected 2 different class names, one a line, got 2: ['cat', 'cat']"),
        (b"", "expected 2 different class names, one a line, got 0"),
        (b"caf\xe9\ndog\n", "order.txt is not UTF-8 (byte 3)"),
    ],
)
def test_an_order_of_classes_that_does_not_fit_is_refused(content, message, refused, source, tmp_path):
    (tmp_path / "order.txt").write_bytes(content)
    assert message in refused("--source", source, "--class-order", tmp_path / "order.txt")


@pytest.mark.parametrize("place", ["absent.txt", "."])
def test_an_order_of_classes_that_is_no_file_is_refused_by_name(place, refused, source, tmp_path):
    assert str(tmp_path) in refused("--source", source, "--class-order", tmp_path / place)


def test_the_mark_with_which_windows_begins_a_text_is_no_part_of_a_class(tmp_path):
    (tmp_path / "order.txt").write_text("cat\ndog\n", encoding="utf-8-sig")
    assert read_class_order(str(tmp_path / "order.txt"), 2) == ["cat", "dog"]


# The place to write to.


def test_a_folder_that_is_there_stays_as_it_is(refused, source, tmp_path):
    assert build(Toy, ["--source", str(source), "--out", str(tmp_path / "out")], None) == 0
    assert "exists already" in refused("--source", source, "--negate")


def test_overwrite_replaces_a_data_set_whole(source, tmp_path):
    argv = ["--source", str(source), "--out", str(tmp_path / "out")]
    assert build(Toy, argv, None) == 0
    before = contents(tmp_path / "out")
    assert build(Toy, [*argv, "--overwrite", "--config", "few"], None) == 0
    assert not any("/all/" in name for name in contents(tmp_path / "out")) and any("/all/" in name for name in before)
    clips = values_of(tmp_path / "out", None, tmp_path / "cache", "test")
    assert len(clips) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "out", "toy.txt"]


def test_a_failed_overwrite_keeps_the_data_set_that_was_there(refused, source, tmp_path):
    assert build(Toy, ["--source", str(source), "--out", str(tmp_path / "out")], None) == 0
    write_source(tmp_path / "toy.txt", bad=[1])
    assert "NaN" in refused("--source", source, "--overwrite")


@pytest.mark.parametrize("content", [{"x": "1"}, {"README": "1"}, {"data/all/a.parquet": "1"}])
def test_overwrite_of_a_folder_of_something_else_is_refused(content, refused, source, tmp_path):
    for name, text in content.items():
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / name).write_text(text)
    assert "choose another name" in refused("--source", source, "--overwrite")


def test_overwrite_of_somebody_elses_folder_is_refused_though_it_has_a_readme(refused, source, tmp_path):
    # Every checkout of anything has one: `--out . --overwrite` would take a person's work with it.
    (tmp_path / "out" / ".git").mkdir(parents=True)
    (tmp_path / "out" / "README.md").write_text("# My thesis\n")
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    refused("--source", source, "--overwrite")


@pytest.mark.parametrize("inside", ["toy.txt", "raw/toy.txt"])
def test_overwrite_of_a_data_set_that_holds_the_source_is_refused(inside, refused, source, tmp_path):
    assert build(Toy, ["--source", str(source), "--out", str(tmp_path / "out")], None) == 0
    place = tmp_path / "out" / inside
    place.parent.mkdir(exist_ok=True)
    source.rename(place)
    refused("--source", place, "--overwrite")


def test_a_file_in_the_place_of_the_folder_is_refused(refused, source, tmp_path):
    (tmp_path / "out").write_text("")
    assert "is a file" in refused("--source", source, "--overwrite")


def test_a_failure_leaves_no_folder_above_the_one_that_was_to_be_made(refused, tmp_path):
    write_source(tmp_path / "toy.txt", bad=[1])
    assert "NaN" in refused("--source", tmp_path / "toy.txt", out=tmp_path / "deep" / "deeper" / "out")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a file name be any bytes")
@pytest.mark.parametrize("where", ["source", "out"])
def test_names_that_are_not_utf8_are_refused_by_name_or_written_whole(where, source, tmp_path, capsys):
    odd = tmp_path / os.fsdecode(b"caf\xe9")
    out = odd if where == "out" else tmp_path / "out"
    if where == "source":
        source = source.rename(odd)
    code = build(Toy, ["--source", str(source), "--out", str(out)], None)
    line = capsys.readouterr().err
    assert (code, out.exists()) == (0, True) or (code == 1 and not out.exists() and r"caf\udce9" in line), line
    assert not list(tmp_path.glob(".tmp-*"))


# Signals.


class Interrupted(Toy):
    """One that gets a signal while it writes."""

    number = signal.SIGINT

    @classmethod
    def open(cls, settings):
        def rows(part):
            yield {"clip_id": ["a"], "audio_features": [[1.0]], "visual_features": [[1.0]]}
            signal.raise_signal(cls.number)

        return FeatureSource(settings.name, feature_columns(1, 1), {"train": [settings.name]}, rows)


@pytest.fixture
def default_signals():
    """Signals as a process begins with them, whatever an earlier command left; afterwards as they were."""
    previous = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    previous = {number: signal.signal(number, handler) for number, handler in previous.items()}
    yield
    for number, handler in previous.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_is_interrupted_leaves_nothing_behind(number, refused, source, monkeypatch, default_signals):
    monkeypatch.setattr(Interrupted, "number", number)
    assert refused("--source", source, builder=Interrupted, code=130).endswith(": interrupted")


def test_a_command_leaves_the_signals_of_its_process_as_they_were(source, tmp_path, default_signals):
    # Else a pool of workers that somebody starts afterwards inherits ours, and may hang when it is ended.
    assert build(Toy, ["--source", str(source), "--out", str(tmp_path / "out")], None) == 0
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def work(pipe):
    pipe.send("at work")
    time.sleep(5)


class Forked(Toy):
    """One with a worker, which it ends."""

    @classmethod
    def open(cls, settings):
        context = multiprocessing.get_context("fork")
        ours, theirs = context.Pipe()
        worker = context.Process(target=work, args=(theirs,))
        worker.start()
        ours.recv()
        worker.terminate()
        worker.join()
        raise ValueError(f"the worker ended with {worker.exitcode}")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere workers are not forked")
def test_a_worker_of_a_command_can_be_ended_without_a_traceback(refused, source, default_signals):
    assert refused("--source", source, builder=Forked).endswith(f": the worker ended with -{int(signal.SIGTERM)}")


# The builder, used directly.


@pytest.fixture
def folder(source, tmp_path):
    build(Toy, ["--source", str(source), "--out", str(tmp_path / "out")], None)
    return tmp_path / "out"


@pytest.mark.parametrize("config", ["all", "few"])
def test_a_stream_of_the_builder_equals_the_folder(config, source, folder, tmp_path):
    builder = Toy(source=source, config_name=config, cache_dir=str(tmp_path / "cache"))
    for split in ("train", "validation", "test"):
        stream = builder.as_streaming_dataset(split)
        expected = load_dataset(str(folder), config, cache_dir=str(tmp_path / "cache"), split=split)
        assert list(stream) == expected.to_list()
        assert stream.features == expected.features
    assert builder.as_streaming_dataset("train").num_shards == 2


@pytest.mark.parametrize("processes", [None, 2])
def test_a_prepared_builder_equals_the_folder(processes, source, folder, tmp_path, default_signals):
    builder = Toy(source=source, cache_dir=str(tmp_path / "cache"))
    builder.download_and_prepare(num_proc=processes)
    prepared = builder.as_dataset()
    expected = load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert {name: split.to_list() for name, split in prepared.items()} == {
        name: split.to_list() for name, split in expected.items()
    }


def test_without_a_name_the_builder_takes_the_first_configuration(source, tmp_path):
    assert Toy(source=source, cache_dir=str(tmp_path)).config.name == "all"


def test_a_source_rewritten_in_its_place_is_not_served_from_the_cache(source, tmp_path):
    for seed in (1, 2):
        numbers = write_source(source, seed=seed)
        builder = Toy(source=source, cache_dir=str(tmp_path / "cache"))
        builder.download_and_prepare()
        found = builder.as_dataset("test").with_format("numpy")["audio_features"][:]
        assert found.tobytes() == numbers[30:, :3].astype(np.float32).tobytes()


def test_an_order_of_classes_rewritten_in_its_place_is_not_served_from_the_cache(source, tmp_path):
    for names in (["cat", "cow"], ["cow", "cat"]):
        (tmp_path / "order.txt").write_text("\n".join(names))
        builder = Toy(source=source, class_order=str(tmp_path / "order.txt"), cache_dir=str(tmp_path / "cache"))
        builder.download_and_prepare()
        assert builder.as_dataset("test").features["label"].names == names


def test_settings_do_not_share_a_cache(source, tmp_path):
    found = []
    for negate in (False, True):
        builder = Toy(source=source, negate=negate, cache_dir=str(tmp_path))
        builder.download_and_prepare()
        found.append(builder.as_dataset("test").with_format("numpy")["audio_features"][:])
    np.testing.assert_array_equal(found[0], -found[1])


def test_a_setting_that_is_misspelt_is_refused(source):
    with pytest.raises(TypeError, match="drop_bad_row"):
        Toy(source=source, drop_bad_row=True)


def test_a_configuration_that_is_misspelt_is_refused_with_those_there_are(source, tmp_path):
    with pytest.raises(ValueError, match="all, few"):
        Toy(source=source, config_name="fewer", cache_dir=str(tmp_path))


def test_a_builder_without_a_source_says_that_it_needs_one(tmp_path):
    with pytest.raises(ValueError, match="source"):
        Toy(cache_dir=str(tmp_path))


def test_bad_rows_end_a_stream_or_are_left_out_of_it(tmp_path):
    write_source(tmp_path / "toy.txt", bad=[31])
    builder = Toy(source=tmp_path / "toy.txt", cache_dir=str(tmp_path))
    with pytest.raises(ValueError, match="1 rows of all/3 hold NaN or infinity: pass drop_bad_rows=True"):
        list(builder.as_streaming_dataset("test"))
    builder = Toy(source=tmp_path / "toy.txt", drop_bad_rows=True, cache_dir=str(tmp_path))
    assert [row["row"] for row in builder.as_streaming_dataset("test")] == [30, *range(32, 40)]
