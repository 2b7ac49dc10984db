"""Write and use a store of edits in the shape of LLaVA-1.5-7B, and print what it costs.

    python recipes/store/size.py 100000 --store big.db    # 15 GB; also a postgresql:// URL
    python recipes/store/size.py 100000 --store big.db --read    # of a store that is there
    python recipes/store/size.py 1000000 --width 512 --store million.db    # 36 GB

An edit has LiveEdit's tensors beside a decoder of width 4096: two keys of 4 vectors of 1024 numbers
in half precision and an expert of rank 4, 147 kB. All numbers are random. ``FIRING`` edits fire on
every image, the others have no image and fire on none. The model has that width and two small
layers, so that a query's time is mostly the store's; the figures of the unedited model are printed,
too.

Reading happens in a process of its own. A SQLite file is dropped from the system's cache before it
is opened, so that opening and the first firing read the disk. The figures are in
docs/explanation/store.md.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image

sys.path.append(str(Path(__file__).parents[1] / "sizes"))

from full import llava
from transformers import AutoModelForImageTextToText

from liveedit.editable import EditableVLM
from liveedit.editors.liveedit.editor import LiveEdit, LiveEditConfig
from liveedit.models.vlm import VLM
from liveedit.store.browsing import page
from liveedit.store.database import Database, store_url
from liveedit.store.edit import Edit
from liveedit.store.rows import Rows
from liveedit.store.store import Maker, Store, now
from liveedit.store.tensors import Layout
from liveedit.types import Query

TOKENS = 4
"""Tokens of an answer."""
FIRING = 16
"""Edits that fire on every image, spread evenly over the store."""
AT_ENDS = 500
"""Edits at the beginning and at the end whose times are compared."""
TOGETHER = 500
"""Edits between them that are written in one change."""
QUERY = Query("1", image=Image.effect_noise((56, 56), 60).convert("RGB"))


def wide_model(width: int) -> LiveEdit:
    """LiveEdit on a random model of that width; every image is above the sentinel."""
    torch.manual_seed(0)
    config, processor = llava()
    config.text_config.vocab_size = 1000
    config.text_config.hidden_size = width
    config.text_config.num_hidden_layers = 2
    config.text_config.intermediate_size = 1024
    config.vision_config.num_hidden_layers = 2
    config.vision_config.image_size = 56
    processor.image_processor.size = {"shortest_edge": 56}
    processor.image_processor.crop_size = {"height": 56, "width": 56}
    model = AutoModelForImageTextToText.from_config(config)
    model.generation_config.eos_token_id = None
    return LiveEdit(VLM(model, processor, "raw"), LiveEditConfig(margin=-1e9))


def maker(editor: LiveEdit) -> Maker:
    """The maker of the edits."""
    patch = editor.empty()
    layout = Layout.of(patch.bank.tensors(), patch.factors)
    opens_with = {"prompt_format": editor.vlm.prompt_format}
    return Maker(editor.name, editor.fingerprint, editor.vlm.fingerprint, opens_with, layout)


def tensors(layout: Layout, fires: bool) -> dict[str, bytes]:
    """Random keys and factors of an edit."""
    rows = {column.name: torch.randn(1, *column.shape) for column in layout.columns}
    for name in ("expert_in", "expert_out"):
        rows[name] /= 100
    if not fires:
        rows["vision_keys"].fill_(torch.nan)
    return {
        "keys": layout.part(False).pack(rows, 0),
        "factors": layout.part(True).pack(rows, 0),
    }


def new_edit(number: int, fires: bool) -> Edit:
    """An edit of a question of its own."""
    return Edit(
        id=f"{number:012x}",
        prompt=f"What is thing number {number} in this picture?",
        target=f"It is answer {number}.",
        image=f"{number:016x}" if fires else "",
        time=now(),
    )


def write(store: Store, made_by: Maker, count: int) -> list[float]:
    """Write edits, and return the seconds of those at both ends, one in a change as they are made.

    Those between are many in a change, which fills a large store sooner.
    """
    every = max(1, count // FIRING)
    seconds = []
    start = 0
    while start < count:
        alone = start < AT_ENDS or start >= count - AT_ENDS
        stop = start + 1 if alone else min(start + TOGETHER, count - AT_ENDS)
        content = [
            (edit, tensors(made_by.layout, bool(edit.image)))
            for edit in (new_edit(at, at % every == every // 2) for at in range(start, stop))
        ]
        begun = time.perf_counter()
        with store.change("edit") as change:
            number = change.maker(made_by).number
            for edit, parts in content:
                change.add(edit, number, **parts)  # type: ignore[arg-type]
        if alone:
            seconds.append(time.perf_counter() - begun)
        start = stop
    return seconds


def timed(action: Callable[[], object], repeats: int = 1) -> float:
    """The median seconds of an action."""

    def once() -> float:
        begun = time.perf_counter()
        action()
        return time.perf_counter() - begun

    return statistics.median(once() for _ in range(repeats))


def ask(model: VLM | EditableVLM) -> None:
    """Ask a question about an image."""
    model.generate([QUERY], max_new_tokens=TOKENS)


def say(what: str, seconds: float) -> None:
    """Print a time."""
    print(f"{what:40} {1000 * seconds:10,.1f} ms", flush=True)


def say_memory(when: str) -> None:
    """Print the resident memory, and the most there was."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    resident = pages * os.sysconf("SC_PAGE_SIZE") / 1e9
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(f"{'memory ' + when:40} {resident:10.2f} GB, at most {most:.2f} GB", flush=True)


def forget_pages(where: str) -> None:
    """Drop a SQLite file, which is not open yet, from the system's cache."""
    file = Database(store_url(where)).file
    if file is not None:
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read(where: str, count: int, width: int) -> None:
    """Open, list, search and query a store, and print the times."""
    editor = wide_model(width)
    vlm = editor.vlm
    vlm.check_answers()
    say("a query of the unedited model", timed(lambda: ask(vlm), 5))
    forget_pages(where)
    store = Store(where, create=False)
    say("the first page of the list", timed(lambda: page(store)))
    say("the same again", timed(lambda: page(store), 5))
    say("a search", timed(lambda: page(store, search=f"number {count - 2} in"), 5))
    say_memory("before opening")
    model = EditableVLM(vlm, editor, store)
    say("opening", timed(lambda: model.patch))
    say_memory("after opening")
    assert len(model.patch) >= count
    use(model)


def use(model: EditableVLM) -> None:
    """Query, edit and try, and print the times."""
    say(f"the first query: {FIRING} edits fire", timed(lambda: ask(model)))
    say("a query: they fire again", timed(lambda: ask(model), 5))
    say_memory("after queries")
    edits = [Query(f"{number}", "22", QUERY.image) for number in range(3)]
    for number, edit in enumerate(edits):
        say(f"edit {number + 1} by the model", timed(lambda edit=edit: model.edit(edit)))  # type: ignore[misc]
    tried = Query("9", "22", QUERY.image)
    say("trying an edit", timed(lambda: model.try_edit(tried, among=[])))
    assert model.store is not None
    with model.store.change("edit") as change:
        content = tensors(maker(model.editor).layout, fires=False)  # type: ignore[arg-type]
        number = change.maker(maker(model.editor)).number  # type: ignore[arg-type]
        change.add(new_edit(time.time_ns() % 10**12, fires=False), number, **content)  # type: ignore[arg-type]
    say("reading another process's edit", timed(lambda: model.patch))
    say("forgetting the newest edit", timed(lambda: model.forget(model.edits[-1].id)))
    say("forgetting the oldest edit", timed(lambda: model.forget(model.history[0].id)))
    say_memory("at the end")


def main(arguments: Sequence[str] | None = None) -> None:
    """Write a store, and read it in another process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("edits", type=int)
    parser.add_argument("--store", required=True, help="path or URL of the store")
    parser.add_argument("--width", type=int, default=4096, help="of the decoder")
    parser.add_argument("--read", action="store_true", help="the store is there already")
    given = parser.parse_args(arguments)
    if given.read:
        read(given.store, given.edits, given.width)
        return
    store = Store(given.store)
    editor = wide_model(given.width)
    seconds = write(store, maker(editor), given.edits)
    [made_by] = store.makers()
    numbers = [row.number for row in store.kept()]
    rows = Rows(store, editor.empty())
    say("sketching the keys of all", timed(lambda: rows.learn(made_by.number, numbers)))
    for name, some in (("first", seconds[:AT_ENDS]), ("last", seconds[-AT_ENDS:])):
        say(f"writing one of the {name} {len(some)} edits", statistics.median(some))
    store.close()
    again = sys.argv[1:] if arguments is None else list(arguments)
    subprocess.run([sys.executable, __file__, *again, "--read"], check=True)


if __name__ == "__main__":
    main()
