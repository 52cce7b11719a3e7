"""Where a command computes: threads of this process, or workers.

Imports dask only when asked to compute, for the sake of ``--help``.
"""

from __future__ import annotations

import logging
import signal
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click

from hkmeans_dask.cli.alone import import_estimator
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

    started: Future[Any] | None = None
    """The workers, while they start."""

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
    def starting(self) -> Iterator[Cluster]:
        """Start workers while this process imports what it needs; give what is to run.

        What can be refused before should be: workers take seconds to start and end.
        """
        if not self.workers:
            import_estimator()
            yield self
            return
        logger.info("starting %d workers ...", self.workers)
        import distributed  # noqa: F401  (not by two threads at once)

        with ThreadPoolExecutor(1) as pool:
            started = pool.submit(self._local)
            try:
                import_estimator()
                yield replace(self, started=started)
            finally:
                with suppress(Exception):  # it is told where the workers are wanted
                    started.result().close()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Compute there inside; when it ends, no task of ours is still writing.

        Not so on a running cluster, whose workers finish the tasks they are at.
        """
        if self.address:
            # That the scheduler has gone is said where a command ends by it.
            logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
            with said_if_slow("connecting to %s", self.address):
                client = self._connected()
            with client, _deaths_explained("more memory"):
                yield
        elif self.started:
            with self._at_work(self.started):
                yield
        elif self.workers:
            with self.starting() as cluster, cluster.running():
                yield
        else:
            with threads():
                yield

    def _connected(self) -> Any:
        """Connect to the running cluster.

        Raises
        ------
        ConnectionError
            If none answers, or not to this client.
        """
        from distributed import Client
        from distributed.comm.addressing import resolve_address

        assert self.address
        resolve_address(self.address)  # fails first, without a Client left behind
        security = self._security()
        try:
            return Client(self.address, security=security)
        except (OSError, RuntimeError) as error:
            raise ConnectionError(
                f"No cluster lets this client in at {self.address}: {error} Look "
                "whether its scheduler is there, and whether it wants TLS: a tls:// "
                "address, --tls-ca-file, --tls-cert and --tls-key."
            ) from error

    def _security(self) -> Any:
        """Give the files that were named, else those of dask's configuration."""
        from distributed import Security

        known: dict[str, Any] = {}
        if any(self.tls):
            names = ("tls_ca_file", "tls_client_cert", "tls_client_key")
            known = dict(zip(names, map(str, self.tls), strict=True))
            known["require_encryption"] = True
        security = Security(**known)
        context = security.get_connection_args("client")["ssl_context"]
        if str(self.address).startswith("tls:") and context is None:
            raise click.UsageError(
                f"{self.address} wants TLS. Give --tls-ca-file, --tls-cert and "
                "--tls-key, or set distributed.comm.tls in dask's configuration."
            )
        return security

    def _local(self) -> Any:
        """Start one-thread worker processes, of this machine and this user only.

        They listen on loopback, and take no one without the certificate that is made
        for them: else any user of the machine could run code as this one.
        """
        from distributed import LocalCluster, Security

        return LocalCluster(
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
        )

    @contextmanager
    def _at_work(self, started: Future[Any]) -> Iterator[None]:
        """Compute on workers that have been started, which end."""
        from distributed import Client

        with started.result() as cluster, Client(cluster) as client:
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
