"""/v1/edits: make edits, look through them, take them back, and move them."""

import tempfile
from base64 import b64encode
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from fastapi import APIRouter, Depends, Request, Response
from fastapi import Query as Parameter
from pydantic import AwareDatetime, BaseModel, Field

from liveedit.data.images import images_hash
from liveedit.editors.common.precedence import image_index
from liveedit.errors import BadInput
from liveedit.question import number
from liveedit.serve.problems import Problem
from liveedit.serve.service import Given, Service
from liveedit.steering.explaining import Firing
from liveedit.steering.trying import probes
from liveedit.store.browsing import Listed, listed, page, story
from liveedit.store.durable import image_file, kept_query, thumbnail
from liveedit.store.exchange import export
from liveedit.store.store import Kept
from liveedit.types import Query

__all__ = ["routes"]

routes = APIRouter(prefix="/v1/edits", tags=["Edits"])
Result = TypeVar("Result")
ANSWER = 64
"""Tokens of an answer before and after an edit, at most."""
LONGEST = 10_000
"""Characters of a question or an answer, at most."""
REASON = 2_000
"""Characters of a reason, at most."""
NAME = 200
"""Characters of the name of who makes an edit or takes it back, at most."""
FILE = "application/octet-stream"


class Asking(BaseModel):
    """A question about images, given as data URLs."""

    image: str | list[str] | None = None
    question: Annotated[str, Field(min_length=1, max_length=LONGEST)]

    def query(self, service: Service, answer: str = "") -> Query:
        """The question as a query, its images opened."""
        urls = [self.image] if isinstance(self.image, str) else self.image or []
        service.check_images(len(urls))
        return Query(self.question, answer, [service.pictures.open(url) for url in urls])


class NewEdit(Asking):
    """An edit to make: the answer that the question is to get from now on."""

    answer: Annotated[str, Field(min_length=1, max_length=LONGEST)]
    who: Annotated[str, Field(max_length=NAME)] | None = ""
    why: Annotated[str, Field(max_length=REASON)] | None = ""


class EditBody(BaseModel):
    """An edit."""

    id: str
    question: str
    answer: str
    names: list[str]
    who: str
    why: str
    editor: str
    made: str
    took: bool | None
    state: Literal["in_force", "superseded", "taken_back"]
    superseded_by: str | None
    overrules: list[str]
    hits: int
    thumbnail: str | None


class MadeEdit(EditBody):
    """A new edit, and what it changed."""

    before: str
    after: str
    supersedes: list[str]


class EventBody(BaseModel):
    """Something that happened to an edit; ``by`` is the id of the edit that superseded it."""

    time: str
    kind: str
    who: str
    by: str | None


class EditWithHistory(EditBody):
    """An edit, and what happened to it."""

    history: list[EventBody]


class EditList(BaseModel):
    """A page of edits, the newest first."""

    object: Literal["list"] = "list"
    data: list[EditBody]
    total: int
    has_more: bool


class HitBody(BaseModel):
    """A firing of an edit."""

    time: str
    weight: float
    request: str


class HitList(BaseModel):
    """How often an edit fired, and the newest firings."""

    count: int
    data: list[HitBody]


class Change(BaseModel):
    """A question whose answer an edit would change."""

    question: str
    image: str | None
    before: str
    after: str


class TrialBody(BaseModel):
    """The effects that an edit would have; it is not kept."""

    before: str
    after: str
    took: bool | None
    asked: int
    changes: list[Change]


class FiringBody(BaseModel):
    """An edit that fired, or nearly did; a score fires above its threshold."""

    edit: EditBody
    weight: float
    image: float | None
    image_threshold: float | None
    question: float | None
    question_threshold: float | None


class ExplanationBody(BaseModel):
    """The reasons for an answer."""

    answer: str
    unedited: str
    fired: list[FiringBody]
    near: list[FiringBody]


class Answers(BaseModel):
    """The answers that the question of an edit gets now."""

    unedited: str
    answer: str


class Chosen(BaseModel):
    """Ids of edits; none for all that are not taken back."""

    ids: list[str] | None = None


class Imported(BaseModel):
    """How many edits were added."""

    imported: int


def described(row: Listed) -> EditBody:
    """An edit as JSON."""
    thumbnail = f"/v1/edits/{row.kept.edit.id}/thumbnail" if row.thumbnail else None
    return EditBody(**row.as_json(), thumbnail=thumbnail)


def found(id: str, service: Given) -> Kept:
    """The edit that an id, or a unique beginning of it, names. Raises :class:`Problem`."""
    try:
        return service.store.find(id)
    except BadInput:
        if any(known.startswith(id) for known in service.store.ids()):
            several = f"several edits begin with {id!r:.80}: give more of the id"
            raise Problem(400, several, code="edit_ambiguous", param="id") from None
        missing = f"there is no edit {id!r:.80}: GET /v1/edits?state=all lists them"
        raise Problem(404, missing, code="edit_not_found", param="id") from None


Found = Annotated[Kept, Depends(found)]


def one(service: Service, kept: Kept) -> EditBody:
    """An edit as it is now."""
    [row] = listed(service.store, [kept.number])
    return described(row)


async def heavy(service: Service, task: Callable[[], Result]) -> Result:
    """The result of a task that asks about the same images again and again."""

    def once() -> Result:
        with service.model.vlm.vision_once():
            return task()

    return await service.heavy.run(once)


@routes.post("", status_code=201)
async def make(body: NewEdit, service: Given) -> MadeEdit:
    """Make an edit. It acts on the next request, and is kept."""
    return await heavy(service, lambda: made(service, body))


def made(service: Service, body: NewEdit) -> MadeEdit:
    """Make an edit, and compare the answers."""
    query = body.query(service, body.answer)
    model = service.model
    tokens = service.check_tokens(ANSWER)
    [before] = model.generate(query, max_new_tokens=tokens)
    [edit] = model.edit(query, who=body.who or "", why=body.why or "")
    [after] = model.generate(query, max_new_tokens=tokens)
    supersedes = [other.id for other in model.history if other.superseded_by == edit.id]
    now = one(service, service.store.find(edit.id))
    return MadeEdit(**now.model_dump(), before=before, after=after, supersedes=supersedes)


@routes.get("")
def look_through(
    service: Given,
    limit: Annotated[int, Parameter(ge=1, le=500)] = 50,
    after: Annotated[str, Parameter(max_length=64)] = "",
    search: Annotated[str, Parameter(max_length=LONGEST)] = "",
    state: Literal["in_force", "superseded", "taken_back", "all"] = "in_force",
    at: AwareDatetime | None = None,
) -> EditList:
    """A page of edits, the newest first; ``after`` is the last id of the page before.

    With ``at``, a time with its zone, the edits are those of that time, in the states that they had
    then; hits and whether they took are of now.
    """
    if after:
        after = found(after, service).edit.id
    rows, total = page(
        service.store,
        state=None if state == "all" else state,
        search=search,
        after=after,
        limit=limit + 1,
        at=None if at is None else version_at(service, at),
    )
    return EditList(
        data=[described(row) for row in rows[:limit]], total=total, has_more=len(rows) > limit
    )


def version_at(service: Service, time: datetime) -> int:
    """The version of the store at a time. Raises :class:`Problem` for one that no clock shows."""
    try:
        return service.store.version_at(time)
    except OverflowError:  # in UTC it is before the year 1, or after 9999
        raise Problem(400, "at: there is no such time in UTC", param="at") from None


@routes.post("/export", responses={200: {"content": {FILE: {}}}}, response_class=Response)
def take_out(service: Given, body: Chosen | None = None) -> Response:
    """A file of edits, for another store; of all without a body."""
    ids = body.ids if body else None
    if ids:
        ids = [found(id, service).edit.id for id in ids]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "edits.safetensors"
        export(service.store, file, ids)
        return Response(
            file.read_bytes(),
            media_type=FILE,
            headers={"Content-Disposition": 'attachment; filename="edits.safetensors"'},
        )


@routes.post("/try")
async def attempt(body: NewEdit, service: Given) -> TrialBody:
    """Try an edit without keeping it, among the last questions and some unrelated ones."""
    return await heavy(service, lambda: tried(service, body))


def tried(service: Service, body: NewEdit) -> TrialBody:
    """The effects that an edit would have."""
    query = body.query(service, body.answer)
    unrelated = probes(service.model.editor.background_folder, [])
    others = {number_of(recent): recent for recent in service.engine.recent}
    others.pop(number_of(query), None)
    among = [*others.values(), *unrelated]
    trial = service.model.try_edit(query, among, max_new_tokens=service.check_tokens(ANSWER))
    return TrialBody(
        before=trial.before,
        after=trial.after,
        took=trial.edit.took,
        asked=trial.asked,
        changes=[
            Change(
                question=change.query.prompt,
                image=shown(change.query),
                before=change.before,
                after=change.after,
            )
            for change in trial.changes
        ],
    )


def number_of(query: Query) -> int:
    """The number of a question, the same for all its spellings."""
    return number(query.prompt, images_hash(query.images), image_index(query))


def shown(query: Query) -> str | None:
    """A thumbnail of a question's image, as a data URL."""
    if not query.asked:
        return None
    small = thumbnail(image_file(query.asked[0]))
    return f"data:image/jpeg;base64,{b64encode(small).decode()}"


@routes.post("/explain")
async def explain(body: Asking, service: Given) -> ExplanationBody:
    """Explain an answer: the edits that fired, those that nearly did, the unedited answer."""
    return await heavy(service, lambda: explained(service, body))


def explained(service: Service, body: Asking) -> ExplanationBody:
    """The reasons for an answer."""
    query = body.query(service)
    found = service.model.explain(query, max_new_tokens=service.check_tokens(ANSWER))
    return ExplanationBody(
        answer=found.answer,
        unedited=found.unedited,
        fired=[firing(service, each) for each in found.fired],
        near=[firing(service, each) for each in found.near],
    )


def firing(service: Service, found: Firing) -> FiringBody:
    """An edit that fired, or nearly did, as JSON."""
    edit = one(service, service.store.find(found.edit.id))
    scores = {name: value for name, value in asdict(found).items() if name != "edit"}
    return FiringBody(edit=edit, **scores)


BINARY = {
    "requestBody": {
        "required": True,
        "content": {FILE: {"schema": {"type": "string", "format": "binary"}}},
    }
}


@routes.post("/import", openapi_extra=BINARY)
async def take_in(
    request: Request, service: Given, who: Annotated[str, Parameter(max_length=NAME)] = ""
) -> Imported:
    """Add the edits of an exported file, and return how many were not there; ``who`` does it."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != FILE:
        raise Problem(415, f"send the exported file as {FILE}", code="unsupported_media_type")
    content = await request.body()
    return await service.heavy.run(lambda: Imported(imported=imported(service, content, who)))


def imported(service: Service, content: bytes, who: str) -> int:
    """Add the edits of a file."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "edits.safetensors"
        file.write_bytes(content)
        try:
            return service.model.import_edits(file, who=who)
        except BadInput:  # whose message names the temporary file
            raise BadInput(
                "that is no file of exported edits, or damaged: export the edits again"
            ) from None


@routes.get("/{id}")
def look_at(kept: Found, service: Given) -> EditWithHistory:
    """An edit, and what happened to it."""
    events = [
        EventBody(time=event.time, kind=event.kind, who=event.who, by=event.by or None)
        for event in story(service.store, kept)
    ]
    return EditWithHistory(**one(service, kept).model_dump(), history=events)


@routes.get(
    "/{id}/thumbnail",
    responses={200: {"content": {"image/jpeg": {}}}},
    response_class=Response,
)
def picture(kept: Found, service: Given) -> Response:
    """A small JPEG of an edit's image."""
    content = service.store.thumbnail(kept.number)
    if content is None:
        raise Problem(404, f"edit {kept.edit.id} has no image", code="no_thumbnail")
    return Response(content, media_type="image/jpeg")


@routes.get("/{id}/hits")
def hits(
    kept: Found, service: Given, limit: Annotated[int, Parameter(ge=1, le=1000)] = 100
) -> HitList:
    """How often an edit fired, and its newest firings."""
    newest = service.store.hits(kept.number, limit)
    data = [HitBody(time=hit.time, weight=hit.weight, request=hit.request) for hit in newest]
    return HitList(count=one(service, kept).hits, data=data)


@routes.get("/{id}/answers")
async def ask_again(kept: Found, service: Given) -> Answers:
    """The answers that the question of an edit gets now, without any edit and with all of them."""
    return await heavy(service, lambda: answers(service, kept))


def answers(service: Service, kept: Kept) -> Answers:
    """Ask the question of an edit again."""
    query = kept_query(service.store, kept)
    tokens = service.check_tokens(ANSWER)
    [unedited] = service.model.unedited(query, max_new_tokens=tokens)
    [answer] = service.model.generate(query, max_new_tokens=tokens)
    return Answers(unedited=unedited, answer=answer)


@routes.delete("/{id}")
async def take_back(
    kept: Found, service: Given, who: Annotated[str, Parameter(max_length=NAME)] = ""
) -> EditBody:
    """Take an edit back. It stays on record, with ``who`` did it."""

    def undo() -> EditBody:
        if service.store.find(kept.edit.id).forgotten_in is None:
            service.model.forget(kept.edit.id, who=who)
        return one(service, kept)

    return await service.heavy.run(undo)
