"""An index as the Hub gets it: a data set of embeddings, without what was deleted, its model named as others can."""

from collections.abc import Sequence
from pathlib import Path

from .index_card import said_of, write_index_card
from .index_folder import FolderStore
from .release_plan import Item
from .results import is_hub_id, is_synthetic
from .staging import Staged


def stage_index(item: Item, staged: Staged, others: Sequence[Staged]) -> None:
    """Fills the folder of an index."""
    source = Path(item.path)
    with_all = FolderStore.open(source)
    identity = with_all.identity
    staged.folder.rmdir()
    store = FolderStore.save(staged.folder, identity, with_all.batches())
    licensed, synthetic = said_of(source)
    staged.synthetic = synthetic or is_synthetic(identity.model_id)
    pushed = next((one for one in others if one.kind == "model" and identity.fingerprint in one.fingerprints), None)
    name = pushed.repo_id if pushed else identity.model_id
    if not is_hub_id(name):
        name = Path(name).name
        staged.notes.append(
            f"Its model, {name}, lies on this machine: whoever searches it says where it is by --model, unless it is "
            "made again with a model of the Hub."
        )
    license = item.license or licensed or "unknown"
    batches = len(store.state().shards)
    write_index_card(
        staged.folder, identity.named(name), len(store), batches, name=staged.repo_id, license=license,
        synthetic=staged.synthetic,
    )  # fmt: skip
    paths = store.facts(["path"])["path"].drop_null()
    if len(paths):
        staged.notes.append(f"It names films by their paths ({paths[0].as_py()}, ...), and everybody could read that.")
    store.close()
    with_all.close()
