"""What others published, to stand beside what is measured, in columns of its own.

The paper is Zeng et al., "Learning Explicit and Implicit Dual Common Subspaces for Audio-visual Cross-modal Retrieval"
(ACM TOMM 2023), its Tables 2 to 4; the forum paper is earlier work of the same group, with S-DCCA and TNN.
"""

from collections.abc import Sequence

from .feature_schema import Description
from .synthetic import CLASSES as VEGAS_CLASSES

PRINTED = (
    "Clock; Motorcycle; Train horn; Bark; Cat; Bus; Rodents, rats, mice; Toilet flush; Acoustic guitar; "
    "Frying (food); Chainsaw; Horse; Helicopter; Baby cry, infant cry; Truck"
).split("; ")
AVE_CLASSES = {"ave15": ["Goat", *PRINTED[1:]], "ave15-as-printed": PRINTED}
"""The fifteen classes of AVE that give the paper's counts, and those that it prints."""
TITLES = {"vegas": "VEGAS", "ave": "AVE"}

Three = tuple[float, float, float]
MAPS: dict[str, dict[str, Three]] = {
    "vegas": {
        "Random": (0.110, 0.109, 0.109),
        "CCA": (0.332, 0.327, 0.330),
        "KCCA": (0.288, 0.273, 0.281),
        "DCCA": (0.478, 0.457, 0.468),
        "C-CCA": (0.711, 0.704, 0.708),
        "C-DCCA": (0.722, 0.716, 0.719),
        "UGACH": (0.182, 0.179, 0.181),
        "AGAH": (0.578, 0.568, 0.573),
        "UCAL": (0.446, 0.436, 0.441),
        "ACMR": (0.465, 0.442, 0.454),
        "DSCMR": (0.732, 0.721, 0.727),
        "TNN-C-CCA": (0.751, 0.738, 0.745),
        "explicit": (0.687, 0.692, 0.690),
        "implicit": (0.614, 0.622, 0.618),
        "shared": (0.781, 0.773, 0.777),
        "dual": (0.797, 0.779, 0.788),
    },
    "ave": {
        "Random": (0.127, 0.124, 0.126),
        "CCA": (0.190, 0.189, 0.190),
        "KCCA": (0.133, 0.135, 0.134),
        "DCCA": (0.221, 0.223, 0.222),
        "C-CCA": (0.228, 0.226, 0.227),
        "C-DCCA": (0.230, 0.227, 0.229),
        "UGACH": (0.165, 0.159, 0.162),
        "AGAH": (0.200, 0.196, 0.198),
        "UCAL": (0.153, 0.150, 0.152),
        "ACMR": (0.162, 0.159, 0.161),
        "DSCMR": (0.314, 0.256, 0.285),
        "TNN-C-CCA": (0.253, 0.258, 0.256),
        "explicit": (0.232, 0.244, 0.238),
        "implicit": (0.222, 0.263, 0.242),
        "shared": (0.278, 0.243, 0.261),
        "dual": (0.337, 0.279, 0.308),
    },
}
"""The paper's Tables 2 and 3: MAP by data set and system; sound finds video, video finds sound, their mean."""
MINUTES = {
    "Random": 0.04, "CCA": 1.08, "C-CCA": 1.24, "KCCA": 2.03, "DCCA": 5.15, "explicit": 6.15, "implicit": 6.77,
    "dual": 8.36, "C-DCCA": 18.56, "DSCMR": 22.05, "ACMR": 176.7, "TNN-C-CCA": 192.0,
}  # fmt: skip
"""The paper's Table 4: training on VEGAS, on hardware and for epochs that it does not name."""

FORUM_SYSTEMS = {"CCA": "CCA", "DCCA": "DCCA", "S-DCCA": "C-DCCA", "TNN": "TNN-C-CCA"}
"""Those of the forum paper, and as what each stands here."""
Both = tuple[float, float]
FORUM: dict[str, Both] = {
    "CCA": (0.3243, 0.3211), "DCCA": (0.1409, 0.1249), "S-DCCA": (0.7034, 0.6927), "TNN": (0.7269, 0.7184),
}  # fmt: skip
"""MAP on VEGAS, sound finds video and video finds sound."""
S_DCCA: dict[tuple[str, str], Both] = {
    ("soundnet", "i3d"): (0.2545, 0.2528),
    ("vggish", "i3d"): (0.4749, 0.4622),
    ("soundnet", "inception"): (0.4982, 0.4863),
    ("vggish", "inception"): (0.7034, 0.6927),
}
"""Likewise, of S-DCCA, by what made the features."""
NETWORKS = {"soundnet": "SoundNet", "vggish": "VGGish", "i3d": "I3D", "inception": "Inception"}


def features_of(description: Description | None) -> tuple[str, str] | None:
    """The networks that made the features of a data set, where its card names them.

    Example:
        ```python
        >>> features_of(Description("0" * 16, "vggish@vegas-authors", "inception@5e6f7a8b", synthetic=False))
        ('vggish', 'inception')

        ```
    """
    if description is None:
        return None
    return description.audio.partition("@")[0], description.visual.partition("@")[0]


def whose_data(class_names: Sequence[str] | None, description: Description | None) -> str | None:
    """`vegas` or `ave` where clips are those of the paper, whatever made their features; None of all others."""
    if description is None or description.synthetic or class_names is None:
        return None
    known = {"vegas": [VEGAS_CLASSES], "ave": list(AVE_CLASSES.values())}
    return next((name for name, lists in known.items() if sorted(class_names) in map(sorted, lists)), None)
