"""Takes runs from the store, one after the other, under a lease, and drives each until it ends, pauses or must stop."""

from __future__ import annotations

import logging
import os
import socket
import threading

from evomerge.errors import EvomergeError, StoreError
from evomerge.storage.store import Commit, Event, Lease, RunRow, RunState, Store
from workers.drive import ControllerSettings, Drive, PoolFactory
from workers.registry import Registry

log = logging.getLogger(__name__)


class Controller:
    """Serves runs until it is told to stop."""

    def __init__(self, store: Store, registry: Registry, pools: PoolFactory, settings: ControllerSettings) -> None:
        self.store, self.registry, self.pools, self.settings = store, registry, pools, settings
        self.owner = f"{socket.gethostname()}:{os.getpid()}"

    def serve(self, stop: threading.Event) -> None:
        """Take one run after the other; returns soon after `stop` is set, leaving the run at hand resumable."""
        while not stop.is_set():
            try:
                lease = self.store.acquire(self.owner, self.settings.lease_s)
            except StoreError as error:
                log.warning("store away, trying again: %s", error)
                lease = None
            if lease is None:
                stop.wait(self.settings.poll_s)
            else:
                self.drive(lease, stop)

    def drive(self, lease: Lease, stop: threading.Event) -> None:
        """Carry one run on until it ends, pauses, or `stop` is set."""
        row = self.store.run(lease.run)
        assert row is not None, "a lease names a run that exists"
        log.info("run %s taken up in state %s, epoch %d", row.id, row.state, lease.epoch)
        try:
            try:
                Drive(self.store, self.registry, self.pools, self.settings, lease, row, stop).loop()
            except StoreError:
                raise
            except EvomergeError as error:
                self._set_aside(lease, row, str(error))
            self.store.release(lease)
        except StoreError as error:
            log.warning("run %s left as it is: %s", lease.run, error)

    def _set_aside(self, lease: Lease, row: RunRow, reason: str) -> None:
        """A run that never began has failed; one that began waits, with the reason, for the mend and `resume`."""
        state: RunState = "failed" if row.last_seq == 0 else "paused"
        log.error("run %s %s: %s", lease.run, state, reason)
        ended = Event("run.state", {"state": state, "reason": reason})
        self.store.commit(lease, Commit(events=(ended,), state=state, reason=reason))
