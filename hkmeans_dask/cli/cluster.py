"""Where a command computes: threads of this process, or workers.

Imports dask only when asked to compute, for the sake of ``--help``.
"""

from __future__ import annotations

import logging
import signal
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from hkmeans_dask.runtime.progress import said_if_slow

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cluster:
    """Where a command computes: threads of this process, or workers."""

    workers: int | None
    """Processes to start on this machine."""

    memory_limit: str | None
    """Of each of these processes."""

    address: str | None
    """Of a scheduler that runs already."""

    tls: tuple[Path | None, Path | None, Path | None] = (None, None, None)
    """Files of the certificate of who signed, of that of this client, and of its key;
    without them those of dask's configuration."""

    def check(self, urls: Sequence[str]) -> None:
        """Refuse options that do not go together, and stores that workers miss."""
        from dask.utils import parse_bytes

        from hkmeans_dask.storage.opening import is_private

        if self.workers and self.address:
            raise click.UsageError(
                "--workers starts workers, --scheduler and --scheduler-file use "
                "running ones. Give one of them."
            )
        if any(self.tls) and not (all(self.tls) and self.address):
            raise click.UsageError(
                "--tls-ca-file, --tls-cert and --tls-key go together, with --scheduler "
                "or --scheduler-file."
            )
        if self.memory_limit is not None and not self.workers:
            raise click.UsageError("--memory-limit is that of --workers. Give both.")
        try:
            parse_bytes(self.memory_limit or 0)
        except ValueError as error:
            raise click.UsageError(
                "--memory-limit should be a size such as 2GB. "
                f"{self.memory_limit!r} was given."
            ) from error
        private = [url for url in urls if is_private(url)]
        if private and (self.workers or self.address):
            raise click.UsageError(
                f"{private[0]} is in the memory of this process, where workers would "
                "read zeros. Use a path or URL that they share, or no workers."
            )

    @contextmanager
    def running(self) -> Iterator[None]:
        """Compute there inside; when it ends, no task of ours is still writing.

        Not so on a running cluster, whose workers finish the tasks they are at.
        """
        if self.address:
            from distributed import Client
            from distributed.comm.addressing import resolve_address

            # That the scheduler has gone is said where a command ends by it.
            logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
            resolve_address(self.address)  # fails first, without a Client left behind
            with said_if_slow("connecting to %s", self.address):
                client = Client(self.address, security=self._security())
            with client, _deaths_explained("more memory"):
                yield
        elif self.workers:
            with self._local():
                yield
        else:
            with threads():
                yield

    def _security(self) -> Any:
        from distributed import Security

        if not any(self.tls):
            return None
        signer, certificate, key = map(str, self.tls)
        return Security(
            tls_ca_file=signer,
            tls_client_cert=certificate,
            tls_client_key=key,
            require_encryption=True,
        )

    @contextmanager
    def _local(self) -> Iterator[None]:
        """Start one-thread worker processes, of this machine and this user only.

        They listen on loopback, and take no one without the certificate that is made
        for them: else any user of the machine could run code as this one.
        """
        logger.info("starting %d workers ...", self.workers)
        from distributed import Client, LocalCluster, Security

        with (
            LocalCluster(
                n_workers=self.workers,
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                security=Security.temporary(),
                dashboard_address=None,
                # Its HTTP server runs all the same, and warns if 8787 is taken.
                scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
                memory_limit=self.memory_limit or "auto",
                preload=["hkmeans_dask.cli.preload"],
                # What goes wrong in a worker arrives here as the exception.
                silence_logs=logging.CRITICAL,
            ) as cluster,
            Client(cluster) as client,
        ):
            client.register_worker_callbacks(_ignore_signals)
            with _deaths_explained("more memory (--memory-limit)"):
                yield


@contextmanager
def _deaths_explained(more: str) -> Iterator[None]:
    """Say what to do when workers died, or the scheduler; `more` is for memory."""
    from distributed import CancelledError, KilledWorker

    try:
        yield
    except KilledWorker as error:
        raise ValueError(
            f"Workers died: {error} Either of memory: give each {more}, or store the "
            "input in smaller chunks. Or they were ended from outside (preemption, "
            "walltime): run the command again, a fit with --work-dir goes on."
        ) from error
    except CancelledError as error:
        raise ConnectionError(
            f"The scheduler has gone: {error} Run the command again where one is; with "
            "--work-dir a fit goes on where it stopped."
        ) from error


def _ignore_signals() -> None:
    """Leave Ctrl-C to the process that has the workers; it reaches them too.

    So does the SIGTERM of a batch system. They end when that process closes them, or
    when it is gone.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


@contextmanager
def threads() -> Iterator[None]:
    """Compute in threads of this process that end with the block, also on errors."""
    from concurrent.futures import ThreadPoolExecutor

    import dask
    from dask.system import CPU_COUNT

    with (
        ThreadPoolExecutor(dask.config.get("num_workers", None) or CPU_COUNT) as pool,
        dask.config.set(pool=pool),
    ):
        yield
