"""The columns of a feature data set, how NumPy arrays become them, and the fingerprint of what they hold."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Features, List, Value

from .files import short_digest
from .splits import SPLITS

AUDIO, VISUAL = "audio_features", "visual_features"
MODALITIES = (AUDIO, VISUAL)
COLUMNS = ("clip_id", AUDIO, VISUAL, "label", "labels")


def feature_columns(
    audio_dim: int,
    visual_dim: int,
    class_names: Sequence[str] | None = None,
    *,
    multi_label: bool = False,
    extra: Mapping[str, Any] | None = None,
) -> Features:
    """The schema: `clip_id`, both features, `label` or `labels`, and whatever else a data set carries.

    Args:
        audio_dim: width of `audio_features`.
        visual_dim: width of `visual_features`.
        class_names: of the categories; None where nobody annotated.
        multi_label: the column is `labels`, a row of 0 and 1.
        extra: further columns, as `datasets` types.

    Example:
        ```python
        >>> list(feature_columns(128, 1024, ["dog", "drum"]))
        ['clip_id', 'audio_features', 'visual_features', 'label']

        ```
    """
    columns: dict[str, Any] = {"clip_id": Value("string")}
    for name, width in ((AUDIO, audio_dim), (VISUAL, visual_dim)):
        columns[name] = List(Value("float32"), length=width)
    if class_names is not None and multi_label:
        columns["labels"] = List(Value("float32"), length=len(class_names))
    elif class_names is not None:
        columns["label"] = ClassLabel(names=list(class_names))
    return Features(columns | dict(extra or {}))


@dataclass(frozen=True)
class Description:
    """What `dataset_info.description` says: of a README's facts the only ones that reach both the cache and `ds.info`.

    Example:
        ```python
        >>> text = str(Description("0123456789abcdef", "vggish@1a2b3c4d", "inception@5e6f7a8b", synthetic=False))
        >>> text
        'fingerprint=0123456789abcdef audio=vggish@1a2b3c4d visual=inception@5e6f7a8b synthetic=false'
        >>> Description.parse(text).audio
        'vggish@1a2b3c4d'

        ```
    """

    fingerprint: str
    audio: str
    visual: str
    synthetic: bool
    class_names: tuple[str, ...] | None = None
    """Only of `labels`, which has no place for names; a `label` column carries its own."""

    def __str__(self) -> str:
        text = f"fingerprint={self.fingerprint} {self.feature_spec}"
        text += f" synthetic={'true' if self.synthetic else 'false'}"
        return text if self.class_names is None else f"{text} classes={json.dumps(self.class_names)}"

    @property
    def feature_spec(self) -> str:
        """What made the features, as a model's config has it."""
        return f"audio={self.audio} visual={self.visual}"

    @classmethod
    def parse(cls, text: str | None) -> "Description | None":
        """The description of a data set of ours, None of any other."""
        text, _, classes = (text or "").partition(" classes=")
        fields = dict(field.split("=", 1) for field in text.split() if "=" in field)
        if not {"fingerprint", "audio", "visual", "synthetic"} <= fields.keys():
            return None
        names = tuple(json.loads(classes)) if classes else None
        return cls(fields["fingerprint"], fields["audio"], fields["visual"], fields["synthetic"] == "true", names)


def to_table(columns: Mapping[str, Any], features: Features, where: str) -> pa.Table:
    """NumPy columns as an Arrow table of the schema; a width, a name or a class that does not fit is refused.

    Args:
        columns: one value a column: `(n, d)` arrays of any float type and byte order, or a list of rows with None
            where a modality is missing; classes `(n,)`, unknown where negative; memberships `(n, classes)`.
        features: the schema.
        where: the source of these rows, for messages.
    """
    if columns.keys() != features.keys():
        raise ValueError(f"{where}: expected the columns {list(features)}, got {list(columns)}.")
    rows = {name: len(column) for name, column in columns.items()}
    if len(set(rows.values())) > 1:
        raise ValueError(f"{where}: expected as many rows in every column, got {rows}.")
    arrays = [_to_array(columns[name], feature, name, where) for name, feature in features.items()]
    return pa.Table.from_arrays(arrays, schema=features.arrow_schema)


def _to_array(column: Any, feature: Any, name: str, where: str) -> pa.Array:
    if isinstance(feature, List):
        return _vectors(column, feature.length, name, where)
    if isinstance(feature, ClassLabel):
        return _classes(np.asarray(column), feature, name, where)
    kind = f"`{name}` must hold {feature.dtype} values that can be stored"
    try:
        array = pa.array(column, feature.pa_type)
    except (pa.ArrowInvalid, pa.ArrowTypeError, UnicodeEncodeError) as error:
        raise ValueError(f"{where}: column {kind} ({error}).") from None
    if pa.types.is_string(array.type) and pc.any(pc.match_substring(array, "\0")).as_py():
        raise ValueError(f"{where}: column {kind}: one of them holds a NUL.")
    return array


def _vectors(column: Any, width: int, name: str, where: str) -> pa.Array:
    missing = None
    if not isinstance(column, np.ndarray):
        missing = np.array([row is None for row in column], dtype=bool)
        column = np.array([np.zeros(width) if row is None else row for row in column]).reshape(len(missing), -1)
    if column.ndim != 2 or column.shape[1] != width:
        raise ValueError(f"{where}: expected `{name}` rows of width {width}, got an array of shape {column.shape}.")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is reported as such
        values = np.ascontiguousarray(column, dtype=np.float32)
    mask = None if missing is None else pa.array(missing)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), width, mask=mask)


def _classes(column: np.ndarray, feature: ClassLabel, name: str, where: str) -> pa.Array:
    if column.ndim != 1 or column.dtype.kind not in "iu":
        raise ValueError(f"{where}: `{name}` must be whole numbers of shape (n,), got {column.dtype} {column.shape}.")
    if len(column) and column.max() >= feature.num_classes:
        row = int(column.argmax())
        raise ValueError(
            f"{where}: label {column[row]} of row {row} is out of range: there are {feature.num_classes} classes, "
            f"numbered from 0 ({', '.join(feature.names)})."
        )
    return pa.array(column.astype(np.int64), mask=column < 0)


def vector_values(array: pa.Array, width: int) -> np.ndarray:
    """The rows `(n, width)` of a list column, without a copy; a missing row is all NaN (and then there is a copy)."""
    if array.null_count:
        if array.type.value_type not in (pa.float32(), pa.float64()):  # nothing else has a NaN
            array = array.cast(pa.list_(pa.float32()))
        array = pc.fill_null(array, pa.scalar([float("nan")] * width, array.type))
    return array.flatten().to_numpy(zero_copy_only=False).reshape(len(array), width)


def bad_rows(table: pa.Table, features: Features) -> np.ndarray:
    """True where a feature of a row is NaN or infinite; a modality that is absent altogether is not bad, but absent."""
    bad = np.zeros(table.num_rows, dtype=bool)
    for name in MODALITIES:
        column = table[name].combine_chunks()
        values = vector_values(column, features[name].length)
        with np.errstate(invalid="ignore"):  # infinities of both signs
            total = values.sum(dtype=np.float64)
        if not np.isfinite(total):
            bad |= ~np.isfinite(values).all(axis=1) & column.is_valid().to_numpy(zero_copy_only=False)
    return bad


class ContentHash:
    """The content of some splits as one short name, whatever their sharding: fed table by table, split by split."""

    def __init__(self, features: Features):
        # In one order, whichever a reader selected them in.
        names = [*(name for name in COLUMNS if name in features), *sorted(set(features) - set(COLUMNS))]
        self.features = {name: features[name] for name in names}
        self.parts: list[bytes] = []

    def add(self, split: str, tables: Iterable[pa.Table | pa.RecordBatch]) -> int:
        """Takes in one split, and returns its rows."""
        rows, digests = 0, {name: hashlib.sha256() for name in self.features}
        for table in tables:
            rows += table.num_rows
            for name, digest in digests.items():
                column = table[name]
                for chunk in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
                    digest.update(_bytes_of(chunk, self.features[name]))
        self.parts += [split.encode(), str(rows).encode(), *(digest.digest() for digest in digests.values())]
        return rows

    def result(self, class_names: Sequence[str] | None = None) -> str:
        """Sixteen hex digits."""
        return short_digest([*self.parts, *(name.encode() for name in class_names or ())])


def _bytes_of(array: pa.Array, feature: Any) -> Any:
    """A column's content in one form: little-endian, without gaps; a number that is missing is NaN, or the least."""
    if isinstance(feature, List) and feature.length <= 0:  # as others write them; the rows may differ in width
        array = array.cast(pa.list_(array.type.value_type))
        lengths = pc.list_value_length(array).fill_null(-1).to_numpy(zero_copy_only=False).astype("<i8")
        values = array.flatten().to_pylist()
        return lengths.tobytes() + b"".join(str(value).encode() + b"\0" for value in values)
    if isinstance(feature, List):
        return np.ascontiguousarray(vector_values(array, feature.length), dtype="<f4")
    if isinstance(feature, ClassLabel):
        return array.fill_null(np.iinfo(np.int64).min).to_numpy(zero_copy_only=False).astype("<i8")
    if feature.dtype in ("float32", "float64"):
        return array.fill_null(float("nan")).to_numpy(zero_copy_only=False).astype("<f8")
    return b"".join(b"\xff\0" if value is None else str(value).encode() + b"\0" for value in array.to_pylist())


def class_names_of(features: Features, description: str | None = None) -> list[str] | None:
    """The names of a data set's classes, None where nobody annotated; those of `labels` stand in the description."""
    if isinstance(features.get("label"), ClassLabel):
        return list(features["label"].names)
    parsed = Description.parse(description)
    return list(parsed.class_names) if parsed and parsed.class_names else None


def in_order(splits: Iterable[str]) -> list[str]:
    """Train, validation, test, then whatever else there is."""
    splits = list(splits)
    return [name for name in SPLITS if name in splits] + [name for name in splits if name not in SPLITS]
