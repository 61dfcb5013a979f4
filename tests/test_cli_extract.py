"""`dualspace convert` and `dualspace extract` with the four networks: what they print, write, and refuse."""

import functools
import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from huggingface_hub import constants
from torch import nn

from modeling_dualspace import checkpoint_layouts
from modeling_dualspace.cli import main
from modeling_dualspace.known_backbones import load_backbone
from modeling_dualspace.optional import require
from modeling_dualspace.paper_networks import NETWORKS
from modeling_dualspace.processing_dualspace import DualSubspaceProcessor
from modeling_dualspace.sample_clips import write_clip
from modeling_dualspace.sample_scenes import render_clip
from modeling_dualspace.vggish import VggishConfig, VggishFeatureExtractor, VggishModel

av = require("av", extra="media")
RATE = 16_000
SMALL_SOUND = {"channels": [4] * 6, "hidden": 16}
# As small as the network of video takes them, and as few.
VIDEO = ["visual.settings.size={shortest_edge: 193}", "visual.settings.crop_size={height: 193, width: 193}"]


# What is there: checkpoints as they are published, what they were converted to, and films.


def published(name: str) -> dict[str, torch.Tensor]:
    """Random weights under the names of those whom most people have them from."""
    torch.manual_seed(0)
    model = NETWORKS[name].model(NETWORKS[name].config())
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 1.5)
    weights = model.state_dict()
    if name == "soundnet":
        pairs = ((".conv.", "."), ("objects.", "conv8_objs."), ("scenes.", "conv8_scns."))
        weights = {_renamed(key, pairs): tensor for key, tensor in weights.items()}
        return {
            f"batchnorm{key[4]}.{key[9:]}" if key[5:9] == ".bn." else key: tensor for key, tensor in weights.items()
        }
    if name == "i3d":
        classifier = {"logits.conv3d.weight": torch.zeros(400, 1024, 1, 1, 1), "logits.conv3d.bias": torch.zeros(400)}
        return {key.replace(".conv.", ".conv3d."): tensor for key, tensor in weights.items()} | classifier
    return weights | ({"fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)} if name != "vggish" else {})


def _renamed(key: str, pairs) -> str:
    for ours, theirs in pairs:
        key = key.replace(ours, theirs)
    return key


@pytest.fixture(scope="module", autouse=True)
def assets(tmp_path_factory):
    """Where networks are found by their names: of this module's own; and VGGish of four channels."""
    config = functools.partial(VggishConfig, **SMALL_SOUND)
    config.model_type = VggishConfig.model_type
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(NETWORKS, "vggish", NETWORKS["vggish"]._replace(config=config))
        patched.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path_factory.mktemp("assets")))
        checkpoint_layouts._shapes_of.cache_clear()
        yield Path(constants.HF_ASSETS_CACHE)
        checkpoint_layouts._shapes_of.cache_clear()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """`checkpoint("i3d")`: a file as somebody published it."""
    folder = tmp_path_factory.mktemp("published")

    def of(name: str) -> Path:
        file = folder / f"{name}.pth"
        if not file.exists():
            torch.save(published(name), file)
        return file

    return of


@pytest.fixture(scope="module")
def by_name(assets, checkpoint):
    """`by_name("vggish", "inception")`: networks that were converted by the command, and lie where names find them."""

    def of(*names: str) -> None:
        for name in names:
            if not (assets / "dualspace" / "backbones" / name).exists():
                settings = ["num_frames=9"] if name == "i3d" else []  # a conversion tries what it made
                assert main(["convert", name, str(checkpoint(name)), *settings]) == 0

    return of


def write_sound(path: Path, samples: np.ndarray) -> None:
    """A film without a picture, coded without loss."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=RATE, layout="mono")
        sound = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        sound.sample_rate, sound.time_base, sound.pts = RATE, Fraction(1, RATE), 0
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))


def noise(seed: int, seconds: float) -> np.ndarray:
    return (3000 * np.random.default_rng(seed).standard_normal(round(seconds * RATE))).astype(np.int16)


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> Path:
    """Three films of half a second, less than any network but Inception takes at once, and one of two seconds."""
    folder = tmp_path_factory.mktemp("media") / "films"
    folder.mkdir()
    for number, name in enumerate(("bell", "bird", "drum", "bell")):
        write_clip(folder / f"{number}.mp4", render_clip(name, number, 2 if number == 3 else 0.5, size=(64, 48)))
    rows = [f"{number}.mp4,a,{split}\n" for number, split in enumerate(("train", "validation", "test", "train"))]
    (folder / "metadata.csv").write_text("path,label,split\n" + "".join(rows))
    return folder


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    """`run("convert", ...)`: exit code, stdout and stderr, where nothing lies."""
    monkeypatch.chdir(tmp_path)

    def of(*words):
        capfd.readouterr()
        code = main([str(word) for word in words])
        return code, *capfd.readouterr()

    return of


@pytest.fixture
def refused(run, tmp_path):
    """`refused("extract", ...)`: the one sentence in which a command ends that leaves everything as it was."""

    def of(*words) -> str:
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        code, printed, said = run(*words)
        assert (code, printed) == (1, "") and said.startswith("dualspace: ") and len(said.splitlines()) == 1, said
        assert "Traceback" not in said and {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
        return said.removeprefix("dualspace: ").rstrip("\n")

    return of


def rows(out: str) -> dict[str, dict]:
    tables = [pq.read_table(file) for file in sorted(Path(out).rglob("*.parquet"))]
    return {row["clip_id"]: row for table in tables for row in table.to_pylist()}


# convert


def test_a_conversion_says_what_it_made_of_what_and_what_comes_next(run, assets, checkpoint):
    file = checkpoint("soundnet")
    code, printed, said = run("convert", "soundnet", file)
    folder = assets / "dualspace" / "backbones" / "soundnet"
    spec = load_backbone("audio", "soundnet").spec
    assert (code, said) == (0, "")
    assert printed == (
        f"{folder}: {spec}, 1024 numbers a unit, from the layout of pytorch-soundnet (keunhong, EsamGhaleb, "
        "salmedina) (53 tensors)\nNext: dualspace extract FOLDER --out DATASET --audio soundnet\n"
    )


def test_the_json_of_a_conversion_is_one_object(run, checkpoint):
    code, printed, said = run("convert", "vggish", checkpoint("vggish"), "--out", "mine", "--json", "final_relu=true")
    assert (code, said) == (0, "")
    found = json.loads(printed)
    assert found == {
        "notes": [], "network": "vggish", "layout": "torchvggish", "tensors": 18, "left_out": [], "out": "mine",
        "spec": load_backbone("audio", "mine").spec, "width": 128, "named": False,
    }  # fmt: skip
    assert json.loads(Path("mine/config.json").read_text())["final_relu"] is True


def test_what_a_person_may_have_meant_otherwise_is_noted_and_a_folder_is_not_taken_for_a_name(run, files):
    words = ["convert", "vggish", files["vggish"], "--components", files["fine.npz"], "--out", "vggish"]
    code, printed, said = run(*words, "final_relu=true")
    assert (code, said) == (0, "")
    noted, _, following = printed.splitlines()
    assert noted.startswith("Note: AudioSet's components were fitted before the last ReLU")
    assert following == "Next: dualspace extract FOLDER --out DATASET --audio ./vggish"
    assert "Note: " not in run(*words, "--overwrite")[1]


def test_settings_may_stand_before_or_behind_the_options(run, checkpoint):
    words = ["convert", "vggish", checkpoint("vggish")]
    assert run(*words, "final_relu=true", "front_end=librosa", "--out", "before")[0] == 0
    assert run(*words, "--out", "behind", "final_relu=true", "front_end=librosa")[0] == 0
    for name in ("config.json", "preprocessor_config.json"):
        assert Path("before", name).read_text() == Path("behind", name).read_text()
    assert json.loads(Path("behind/preprocessor_config.json").read_text())["sampling_rate"] == 22_050


def test_what_was_converted_is_replaced_only_where_that_is_said(run, refused, checkpoint, tmp_path):
    words = ["convert", "vggish", checkpoint("vggish"), "--out", "mine"]
    assert run(*words)[0] == 0
    said = refused(*words, "final_relu=true")
    assert said == f"{tmp_path}/mine exists already and is not empty: choose another name, or pass --overwrite."
    assert run(*words, "final_relu=true", "--overwrite")[0] == 0
    assert json.loads(Path("mine/config.json").read_text())["final_relu"] is True


@pytest.fixture
def files(tmp_path, checkpoint) -> dict[str, Path]:
    """By what is wrong with them."""
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "text.txt").write_text("hello")
    (folder / "torn.pth").write_bytes(checkpoint("vggish").read_bytes()[:3000])
    (folder / "page.pth").write_text("<html>not found</html>")
    torch.save({"a": torch.zeros(3)}, folder / "other.pth")
    random = np.random.default_rng(0)
    np.savez(folder / "narrow.npz", pca_eigen_vectors=random.normal(size=(5, 60)), pca_means=random.normal(size=60))
    np.savez(folder / "fine.npz", pca_eigen_vectors=random.normal(size=(5, 128)), pca_means=random.normal(size=128))
    (folder / "taken").mkdir()
    (folder / "taken" / "thesis.txt").write_text("mine")
    return {path.name: path for path in folder.iterdir()} | {"": folder, "vggish": checkpoint("vggish")}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["vgish", "@vggish"], "There is no network 'vgish' to convert: expected one of vggish, soundnet, "),
        (["vggish", "@nowhere"], "Expected a file with published weights: nowhere does not exist."),
        (["vggish", "@"], "Expected a file with published weights: {} is a folder."),
        (["vggish", "@text.txt"], "{}: weights come in files that end in .pth, "),
        (["vggish", "@torn.pth"], "{} is no file of PyTorch, or is damaged: download it again."),
        (["vggish", "@page.pth"], "{} is no file of PyTorch, or is damaged: download it again."),
        (["vggish", "@other.pth"], "{} holds no vggish in a layout we know (torchvggish, "),
        (["soundnet", "@vggish"], "{} holds no soundnet in a layout we know ("),
        (["vggish", "@vggish", "post"], "An override is KEY=VALUE, like post=pca, got 'post'."),
        (["vggish", "@vggish", "final_rely=true"], "there is no setting `final_rely`: did you mean `final_relu`?"),
        (["vggish", "@vggish", "qqq=1"], "there is no setting `qqq`: it has bands, channels, "),
        (["vggish", "@vggish", "final_relu=maybe"], "its settings cannot be used: "),
        (["vggish", "@vggish", "post=pca"], "its settings cannot be used: "),
        (["vggish", "@vggish", "hidden=8"], "`hidden` is 16 by the size of its weights, and cannot be 8."),
        (["vggish", "@vggish", "--components", "@narrow.npz"], "The principal components are of vectors of 60 numbers, and the vggish of these settings gives 128: "),  # noqa: E501
        (["vggish", "@vggish", "--components", "@nowhere"], "Expected a file with published weights: nowhere does not"),
        (["vggish", "@vggish", "--components", "@other.pth"], "{}: expected `pca_eigen_vectors` and "),
        (["vggish", "@vggish", "--components", "@"], "{}/eigenvecs.npy cannot be read as an array of NumPy: "),
        (["vggish", "@vggish", "--out", "@taken"], "{} exists already and is not empty: "),
        (["vggish", "@vggish", "--out", "@taken", "--overwrite"], "{} was not made here, so it is not overwritten: "),
        (["vggish", "@vggish", "--out", "@text.txt"], "{} is a file; a folder will be made: choose another name."),
    ],
)  # fmt: skip
def test_a_conversion_that_cannot_be_is_one_sentence_and_leaves_nothing(refused, files, tmp_path, words, said):
    named = [str(files.get(word[1:], word[1:])) if word.startswith("@") else word for word in words]
    last = next((name for name, word in zip(named[::-1], words[::-1], strict=True) if word.startswith("@")), "")
    out = [] if "--out" in words else ["--out", str(tmp_path / "mine")]
    assert refused("convert", *named, *out).startswith(said.replace("{}", last))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["convert"], "the following arguments are required: NETWORK, FILE"),
        (["convert", "vggish"], "the following arguments are required: FILE"),
        (["convert", "vggish", "file", "--ot", "x"], "unrecognized arguments: --ot x"),
        (["extract"], "the following arguments are required: FOLDER, --out"),
        (["extract", "films"], "the following arguments are required: --out"),
        (["extract", "films", "--out", "out", "--batch-size", "0"], "expected a whole number of at least 1, got '0'"),
        (["extract", "films", "--out", "out", "--fps", "fast"], "invalid float value: 'fast'"),
        (["extract", "films", "--out", "out", "--dtype", "float8"], "invalid choice: 'float8'"),
        (["extract", "films", "--out", "out", "--components", "4"], "unrecognized arguments: --components 4"),
        (["extract", "films", "--out", "out", "more"], "unrecognized arguments: more"),
    ],
)
def test_wrong_use_exits_with_2(words, said, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2 and said in capsys.readouterr().err


# extract


def test_vggish_by_its_name_the_whole_way(run, by_name, films):
    by_name("vggish")
    words = ["extract", films, "--out", "out", "--audio", "vggish"]
    code, printed, said = run(*words)
    assert (code, said) == (0, "")
    assert "out: 4 clips (train 2, validation 1, test 1), fingerprint=" in printed
    assert f"audio={load_backbone('audio', 'vggish').spec} visual=thumbnail@" in printed
    vectors = np.array([row["audio_features"] for row in rows("out").values()])
    assert vectors.shape == (4, 128) and np.isfinite(vectors).all()
    assert (np.abs(vectors - vectors[0]).max(axis=1)[1:] > 0).all()
    assert json.loads(Path("out/processor_config.json").read_text())["audio"]["source"] == "vggish"
    assert "dualspace extract" in Path("out/README.md").read_text()
    code, printed, said = run(*words, "--json")
    assert (code, said) == (0, "") and json.loads(printed)["notes"][0].startswith("Nothing to do: ")
    # The same films by the processor: others in its batch, so equal but for rounding.
    made = DualSubspaceProcessor.from_pretrained("out")(videos=[films / name for name in rows("out")])
    np.testing.assert_allclose(made["audio_features"].numpy(), vectors, rtol=0, atol=1e-5 * np.abs(vectors).max())


def decoded(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.mark.slow
def test_soundnet_and_i3d_by_their_names_the_whole_way_and_i3d_repeats_the_last_frame(run, by_name, films, tmp_path):
    by_name("soundnet", "i3d")
    few = tmp_path / "few"
    few.mkdir()
    (few / "1.mp4").symlink_to(films / "1.mp4")
    networks = ["--audio", "soundnet", "audio.settings.layer=pool5", "--visual", "i3d", *VIDEO]
    code, printed, said = run("extract", few, "--out", "out", *networks, "--fps", "8", "--json")
    assert (code, said) == (0, "") and json.loads(printed)["clips"] == 1
    found = rows("out")
    heard = np.array(found["1.mp4"]["audio_features"])
    assert heard.shape == (256,) and np.isfinite(heard).all() and np.ptp(heard) > 0
    seen = DualSubspaceProcessor.from_pretrained("out").backbone("visual")
    assert (seen.steps.rate, seen.steps.length, seen.width) == (8, 9, 1024)
    # Half a second has six frames, of which eight a second show four; a unit is nine.
    frames = decoded(films / "1.mp4")
    assert len(frames) == 6
    shown = [frames[number * 12 // 8] for number in range(4)]
    units = [[*shown, *[shown[-1]] * 5], [shown[0]] * 9]
    expected, still = seen.embed([[seen.prepare(frame) for frame in unit] for unit in units])
    vector, largest = np.array(found["1.mp4"]["visual_features"], np.float32), np.abs(expected).max()
    np.testing.assert_allclose(vector, expected, rtol=0, atol=1e-5 * largest)  # other batches round otherwise
    assert np.abs(vector - still).max() > 1e-3 * largest  # what moves shows


@pytest.fixture
def sounds(tmp_path) -> Path:
    """Three films that are heard and not seen, one of them shorter than a patch of VGGish."""
    folder = tmp_path / "sounds"
    folder.mkdir()
    for number, seconds in enumerate((0.4, 0.975, 2.5)):
        write_sound(folder / f"{number}.mkv", noise(number, seconds))
    return folder


def test_a_film_without_pictures_is_skipped_with_exit_code_3_or_kept_where_that_is_said(
    run, by_name, films, sounds, assets
):
    by_name("vggish")
    for number in range(3):
        (sounds / f"film{number}.mp4").symlink_to(films / f"{number}.mp4")
    words = ["extract", sounds, "--out", "out", "--audio", "vggish"]
    code, printed, said = run(*words)
    assert (code, said) == (3, "")
    assert "Skipped: 3 clips, listed with their reasons in out/skipped.csv:\n  0.mkv: has no picture there\n" in printed
    code, printed, said = run(*words, "--json")
    assert code == 3 and json.loads(printed)["first_skipped"][0] == ["0.mkv", "has no picture there"]
    assert run(*words, "--overwrite", "--keep-unpaired")[0] == 0
    found = rows("out")
    assert found["0.mkv"]["visual_features"] is None and found["film0.mp4"]["visual_features"] is not None
    model = VggishModel.from_pretrained(assets / "dualspace" / "backbones" / "vggish").eval()
    for number, seconds in enumerate((0.4, 0.975, 2.5)):
        samples = noise(number, seconds).astype(np.float32) / 32_768
        samples = np.pad(samples, (0, max(0, 15_600 - len(samples))))  # silence after what is too short
        patches = VggishFeatureExtractor()(samples, return_tensors="pt")["input_features"]
        assert len(patches) == (1, 1, 2)[number]
        with torch.no_grad():
            expected = model(patches).pooler_output.numpy().mean(axis=0)
        vector = found[f"{number}.mkv"]["audio_features"]
        np.testing.assert_allclose(vector, expected, rtol=0, atol=1e-6 * max(1, np.abs(expected).max()))


def test_films_of_sounds_alone_leave_nothing_to_write_until_they_are_kept_and_are_not_heard_again(run, by_name, sounds):
    by_name("vggish")
    words = ["extract", sounds, "--out", "out", "--audio", "vggish"]
    code, printed, said = run(*words)
    reasons = "; ".join(f"{number}.mkv has no picture there" for number in range(3))
    assert (code, printed, said) == (1, "", f"dualspace: None of 3 clips can be used: {reasons}.\n")
    assert not Path("out").exists()
    (sounds / "0.mkv").touch()
    assert run(*words, "--keep-unpaired")[0] == 0 and len(rows("out")) == 3


def test_what_a_recipe_says_is_done_and_flags_come_after_it(run, by_name, films, tmp_path):
    by_name("vggish")
    (tmp_path / "mine.yaml").write_text(
        "audio: {source: vggish, settings: {final_relu: true}}\nwindow: 0.5\nhop: 0.25\nfps: 4\nlicense: mit\n"
    )
    code, printed, _ = run("extract", films, "--recipe", "mine.yaml", "--out", "out", "--hop", "0.5", "fps=2", "--json")
    assert code == 0 and json.loads(printed)["splits"] == {"train": 5, "validation": 1, "test": 1}
    settings = json.loads(Path("out/extraction.json").read_text())["settings"]
    assert (settings["window"], settings["hop"]) == (0.5, 0.5)
    record = json.loads(Path("out/processor_config.json").read_text())
    assert record["audio"]["constants"]["config"]["final_relu"] is True
    assert record["visual"]["constants"]["steps"]["rate"] == 2
    assert min(min(row["audio_features"]) for row in rows("out").values()) == 0
    assert "license: mit" in Path("out/README.md").read_text()


def test_what_a_recipe_says_of_its_networks_is_not_said_of_others(run, films):
    words = ["--recipe", "extract_vegas", "--audio", "logmel", "--visual", "thumbnail"]
    code, printed, said = run("extract", films, *words, "--out", "out", "--json")
    assert (code, said) == (0, "") and json.loads(printed)["clips"] == 4
    record = json.loads(Path("out/processor_config.json").read_text())
    assert [record[name]["source"] for name in ("audio", "visual")] == ["logmel", "thumbnail"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--audio", "vgish"], "The audio backbone 'vgish' cannot be loaded (built in: logmel, vggish, soundnet; did you mean vggish?): "),  # noqa: E501
        (["--visual", "vggish"], "`vggish` makes audio features, not visual ones: the built-in visual backbones are thumbnail, inception, i3d."),  # noqa: E501
        (["--audio", "vggish", "audio.settings.pots=pca"], "there is no setting `pots`: did you mean `post`?"),
        (["--audio", "vggish", "audio.settings.post=pca"], "its settings cannot be used: `post` is 'pca', which needs principal components"),  # noqa: E501
        (["audio.settings.post=pca"], "`logmel` has no settings, so `post` cannot be set."),
        (["--recipe", "vegas"], "vegas is one for `dualspace train`."),
        (["--recipe", "extract_vegs"], "Did you mean extract_vegas?"),
        (["visual.component=4"], "The extraction with visual.component=4 has an unknown key `visual.component`. Did you mean `visual.components`?"),  # noqa: E501
        (["--fps", "0"], "Frames a second lie between 0.01 and 120, got 0.0."),
        (["--max-seconds", "-1"], "A limit of seconds is a positive number, got -1.0: leave it out for none."),
        (["--hop", "1"], "A hop is between windows: say how long they are, with --window."),
        (["visual.components=4"], "Components are fitted to vggish, soundnet, inception, i3d, and not to thumbnail: "),
        (["--audio", "vggish", "audio.components=129"], "vggish has 128 numbers a unit, of which 129 components cannot be made."),  # noqa: E501
    ],
)  # fmt: skip
def test_an_extraction_that_cannot_be_is_one_sentence_and_leaves_nothing(refused, by_name, films, words, said):
    by_name("vggish")
    assert said in refused("extract", films, "--out", "out", *words)


def test_what_is_no_override_is_one_sentence(refused, films):
    said = refused("extract", films, "other-films", "--out", "out")
    assert said == "An override is KEY=VALUE, like visual.components=512, got 'other-films'."


@pytest.mark.parametrize("words", [["--audio", "vggish"], ["--recipe", "extract_vegas"]])
def test_a_network_that_was_not_converted_is_said_with_the_command_that_does(
    refused, films, monkeypatch, tmp_path, words
):
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "nothing"))
    said = refused("extract", films, "--out", "out", *words)
    assert said == (
        "The audio backbone 'vggish' cannot be loaded (built in: logmel, vggish, soundnet): its weights are not on "
        "this machine: get vggish-10086976.pth (github.com/harritaylor/torchvggish, release v0.1), or another of those "
        "in training/README, and run `dualspace convert vggish FILE`; or give the folder of one that was converted "
        "elsewhere."
    )


def test_the_recipe_of_the_paper_goes_the_whole_way_and_its_components_are_fitted(
    run, by_name, checkpoint, films, tmp_path
):
    by_name("inception")
    random = np.random.default_rng(0)
    np.savez("pca.npz", pca_eigen_vectors=0.1 * random.normal(size=(5, 128)), pca_means=random.normal(size=128))
    assert run("convert", "vggish", checkpoint("vggish"), "--components", "pca.npz", "--out", "mine")[0] == 0
    small = ["visual.components=2", "visual.settings.size={height: 75, width: 75}"]
    code, printed, said = run("extract", films, "--recipe", "extract_vegas", *small, "--audio", "mine", "--out", "out")
    assert (code, said) == (0, "")
    (network,) = tmp_path.glob("out-inception-*")
    assert f"inception with its components is {network}: keep it, a processor looks there.\n" in printed
    assert {path.name for path in tmp_path.iterdir()} == {"pca.npz", "mine", "out", network.name}
    found = rows("out")
    for modality, width in (("audio", 5), ("visual", 2)):
        vectors = np.array([row[f"{modality}_features"] for row in found.values()])
        assert vectors.shape == (4, width) and np.abs(vectors).max() <= 0.5  # dequantised
    record = json.loads(Path("out/processor_config.json").read_text())
    assert [record[name]["constants"]["config"]["post"] for name in ("audio", "visual")] == ["dequantised"] * 2
    assert record["visual"]["constants"]["processor"]["size"] == {"height": 75, "width": 75}
    assert record["visual"]["constants"]["processor"]["do_center_crop"] is False


@pytest.mark.slow  # VGGish as it is published is 288 MB
def test_audiosets_components_go_with_the_published_network(run, films, monkeypatch, tmp_path, data_root):
    monkeypatch.setitem(NETWORKS, "vggish", NETWORKS["vggish"]._replace(config=VggishConfig))
    checkpoint_layouts._shapes_of.cache_clear()
    torch.save(VggishModel(VggishConfig()).state_dict(), "vggish.pth")
    components = data_root / "vggish_pca" / "vggish_pca_params.npz"
    assert run("convert", "vggish", "vggish.pth", "--components", components, "--out", "full")[0] == 0
    checkpoint_layouts._shapes_of.cache_clear()
    assert run("extract", films, "--out", "out", "--audio", "full", "audio.settings.post=8bit")[0] == 0
    for row in rows("out").values():
        assert len(row["audio_features"]) == 128 and 0 <= min(row["audio_features"]) <= max(row["audio_features"]) < 256
