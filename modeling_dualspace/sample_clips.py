"""Short synthetic clips of ten classes, in a folder with their list: something to run everything on without a download.

`<class>/<class>-0000.mp4` and so on, `metadata.csv` (`file_name,label,split`) and a README.md that says what they are.
"""

import csv
import os
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import numpy as np
from tqdm import tqdm

from .files import atomic_folder
from .optional import require
from .sample_scenes import CLASSES, Rendered, class_sentence, render_clip

SPLITS = ("train", "validation", "test", *["train"] * 7)  # clip k is in the (k mod 10)th: three clips fill all splits

README = """---
license: apache-2.0
tags:
- audio-visual
- dualspace
- synthetic
pretty_name: Sample clips (synthetic)
---

# Sample clips (synthetic)

SYNTHETIC: drawn and sounded by a program, nothing was filmed or recorded. Clips to try every step from media to search
on; no figure measured on them says anything about real video.

{clips} clips of {seconds:g} seconds with picture (by {codec}) and sound (aac), {count} a class, made by

    python dataset_scripts/sample_clips.py --out {name} --clips-per-class {count} --seconds {seconds} --seed {seed}

Each clip varies in colours, ground, size, place, rate, pitch, loudness, noise and shapes that do not belong; within a
clip, picture and sound share the beats, big things sound low and vigorous ones loud. Classes:

{classes}

`metadata.csv` names label and split of each clip: of ten clips of a class eight are in train, one in validation, one in
test. To load them:

```python
from modeling_dualspace.clip_folder import list_clips

clips = list_clips("{name}").clips
```
"""


def _video_codec() -> str:
    """The encoder: h264 where PyAV's libraries have it, MPEG-4 part 2, which all have, elsewhere."""
    return "libx264" if "libx264" in require("av", extra="media").codecs_available else "mpeg4"


def write_clip(path: Path, clip: Rendered) -> None:
    """Writes an mp4 with a track of each; the same clip gives the same bytes with the same libraries."""
    av = require("av", extra="media")
    with av.open(str(path), "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        # With its macroblock tree (the default) x264 writes other bytes in every process, single-threaded too.
        options = {"threads": "1"} | ({"preset": "veryfast", "mbtree": "0"} if _video_codec() == "libx264" else {})
        video = container.add_stream(_video_codec(), rate=clip.fps, options=options)
        video.height, video.width = clip.frames.shape[1:3]
        audio = container.add_stream("aac", rate=clip.sample_rate, layout="mono", options={"threads": "1"})
        edges = np.arange(len(clip.frames) + 1) * clip.sample_rate // clip.fps
        for picture, first, last in zip(clip.frames, edges[:-1], edges[1:], strict=True):
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            sound = av.AudioFrame.from_ndarray(clip.samples[None, first:last], format="fltp", layout="mono")
            sound.sample_rate, sound.time_base, sound.pts = clip.sample_rate, Fraction(1, clip.sample_rate), int(first)
            container.mux(audio.encode(sound))
        for stream in (video, audio):
            container.mux(stream.encode(None))


def write_clips(
    out: str | Path, clips_per_class: int, seconds: float, seed: int, overwrite: bool = False, progress: bool = True
) -> None:
    """Writes a folder of clips; the same arguments give the same bytes with the same libraries.

    Clip k depends on the class, the seed and k alone, its split on k alone: more clips leave those there as they are.

    Args:
        out: the folder to make.
        clips_per_class: three and more fill all splits.
        seconds: how long each clip lasts.
        seed: another number, other clips.
        overwrite: replace a folder of clips that is there already.
        progress: show a bar, where somebody sits at a terminal.
    """
    if clips_per_class < 1:
        raise ValueError(f"--clips-per-class must be at least 1, got {clips_per_class}")
    out, codec = Path(out), _video_codec()
    numbered = [(name, number) for name in CLASSES for number in range(clips_per_class)]
    rows = [(f"{name}/{name}-{number:04d}.mp4", name, SPLITS[number % len(SPLITS)]) for name, number in numbered]
    with atomic_folder(out, overwrite=overwrite) as folder:
        for name in CLASSES:
            (folder / name).mkdir()

        def write(row: tuple[str, str, str], clip: tuple[str, int]) -> None:
            name, number = clip
            write_clip(folder / row[0], render_clip(name, (seed, number), seconds))

        # Drawing and encoding let other threads run. No more than four: a clip of a minute takes half a gigabyte.
        pool = ThreadPoolExecutor(min(os.cpu_count() or 1, 4))
        try:
            written = pool.map(write, rows, numbered)
            for _ in tqdm(written, total=len(rows), unit="clip", disable=None if progress else True):
                pass
        finally:
            pool.shutdown(cancel_futures=True)  # after a failure or Ctrl-C, what has not begun never will
        with open(folder / "metadata.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([("file_name", "label", "split"), *rows])
        facts = {"name": out.absolute().name, "clips": len(rows), "count": clips_per_class, "seed": seed}
        classes = "\n".join(f"- `{name}`: {class_sentence(name)}" for name in CLASSES)
        text = README.format(**facts, seconds=seconds, codec=codec, classes=classes)
        (folder / "README.md").write_text(text, encoding="utf-8")
