"""An S3 server on loopback whose answers tests may spoil, and whose requests they see.

It listens in threads of this process; workers and commands find it by the environment.
``python -m tests.s3 HOST LOG`` is one of its own, whose requests are lines of a file.
"""

import gc
import re
import socket
import sys
import threading
import time
import uuid
from contextlib import contextmanager

import pytest

s3fs = pytest.importorskip("s3fs")
moto = pytest.importorskip("moto.server")
serving = pytest.importorskip("werkzeug.serving")

SESSIONS_LEFT_OPEN = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:botocore.*"),
]
"""What fsspec's file systems do not close."""

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_MAX_ATTEMPTS": "1",  # what clients try again by themselves is not tested
}
"""What a client needs beside the address."""

ERROR = "<?xml version='1.0'?><Error><Code>{0}</Code><Message>{0}</Message></Error>"


class _Quiet(serving.WSGIRequestHandler):
    def log(self, *_):
        """Say nothing of requests."""


class Server:
    """The server: buckets, and what is to happen to requests."""

    def __init__(self):
        self._app = moto.DomainDispatcherApplication(moto.create_backend_app)
        self._lock = threading.Lock()
        self.requests = []
        """Method and path of each, as they came."""
        self._trouble = []
        self._servers = []
        self.url = self.listen("127.0.0.1")

    def listen(self, address):
        """Answer at an address of the network that this thread is in; give the URL."""
        server = serving.make_server(
            address, 0, self._answer, threaded=True, request_handler=_Quiet
        )
        self._servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://{address}:{server.port}"

    def spoil(self, kind, matches, times=1):
        """Spoil requests of which `matches(method, path)` is true, so many times."""
        with self._lock:
            self._trouble.append([kind, matches, times])

    def spoiled(self):
        """Whether all that was to be spoiled has been."""
        return not any(times for _, _, times in self._trouble)

    def heal(self):
        """Answer as a server does."""
        with self._lock:
            self._trouble.clear()

    def _answer(self, environment, start):
        request = environment["REQUEST_METHOD"], environment["PATH_INFO"]
        with self._lock:
            self._note(*request)
            kind = self._kind_of_trouble(*request)
        if kind is None:
            # Who sends no signature is let in all the same: plain http.
            environment.setdefault("HTTP_AUTHORIZATION", "AWS test:test")
            return self._app(environment, start)
        return TROUBLE[kind](environment, start)

    def _note(self, *request):
        self.requests.append(request)

    def _kind_of_trouble(self, method, path):
        for trouble in self._trouble:
            kind, matches, times = trouble
            if times and matches(method, path):
                trouble[2] = times - 1
                return kind
        return None

    def bucket(self):
        """Make a bucket, and give its name."""
        name = f"bucket-{uuid.uuid4().hex[:12]}"
        self.files().mkdir(name)
        return name

    def files(self):
        """Give a file system that remembers nothing."""
        return s3fs.S3FileSystem(
            endpoint_url=self.url, skip_instance_cache=True, use_listings_cache=False
        )

    def close(self):
        """Answer no more."""
        for server in self._servers:
            server.shutdown()
            server.server_close()


def _fails(status, code):
    def answer(environment, start):
        environment["wsgi.input"].read(int(environment.get("CONTENT_LENGTH") or 0))
        start(status, [("Content-Type", "application/xml")])
        return [ERROR.format(code).encode()]

    return answer


def _resets(environment, start):
    connection = environment["werkzeug.socket"]
    connection.shutdown(socket.SHUT_RDWR)
    start("200 OK", [])
    return []


def _cut_off(environment, start):
    start("200 OK", [("Content-Length", "1000000")])
    return [b"half"]


TROUBLE = {
    "error": _fails("500 Internal Server Error", "InternalError"),
    "busy": _fails("503 Slow Down", "SlowDown"),
    "throttled": _fails("429 Too Many Requests", "TooManyRequests"),
    "denied": _fails("403 Forbidden", "AccessDenied"),
    "reset": _resets,
    "cut off": _cut_off,
}


@contextmanager
def running():
    """Give a server, which is in the environment of this process, too."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        server = Server()
        patch.setenv("AWS_ENDPOINT_URL", server.url)
        try:
            yield server
        finally:
            server.close()
            s3fs.S3FileSystem.clear_instance_cache()
            gc.collect()  # sessions that complain when they go, while that is heard


class _Logging(Server):
    """A server that writes when each request came, its method and its path.

    Ranges are read from the files that hold objects: moto reads all of one, each time.
    """

    def __init__(self, host, log):
        self._log = log
        super().__init__()
        print(self.listen(host), file=log)

    def _note(self, method, path):
        print(time.time(), method, path, file=self._log)

    def _answer(self, environment, start):
        method, path = environment["REQUEST_METHOD"], environment["PATH_INFO"]
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", environment.get("HTTP_RANGE", ""))
        found = _object(*path[1:].split("/", 1)) if span and method == "GET" else None
        if found is None or int(span[1]) >= found.size:
            return super()._answer(environment, start)
        self._note(method, path)
        first, last = int(span[1]), min(int(span[2] or found.size), found.size - 1)
        with found.lock:
            found._value_buffer.seek(first)
            content = found._value_buffer.read(last + 1 - first)
        told = {
            "Content-Length": str(len(content)),
            "Content-Range": f"bytes {first}-{last}/{found.size}",
            "ETag": found.etag,
        }
        start("206 Partial Content", list(told.items()))
        return [content]


def _object(bucket, key):
    """Find what moto holds, if it is there."""
    from moto.s3.models import s3_backends

    (backend,) = s3_backends["123456789012"].values()
    return backend.get_object(bucket, key) if bucket in backend.buckets else None


if __name__ == "__main__":
    with open(sys.argv[2], "w", buffering=1) as log:
        server = _Logging(sys.argv[1], log)
        threading.Event().wait()
