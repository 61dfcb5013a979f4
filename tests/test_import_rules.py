"""The rules of the house: who may import whom, what travels, and what an import costs."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "modeling_dualspace"

# The rooms by ring. Imports go down or sideways, never up, never in a circle. A new file goes in here first.
RINGS = [
    {
        "average_precision", "cca", "closed_config", "configuration_dualspace", "cosines", "distributed", "fusion",
        "keeps_float32", "losses", "modeling_crossmodal", "modeling_dualspace", "module_state", "moments", "optional",
        "pair_moments", "ranking", "targets", "towers",
    },
    {
        "adversary", "arrow_tensors", "audio_backbones", "backbones", "baselines.__init__", "baselines.acmr",
        "baselines.agah", "baselines.c_dcca", "baselines.cca", "baselines.cluster_cca", "baselines.cm_gan",
        "baselines.dcca", "baselines.dscmr", "baselines.kcca", "baselines.random", "baselines.tnn_c_cca",
        "baselines.ucal", "baselines.ugach", "canonical_system", "card_template", "checkpoint_files",
        "checkpoint_layouts", "checkpoints", "clip_folder", "clip_gallery", "clip_queries", "clip_table", "clips",
        "codes", "console", "conv_norm", "conversion", "data_card", "encoder_system", "extracted_set",
        "extraction_plan", "extraction_recipe", "extraction_shards", "feature_builder", "feature_checks",
        "feature_dataset", "feature_network", "feature_parts", "feature_pca", "feature_schema", "feature_sources",
        "figure_style", "figures", "files", "film_reader", "i3d", "inception", "index_cache", "index_card",
        "index_data", "index_filter", "index_folder", "index_milvus", "index_rows", "index_shards", "index_state",
        "index_store", "inverted_lists", "keras_layout", "known_backbones", "legacy_prefix_average", "media",
        "media_inputs", "media_tracks", "metric_space", "milvus_place", "milvus_rows", "model_card", "nearest",
        "neighbours", "optimizers", "paper_networks", "pipeline_dualspace", "pooling", "processing_dualspace",
        "published", "recipe", "recipe_files", "release_checks", "release_plan", "release_secrets", "resources",
        "results", "retrieval_map", "retrieval_scores", "row_hash", "run_folder", "sample_clips", "sample_scenes",
        "scene", "soundnet", "spectra", "splits", "staging", "suite", "synthetic", "torch7_files", "training_data",
        "training_progress", "transformers_backbones", "transformers_models", "transformers_processors", "triplets",
        "typed", "units", "validation", "vggish", "visual_backbones", "yaml_files",
    },
    {
        "comparison", "comparison_cells", "comparison_tables", "comparison_workers", "component_fitting",
        "data_release", "evaluation", "extraction", "final_score", "hub", "hub_faults", "index", "index_places",
        "index_queries", "index_release", "indexing", "loading", "metric_release", "model_release", "model_setup",
        "page_release", "page_space", "processor_release", "release", "release_kinds", "report", "report_pictures",
        "report_samples", "report_sources", "stranger", "trainer", "training_grid", "training_report", "training_run",
        "training_setup", "verification",
    },
    {
        "__init__", "__main__", "app", "app_api", "app_files", "app_gate", "app_map", "app_model", "app_page",
        "app_query", "app_results", "app_search", "cli", "cli_app", "cli_benchmark", "cli_completion", "cli_extract",
        "cli_parts", "cli_search", "demo",
    },
]  # fmt: skip
RING = {room: number for number, rooms in enumerate(RINGS) for room in rooms}
RING_0_MAY_IMPORT = {"numpy", "torch", "transformers", "huggingface_hub"} | sys.stdlib_module_names
# Never a literal import: these come through `optional.require`.
OPTIONAL = {"av", "faiss", "gradio", "h5py", "librosa", "matplotlib", "pymilvus", "sklearn", "timm", "torchvision"}
NOT_LOADED = {"librosa", "av", "datasets", "evaluate", "faiss", "gradio", "matplotlib"}


def rooms() -> list[Path]:
    """Every module of the package."""
    return sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    """`baselines.cca` for baselines/cca.py."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def imports(path: Path) -> tuple[set[str], set[str]]:
    """Siblings and third parties a file names in import statements, wherever in the file they stand."""
    siblings, others = set(), set()
    folder = name_of(path).rpartition(".")[0] if path.is_relative_to(PACKAGE) else ""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            others |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level:
            inside = [folder] if folder and node.level == 1 else []
            named = [[*inside, node.module] if node.module else [*inside, alias.name] for alias in node.names]
            found = {".".join(parts) for parts in named}
            found = {f"{name}.__init__" if f"{name}.__init__" in RING else name for name in found}
            siblings |= {name if name in RING else "__init__" for name in found}
        elif isinstance(node, ast.ImportFrom):
            others.add(node.module.split(".")[0])
    return siblings, others


def test_every_room_has_a_ring():
    assert {name_of(path) for path in rooms()} == set(RING)


@pytest.mark.parametrize("path", rooms(), ids=name_of)
def test_imports_go_down_the_rings_only(path):
    siblings, others = imports(path)
    assert {room for room in siblings if RING[room] > RING[name_of(path)]} == set()
    assert others & OPTIONAL == set()
    if RING[name_of(path)] == 0:
        assert others <= RING_0_MAY_IMPORT


def test_no_circle_of_imports():
    needs = {name_of(path): imports(path)[0] for path in rooms()}
    done: set[str] = set()
    while ready := {room for room, needed in needs.items() if room not in done and needed <= done}:
        done |= ready
    assert set(needs) - done == set()


@pytest.mark.parametrize("room", sorted(RINGS[0]))
def test_what_travels_imports_siblings_in_the_one_form_remote_code_carries(room):
    text = (PACKAGE / f"{room}.py").read_text()
    # The scan of remote code is a regular expression: it sees docstrings too.
    for line in re.findall(r"^\s*(?:from\s+\.|import\s+\.).*$", text, re.MULTILINE):
        assert re.fullmatch(r"\s*from \.[a-z_0-9]+ import .+", line), line
    assert "modeling_dualspace" not in imports(PACKAGE / f"{room}.py")[1]


def test_scripts_import_the_package_and_third_parties_but_never_each_other():
    for folder in ("training", "dataset_scripts", "benchmarks"):
        assert not (ROOT / folder / "__init__.py").exists()
    dependencies = {"accelerate", "datasets", "evaluate", "librosa", "numpy", "torch", "transformers"} | OPTIONAL
    scripts = {path.stem: path for folder in ("training", "dataset_scripts") for path in (ROOT / folder).glob("*.py")}
    assert scripts.keys() & dependencies == set()
    for path in scripts.values():
        siblings, others = imports(path)
        assert siblings == set() and others & scripts.keys() == set()


def test_importing_the_package_loads_nothing_heavy():
    code = "import json, sys, modeling_dualspace; print(json.dumps(sorted(sys.modules)))"
    modules = json.loads(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    )
    assert NOT_LOADED & set(modules) == set()


def test_no_compared_system_makes_float64_by_itself_which_not_every_device_has():
    """`moments.as_float64` knows where to go."""
    shared = [PACKAGE / f"{name}.py" for name in ("canonical_system", "row_hash", "triplets", "towers")]
    wrong = [
        f"{path.name}:{number}"
        for path in [*(PACKAGE / "baselines").glob("*.py"), *shared]
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if re.search(r"\.double\(\)|dtype=torch\.float64", line)
    ]
    assert wrong == []
