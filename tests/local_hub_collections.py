"""The local Hub's collections: titled lists of repositories."""

from local_hub_routes import Answer, Call, answer, page, route
from local_hub_store import KINDS, Collection, HubError, Item, now


def _shown(call: Call, collection: Collection) -> dict:
    items = []
    for item in collection.items:
        repository = call.store.repositories.get((item.type, item.id))
        if item.type not in KINDS or (repository and call.store.may_read(call.user, repository)):
            told = {"_id": item.identity, "id": item.id, "type": item.type, "position": len(items)}
            if item.note is not None:
                told["note"] = {"text": item.note, "html": item.note}
            items.append(told)
    own = [one.identity for one in call.store.collections.values() if one.owner == collection.owner]
    return {
        "slug": collection.slug, "title": collection.title, "description": collection.description,
        "owner": {"type": "user", "name": collection.owner, "fullname": collection.owner}, "items": items,
        "position": own.index(collection.identity), "private": collection.private, "theme": collection.theme,
        "upvotes": 0, "isUpvotedByUser": False, "gating": False, "lastUpdated": collection.changed,
        "shareUrl": f"{call.base}/collections/{collection.slug}",
    }  # fmt: skip


@route("GET", "/api/collections")
def _list(call: Call) -> Answer:
    found = [one for one in call.store.collections.values() if call.store.may_read(call.user, one)]
    owners = call.query.get("owner", [])
    found = [_shown(call, one) for one in found if not owners or one.owner in owners]
    for wanted in call.query.get("item", []):  # such as models/me/thing
        kind, _, name = wanted.partition("/")
        found = [
            one
            for one in found
            if any((item["type"], item["id"]) == (kind.removesuffix("s"), name) for item in one["items"])
        ]
    for one in found:  # where collections are listed, the Hub shows four items and no position
        del one["position"]
        one["items"] = one["items"][:4]
    return page(call, found, 100)


@route("POST", "/api/collections")
def _create(call: Call) -> Answer:
    asked = call.json()
    owner = asked.get("namespace") or (call.user.name if call.user else "")
    call.store.require_write(call.user, owner)
    if not asked.get("title"):
        raise HubError(400, "A collection needs a title")
    for one in call.store.collections.values():
        if (one.owner, one.title) == (owner, asked["title"]):
            raise HubError(409, "This collection already exists", slug=one.slug)
    made = Collection(owner, asked["title"], asked.get("description") or "", bool(asked.get("private")))
    call.store.collections[made.identity] = made
    for item in [asked["item"]] if asked.get("item") else []:
        _add(call, made, item, None)
    return answer(_shown(call, made))


@route("GET", "/api/collections/{slug}")
def _get(call: Call) -> Answer:
    return answer(_shown(call, call.store.collection(call.parts["slug"], call.user)))


@route("PATCH", "/api/collections/{slug}")
def _change(call: Call) -> Answer:
    collection = call.store.collection(call.parts["slug"], call.user, write=True)
    for name, value in call.json().items():
        if name in ("title", "description", "private", "theme"):
            setattr(collection, name, value)
    collection.changed = now()
    return answer({"success": True, "data": _shown(call, collection)})


@route("DELETE", "/api/collections/{slug}")
def _delete(call: Call) -> Answer:
    del call.store.collections[call.store.collection(call.parts["slug"], call.user, write=True).identity]
    return answer({"success": True})


@route("POST", "/api/collections/{slug}/items")
def _add_item(call: Call) -> Answer:
    collection, asked = call.store.collection(call.parts["slug"], call.user, write=True), call.json()
    _add(call, collection, asked["item"], asked.get("note"))
    return answer(_shown(call, collection))


def _add(call: Call, collection: Collection, item: dict, note: str | None) -> None:
    if item["type"] in KINDS:
        call.store.repository(item["type"], item["id"], call.user)
    if any((one.type, one.id) == (item["type"], item["id"]) for one in collection.items):
        raise HubError(409, "This item is already in the collection")
    collection.items.append(Item(item["type"], item["id"], note))
    collection.changed = now()


def _item(call: Call) -> tuple[Collection, Item]:
    collection = call.store.collection(call.parts["slug"], call.user, write=True)
    for item in collection.items:
        if item.identity == call.parts["item"]:
            return collection, item
    raise HubError(404, "Item not found")


@route("PATCH", "/api/collections/{slug}/items/{item}")
def _change_item(call: Call) -> Answer:
    (collection, item), asked = _item(call), call.json()
    item.note = asked.get("note", item.note)
    if "position" in asked:
        collection.items.remove(item)
        collection.items.insert(asked["position"], item)
    return answer({"success": True})


@route("DELETE", "/api/collections/{slug}/items/{item}")
def _delete_item(call: Call) -> Answer:
    collection, item = _item(call)
    collection.items.remove(item)
    return answer({"success": True})
