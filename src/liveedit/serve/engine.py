"""Engine: answers the waiting requests, together, with the edits of a store.

Requests that wait begin as one batch, beside those that run already. The batches take turns after
each token, so that a short answer need not wait for a long one. Each batch is a ``generate`` of its
own in a thread of its own, which works with the caches of all families.

A batch takes the edits as they are when it begins, so that an edit acts on the next request; it is
made in another thread meanwhile. Questions to the unedited model form batches of their own.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from threading import Condition, Thread

from PIL.Image import Image

from liveedit.editable import EditableVLM
from liveedit.models.batch import Batch
from liveedit.serve.generation import Asked, Ended, encoded, generate
from liveedit.serve.hits import Hits
from liveedit.serve.metrics import Metrics
from liveedit.serve.problems import Problem
from liveedit.serve.settings import Limits
from liveedit.serve.turns import Turns
from liveedit.store.durable import State
from liveedit.store.store import Hit, Kept, now
from liveedit.types import Query

__all__ = ["Engine", "Job", "Reply"]

BATCHES = 4
"""Batches that take turns at most. Each has a cache of its own; all requests get equal time."""
YOUNG = 8
"""Tokens until the next batch may begin, so that requests which come meanwhile begin together."""
REMEMBERED = 64_000_000
"""Pixels of the recent questions that are remembered, at most."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer's end, the edits that fired with their weights, and the state of the edits."""

    ended: Ended
    fired: tuple[tuple[Kept, float], ...]
    fingerprint: str


class Job:
    """A request: its question, and its answer as it grows."""

    def __init__(self, asked: Asked, id: str) -> None:
        self.asked = asked
        self.id = id
        self.cancelled = False
        self.reply: Reply | None = None
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[str | Reply | Exception] = asyncio.Queue()

    def put(self, event: str | Reply | Exception) -> None:
        """Hand on a part of the answer, its end or an error, from the engine's thread."""
        with suppress(RuntimeError):  # the loop has ended, and nobody waits
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    def cancel(self) -> None:
        """Nobody waits for the answer."""
        self.cancelled = True

    async def parts(self) -> AsyncIterator[str]:
        """The parts of the answer; :attr:`reply` is there afterwards. Raises its error."""
        try:
            while True:
                event = await self._events.get()
                if isinstance(event, Exception):
                    raise event
                if isinstance(event, Reply):
                    self.reply = event
                    return
                yield event
        finally:
            self.cancel()


class Running:
    """A batch that is being answered.

    Arguments:
        jobs: Its requests.
    """

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.jobs = jobs
        self.left = len(jobs)
        """Requests whose answer has not ended."""
        self.tokens = 0
        """Tokens of each answer so far."""


class Engine:
    """Answers requests with a model whose edits a store keeps."""

    def __init__(self, model: EditableVLM, limits: Limits, metrics: Metrics, hits: Hits) -> None:
        self.model = model
        self.limits = limits
        self.metrics = metrics
        self.hits = hits
        self._waiting: deque[Job] = deque()
        self._running: list[Running] = []
        self._turns = Turns()
        self._changed = Condition()
        self._closed = False
        self._recent: deque[Query] = deque(maxlen=limits.questions)
        self._threads = [
            Thread(target=self._run, args=(number,), name=f"engine-{number}", daemon=True)
            for number in range(BATCHES)
        ]
        for thread in self._threads:
            thread.start()

    def ask(self, asked: Sequence[Asked], id: str) -> list[Job]:
        """Queue the questions of a request. Raises :class:`Problem` where too many wait."""
        jobs = [Job(each, id) for each in asked]
        with self._changed:
            if self._closed or len(self._waiting) + len(jobs) > self.limits.queue:
                raise Problem(
                    503,
                    "too many requests wait: try again later",
                    code="overloaded",
                    headers={"Retry-After": "1"},
                )
            self._waiting += jobs
            self._changed.notify_all()
        return jobs

    @property
    def queued(self) -> int:
        """How many questions wait."""
        return len(self._waiting)

    @property
    def recent(self) -> list[Query]:
        """The questions answered last by the edited model, the newest first."""
        with self._changed:
            return list(reversed(self._recent))

    def await_idle(self, timeout: float) -> None:
        """Wait until no question waits or is being answered, at most ``timeout`` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: not (self._waiting or self._running), timeout)

    def close(self) -> None:
        """Answer what waits, then stop."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _run(self, thread: int) -> None:
        """Answer batch after batch, as one of several threads, until the engine is closed."""
        while running := self._begun(thread):
            try:
                with self._turns.taken():
                    self._answer(running, running.jobs)
            finally:
                with self._changed:
                    self._running.remove(running)
                    self._changed.notify_all()

    def _begun(self, thread: int) -> Running | None:
        """A batch of the jobs to answer next, the oldest first; ``None`` once all is closed."""
        with self._changed:
            self._changed.wait_for(partial(self._ready, thread))
            if not self._waiting:
                return None
            edited = self._waiting[0].asked.edited
            alike = [job for job in self._waiting if job.asked.edited == edited][: self._room]
            for job in alike:
                self._waiting.remove(job)
            self._running.append(Running(alike))
            return self._running[-1]

    def _ready(self, thread: int) -> bool:
        """Whether a thread may begin a batch, or none will follow.

        The first threads come first: each keeps memory of the largest batch that it has had.
        """
        self._waiting = deque(job for job in self._waiting if not job.cancelled)
        if not self._waiting:
            return self._closed
        young = any(running.tokens < YOUNG for running in self._running)
        return self._room > 0 and not young and thread <= len(self._running)

    @property
    def _room(self) -> int:
        """How many more requests may be answered at once."""
        return self.limits.batch - sum(running.left for running in self._running)

    def _answer(self, running: Running, jobs: Sequence[Job]) -> None:
        """Answer jobs together; where one of them cannot be encoded, each by itself."""
        try:
            state = self.model.kept
            assert state is not None
            patch = state.pool.patch if jobs[0].asked.edited else None
            asked = [job.asked for job in jobs]
            with encoded(self.model.vlm, patch, asked, self.limits.prompt) as batch:
                self._generate(running, state, jobs, batch)
        except Exception as error:  # whatever it is, it is this request's
            if len(jobs) == 1:
                jobs[0].put(error)
                return
            for job in jobs:
                self._answer(running, [job])

    def _generate(self, running: Running, state: State, jobs: Sequence[Job], batch: Batch) -> None:
        """Answer an encoded batch."""
        patch = state.pool.patch if jobs[0].asked.edited else None
        self.metrics.batch.observe(len(jobs))
        try:
            generate(
                self.model.vlm,
                patch,
                batch,
                jobs,
                lambda number, ended: self._end(running, state, jobs[number], ended),
                partial(self._step, running),
            )
        except Exception as error:  # parts may be sent already, so none is asked again
            for job in jobs:
                job.put(error)

    def _step(self, running: Running) -> None:
        """After a token: let the other batches make theirs."""
        running.tokens += 1
        if running.tokens == YOUNG:
            with self._changed:
                self._changed.notify_all()
        self._turns.pass_on(running.left)

    def _end(self, running: Running, state: State, job: Job, ended: Ended) -> None:
        """Hand on the end of an answer, and count it."""
        with self._changed:
            running.left -= 1
            self._changed.notify_all()
        fired = tuple((state.row(int(state.held[at])), weight) for at, weight in ended.fired)
        fingerprint = f"edits-{state.version}" if job.asked.edited else "base"
        job.put(Reply(ended, fired, fingerprint))
        self.metrics.tokens.labels("prompt").inc(ended.prompt_tokens)
        self.metrics.tokens.labels("answer").inc(ended.tokens)
        self.metrics.firings.inc(len(fired))
        time = now()
        self.hits.add(Hit(row.number, weight, time, job.id) for row, weight in fired)
        if job.asked.edited:
            self._remember(job.asked.query)

    def _remember(self, query: Query) -> None:
        """Remember a question, as long as those remembered have not too many pixels."""
        with self._changed:
            self._recent.append(query)
            while len(self._recent) > 1 and sum(map(_pixels, self._recent)) > REMEMBERED:
                self._recent.popleft()


def _pixels(query: Query) -> int:
    """The pixels of a query's images, which are opened."""
    sizes = [image.size for image in query.images if isinstance(image, Image)]
    return sum(width * height for width, height in sizes)
