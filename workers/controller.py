"""Takes runs from the store, one after the other, under a lease, and drives each until it ends, pauses or must stop."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from evomerge.errors import EvomergeError, LeaseLostError, StoreError
from evomerge.runtime import one_blas_thread, only_new_garbage
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
        try:
            with self._renewing(lease):
                self._drive(lease, stop)
            self.store.release(lease)
        except StoreError as error:
            log.warning("run %s left as it is: %s", lease.run, error)

    def _drive(self, lease: Lease, stop: threading.Event) -> None:
        row = self._row(lease)
        log.info("run %s taken up in state %s, epoch %d", row.id, row.state, lease.epoch)
        try:
            drive = Drive(self.store, self.registry, self.pools, self.settings, lease, row, stop)
            with only_new_garbage(), one_blas_thread():
                drive.loop()
        except StoreError:
            raise
        except EvomergeError as error:
            self._set_aside(lease, str(error))
        except Exception as error:  # our own bug: the other runs must not wait for its mend
            log.exception("run %s", lease.run)
            self._set_aside(lease, f"unexpected {type(error).__name__}: {error}")

    def _set_aside(self, lease: Lease, reason: str) -> None:
        """A run that never began has failed; one that began waits, with the reason, for the mend and `resume`."""
        state: RunState = "failed" if self._row(lease).last_seq == 0 else "paused"
        log.error("run %s %s: %s", lease.run, state, reason)
        ended = Event("run.state", {"state": state, "reason": reason})
        self.store.commit(lease, Commit(events=(ended,), state=state, reason=reason))

    def _row(self, lease: Lease) -> RunRow:
        row = self.store.run(lease.run)
        assert row is not None, "a lease names a run that exists"
        return row

    @contextmanager
    def _renewing(self, lease: Lease) -> Iterator[None]:
        """Hold the lease meanwhile, from a thread of its own: hashing models and starting workers take minutes.

        When another controller has it, the next commit says so.
        """
        ended = threading.Event()

        def renew() -> None:
            while not ended.wait(self.settings.lease_s / 3):
                try:
                    self.store.renew(lease, self.settings.lease_s)
                except LeaseLostError:
                    return
                except StoreError as error:
                    log.warning("lease of run %s not renewed: %s", lease.run, error)

        thread = threading.Thread(target=renew, name="lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
