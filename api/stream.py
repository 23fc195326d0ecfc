"""Events to many listeners: one poller per watched run, each batch encoded once, bounded queues.

A listener first reads what it missed from the store, then follows its run's feed. Both speak in event numbers, so an
event that comes both ways is sent once. A listener that falls behind is let go; it comes back with Last-Event-ID and
catches up from the store. The poller of a run without listeners stops.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from anyio import to_thread

from evomerge.errors import StoreError
from evomerge.storage.store import TERMINAL, Event, Store

log = logging.getLogger(__name__)

PAGE = 500
"""Events read at once, from the store and into one batch."""
QUEUE = 64
"""Batches that a listener may lag behind before it is let go."""
RETRY_MS = 2000
"""How long a browser waits before it reconnects."""
_BACKOFF_S = 1.0


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive events, encoded. `last` is the number of the newest."""

    seqs: tuple[int, ...]
    chunks: tuple[bytes, ...]
    joined: bytes

    @property
    def last(self) -> int:
        return self.seqs[-1]

    def after(self, seq: int) -> bytes:
        """The bytes of the events later than `seq`."""
        if seq < self.seqs[0]:
            return self.joined
        return b"".join(chunk for number, chunk in zip(self.seqs, self.chunks, strict=True) if number > seq)


def encode(event: Event) -> bytes:
    """One event in the server-sent events format: its number as id, its type, its data as one line of JSON."""
    data = json.dumps(_payload(event), separators=(",", ":"), ensure_ascii=False)
    return f"id: {event.seq}\nevent: {event.type}\ndata: {data}\n\n".encode()


def batch(events: Sequence[Event]) -> Batch:
    """Events encoded once for all listeners."""
    chunks = tuple(encode(event) for event in events)
    return Batch(tuple(event.seq for event in events), chunks, b"".join(chunks))


def _payload(event: Event) -> dict[str, object]:
    """The event's data with its time, when the two do not clash."""
    at = {} if event.at is None else {"at": event.at.isoformat()}
    return {**at, **event.data}


@dataclass(slots=True, eq=False)
class _Listener:
    """`None` in the queue: nothing more will come."""

    queue: asyncio.Queue[Batch | None] = field(default_factory=lambda: asyncio.Queue(QUEUE))
    lost: bool = False


class Feed:
    """The poller of one run. Ends when the last listener leaves, or when the run is over and all is sent."""

    def __init__(self, store: Store, run_id: str, poll_s: float) -> None:
        self._store, self._run_id, self._poll_s = store, run_id, poll_s
        self._listeners: set[_Listener] = set()
        self._task: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()

    async def join(self) -> _Listener:
        """A new listener of everything after the feed's position, which is settled when this returns."""
        listener = _Listener()
        self._listeners.add(listener)
        async with self._starting:
            if self._task is None or self._task.done():
                row = await to_thread.run_sync(self._store.run, self._run_id)
                position, over = (row.last_seq, row.state in TERMINAL) if row else (0, True)
                self._task = asyncio.create_task(self._poll(position, over))
        return listener

    def leave(self, listener: _Listener) -> None:
        """Forget a listener; the last one stops the poller."""
        self._listeners.discard(listener)
        if not self._listeners and self._task is not None:
            self._task.cancel()
            self._task = None

    @property
    def listeners(self) -> int:
        """How many listen now."""
        return len(self._listeners)

    async def _poll(self, position: int, over: bool) -> None:
        while self._listeners:
            try:
                events = await to_thread.run_sync(self._store.events, self._run_id, position, PAGE)
            except StoreError as error:
                log.warning("events unavailable run=%s error=%s", self._run_id, error)
                await asyncio.sleep(_BACKOFF_S)
                continue
            if events:
                position = events[-1].seq
                over = over or any(e.type == "run.state" and e.data.get("state") in TERMINAL for e in events)
                self._publish(batch(events))
            elif over:
                break
            else:
                await asyncio.sleep(self._poll_s)
        self._publish(None)

    def _publish(self, item: Batch | None) -> None:
        for listener in self._listeners:
            try:
                listener.queue.put_nowait(item)
            except asyncio.QueueFull:
                listener.lost = True


class Feeds:
    """The feeds of all runs that somebody watches."""

    def __init__(self, store: Store, poll_s: float) -> None:
        self._store, self._poll_s = store, poll_s
        self._feeds: dict[str, Feed] = {}

    @property
    def listeners(self) -> int:
        """How many streams are open."""
        return sum(feed.listeners for feed in self._feeds.values())

    async def stream(self, run_id: str, after: int) -> AsyncIterator[bytes]:
        """Every event of the run later than `after`, once and in order, until the run is over."""
        feed = self._feeds.setdefault(run_id, Feed(self._store, run_id, self._poll_s))
        listener = await feed.join()
        try:
            yield f"retry: {RETRY_MS}\n\n".encode()
            # Whatever lies before the feed's position comes from the store; the overlap is dropped.
            while events := await to_thread.run_sync(self._store.events, run_id, after, PAGE):
                after = events[-1].seq
                yield batch(events).joined
            while not listener.lost:
                item = await listener.queue.get()
                if item is None:
                    return
                if item.last > after:
                    data, after = item.after(after), item.last
                    yield data
        finally:
            feed.leave(listener)
            if not feed.listeners:
                self._feeds.pop(run_id, None)
