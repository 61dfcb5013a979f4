"""Extraction is as fast as decoding, and decoding as fast as ffmpeg's.

    python benchmarks/extraction.py [--quick] [--check] [--film FILE]

One film of 480 x 360 with sound is taken again and again until it lasts long enough; without --film a rendered one at
30 frames and 700 kbit a second, as real films of that size have. In one run, interleaved, the seconds of film read in a
second by

- `Film.read`, which gives mono sound at 16 kHz and a frame a second, and plain `ffmpeg` that decodes the same to raw
  pixels and samples and throws them away, both with two threads: goal, within 1.3 x of ffmpeg's time;
- `extract`, whole, of a folder with two such films, with the default backbones: goal, 60 times real time on two cores;
- the obvious script with the same backbones: sound by ffmpeg into a .wav and `librosa.load`, every frame by a decoder
  of its own, a call of the network a clip;
- `extract` and the obvious script with networks of transformers in place of the defaults. Their weights are random and
  made on the spot: nothing can be downloaded here, and time does not depend on what they are. CLIP's vision tower
  (ViT-B/32) and the Audio Spectrogram Transformer; with --quick, smaller ones;
- each of the four backbones by itself, beside the decoding: preparing and embedding what was decoded before.

And units a second, from samples or frames to vectors, of the paper's networks at full size with random weights: VGGish
beside torchvggish, Inception V3 beside pytorchcv's. Goals: one at a time no slower than the peer, and in batches at
least 1.5 times as fast as the peer one at a time. SoundNet and I3D have no peer here.
"""

import argparse
import contextlib
import itertools
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import librosa
import numpy as np
from harness import interleaved, parse, report
from networks import random_networks, speeds
from transformers import ASTConfig, ASTFeatureExtractor, ASTModel, CLIPVisionConfig, CLIPVisionModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from modeling_dualspace.backbones import Backbone
from modeling_dualspace.console import quiet
from modeling_dualspace.extraction import extract
from modeling_dualspace.known_backbones import load_backbone
from modeling_dualspace.media import Film, Picture, Sound
from modeling_dualspace.sample_clips import write_clip
from modeling_dualspace.sample_scenes import render_clip

THREADS, CLIP_SECONDS, ALONE_SECONDS = 2, 10, 30
SMALL = {"hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4}


def make_film(folder: Path, given: str | None, seconds: int) -> Path:
    """A film that lasts at least so long."""
    short = Path(given) if given else folder / "short.mp4"
    if not given:
        write_clip(folder / "rendered.mp4", render_clip("bouncing_ball", 0, 10, (480, 360), 30))
        run("ffmpeg", "-i", folder / "rendered.mp4", "-c:v", "libx264", "-b:v", "700k", "-c:a", "copy", short)
    with Film(short) as film:
        times = int(np.ceil(seconds / film.seconds))
    out = folder / "films" / "one.mp4"
    out.parent.mkdir()
    run("ffmpeg", "-stream_loop", times - 1, "-i", short, "-c", "copy", "-fflags", "+genpts", out)
    shutil.copy(out, out.with_name("two.mp4"))
    return out


def run(*words: Any) -> None:
    """A command, silent unless it fails."""
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        sys.exit(f"{words[0]} failed: {done.stderr[-500:]}")


def decode(film: Path) -> None:
    """Ours."""
    with Film(film, threads=THREADS) as opened:
        for _ in opened.read(rate=16_000, times=itertools.count()):
            pass


def decode_by_ffmpeg(film: Path) -> None:
    """The same into the void."""
    pictures = ["-map", "0:v", "-vf", "fps=1", "-f", "rawvideo", "-pix_fmt", "rgb24", "-y", "/dev/null"]
    sound = ["-map", "0:a", "-ac", "1", "-ar", "16000", "-f", "s16le", "-y", "/dev/null"]
    run("ffmpeg", "-v", "error", "-threads", THREADS, "-i", film, *pictures, *sound)


def extracted(film: Path, out: Path, **backbones: str) -> None:
    """Ours, whole: windows of ten seconds into a data set."""
    with quiet(all_warnings=True):
        extract(film.parent, out, window=CLIP_SECONDS, overwrite=True, progress=False, **backbones)


def obvious(film: Path, folder: Path, audio: Backbone, visual: Backbone) -> np.ndarray:
    """What one writes first."""
    wav = folder / "sound.wav"
    run("ffmpeg", "-v", "error", "-y", "-i", film, "-ac", "1", "-ar", "16000", wav)
    seconds = librosa.get_duration(path=wav)
    rows = []
    for start in range(0, int(seconds) - CLIP_SECONDS + 1, CLIP_SECONDS):
        samples, _ = librosa.load(wav, sr=16_000, offset=start, duration=CLIP_SECONDS)
        length = audio.steps.length
        pieces = [samples[first : first + length] for first in audio.steps.starts(len(samples))]
        heard = np.stack([audio.embed([[audio.prepare(piece)]])[0] for piece in pieces]).mean(axis=0)
        frames = [frame_at(film, second) for second in range(start, start + CLIP_SECONDS)]
        seen = np.stack([visual.embed([[visual.prepare(frame)]])[0] for frame in frames]).mean(axis=0)
        rows.append(np.concatenate([heard, seen]))
    return np.stack(rows)


def frame_at(film: Path, second: int) -> np.ndarray:
    """A decoder of its own for a frame."""
    with av.open(str(film)) as container:
        stream = container.streams.video[0]
        container.seek(int(second / stream.time_base), stream=stream)
        for frame in container.decode(stream):
            if frame.time is not None and frame.time >= second - 1e-6:
                break
        return frame.to_ndarray(format="rgb24")


def alone(film: Path, backbones: dict[str, Backbone]) -> dict[str, float]:
    """Seconds of film that each prepares and embeds in a second, decoding left out."""
    with Film(film, threads=THREADS) as opened:
        read = list(opened.read(rate=16_000, times=itertools.count(), end=ALONE_SECONDS))
    samples = np.concatenate([piece.samples for piece in read if isinstance(piece, Sound)])
    frames = [piece.frame for piece in read if isinstance(piece, Picture)]
    found = {}
    for name, backbone in backbones.items():
        length = backbone.steps.length
        starts = backbone.steps.starts(len(samples) if backbone.modality == "audio" else len(frames))
        source = samples if backbone.modality == "audio" else frames

        def work(backbone=backbone, source=source, starts=starts, length=length) -> None:
            cuts = [source[start : start + length] for start in starts]
            pieces = [[cut] if backbone.modality == "audio" else cut for cut in cuts]
            backbone.embed([[backbone.prepare(one) for one in unit] for unit in pieces])

        found[name] = ALONE_SECONDS / interleaved(1, work=work)["work"]
    return found


def networks(folder: Path, small: bool) -> dict[str, str]:
    """Folders with random networks and their preprocessors."""
    clip = CLIPVisionConfig(**SMALL, patch_size=32) if small else CLIPVisionConfig(patch_size=32)
    ast = ASTConfig(**SMALL) if small else ASTConfig()
    places = {"visual": folder / "clip", "audio": folder / "ast"}
    with quiet(all_warnings=True), contextlib.redirect_stderr(None):
        CLIPVisionModel(clip).save_pretrained(places["visual"])
        CLIPImageProcessorPil().save_pretrained(places["visual"])
        ASTModel(ast).save_pretrained(places["audio"])
        ASTFeatureExtractor().save_pretrained(places["audio"])
    return {name: str(place) for name, place in places.items()}


def compared(film: Path, folder: Path, backbones: dict[str, str], repeats: int, more: dict[str, Callable]) -> dict:
    """Median seconds of the whole way, ours and the obvious one, and of whatever else."""
    audio, visual = (load_backbone(name, backbones[name]) for name in ("audio", "visual"))  # type: ignore[arg-type]
    return interleaved(
        repeats,
        **more,
        whole=lambda: extracted(film, folder / "features", **backbones),
        obvious=lambda: [obvious(one, folder, audio, visual) for one in sorted(film.parent.iterdir())],
    )


def main(argv: list[str] | None = None) -> int:
    """Reads the film in all ways, and prints the figures."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--film")
    given, rest = parser.parse_known_args(argv)
    arguments = parse(__doc__, rest)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        film = make_film(folder, given.film, 20 if arguments.quick else 90)
        with Film(film) as opened:
            seconds = opened.seconds
        decoders = {"decode": lambda: decode(film), "ffmpeg": lambda: decode_by_ffmpeg(film)}
        defaults = {"audio": "logmel", "visual": "thumbnail"}
        times = compared(film, folder, defaults, 2 if arguments.quick else 5, decoders)
        found = networks(folder, arguments.quick)
        nets = compared(film, folder, found, 1, {})
        loaded = [load_backbone(kind, name) for names in (defaults, found) for kind, name in names.items()]  # type: ignore[arg-type]
        single = alone(film, {backbone.name: backbone for backbone in loaded})
        with quiet(all_warnings=True):
            papers = random_networks(folder / "papers", arguments.quick)
        of_papers = speeds(papers, 1 if arguments.quick else 5)
        in_unit = {name: backbone.steps.hop / backbone.steps.rate for name, backbone in papers.items()}
    ratio = times["decode"] / times["ffmpeg"]
    figures = {
        "film_seconds": seconds,
        "decode_over_ffmpeg": ratio,
        "times_real_time": {way: seconds / times[way] for way in ("decode", "ffmpeg")}
        | {way: 2 * seconds / times[way] for way in ("whole", "obvious")},
        "networks_times_real_time": {way: 2 * seconds / nets[way] for way in ("whole", "obvious")},
        "backbones_alone": single,
        "obvious_over_whole": times["obvious"] / times["whole"],
        "networks_obvious_over_whole": nets["obvious"] / nets["whole"],
        "papers_units_a_second": of_papers,
        "papers_seconds_a_unit": in_unit,
    }
    speed_of = figures["times_real_time"]
    print(f"{seconds:.0f} s of 480 x 360; seconds of film in a second:")
    print(f"  decoding alone: ours {speed_of['decode']:.0f}, ffmpeg {speed_of['ffmpeg']:.0f} ({ratio:.2f} x its time)")
    print(f"  logmel and thumbnail: extract {speed_of['whole']:.0f}, obvious script {speed_of['obvious']:.0f}")
    speed_of = figures["networks_times_real_time"]
    size = "small random networks" if arguments.quick else "AST and CLIP ViT-B/32, random weights"
    print(f"  {size}: extract {speed_of['whole']:.1f}, obvious script {speed_of['obvious']:.1f}")
    print("  beside decoding: " + ", ".join(f"{name} {speed:.0f}" for name, speed in single.items()))
    print("  the paper's networks, from samples or frames to vectors; seconds of film in a second:")
    for name, speed in of_papers.items():
        told = {way: value * in_unit[name] for way, value in speed.items()}
        print(f"    {name}: " + ", ".join(f"{way.replace('_', ' ')} {value:.1f}" for way, value in told.items()))
    goals = {
        "decoding within 1.3 x of ffmpeg": ratio <= 1.3,
        "default backbones at least 60 x real time": figures["times_real_time"]["whole"] >= 60,
    }
    for name in ("vggish", "inception"):
        speed = of_papers[name]
        goals[f"{name}, one at a time, no slower than its peer"] = speed["alone"] >= speed["peer_alone"]
        goals[f"{name} in batches at least 1.5 x its peer"] = speed["batched"] >= 1.5 * speed["peer_alone"]
    return report("extraction", figures, goals, arguments)


if __name__ == "__main__":
    sys.exit(main())
