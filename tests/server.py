"""A web server on this machine that behaves as badly as a test wants."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Does for every path what the server's table says; HEAD is answered like GET, bare."""

    server: "Server"

    def do_GET(self) -> None:
        self.server.requests.append((self.command, self.path))
        self.server.headers.append(dict(self.headers))
        self.server.answers.get(self.path, status(404))(self)

    do_HEAD = do_GET

    def begin(self, num_bytes: int | None, *, code: int = 200, **headers: str) -> bool:
        """Send the head; say whether a body is wanted."""
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if num_bytes is not None:
            self.send_header("Content-Length", str(num_bytes))
        self.end_headers()
        return self.command == "GET"

    def log_message(self, *_) -> None:
        pass


class Server(ThreadingHTTPServer):
    """Remembers its requests and forgets what its clients do to their connections."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, Answer] = {}
        self.requests: list[tuple[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.closing = threading.Event()

    @property
    def num_downloads(self) -> int:
        return sum(command == "GET" for command, _ in self.requests)

    def publish(self, path: str, answer: Answer) -> str:
        """Return the address under which this is answered from now on."""
        self.answers[path] = answer
        return f"http://127.0.0.1:{self.server_port}{path}"

    def handle_error(self, *_) -> None:
        pass


@contextlib.contextmanager
def run_server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.closing.set()
            server.shutdown()
            thread.join()


def whole(content: bytes) -> Answer:
    def answer(handler: Handler) -> None:
        if handler.begin(len(content)):
            handler.wfile.write(content)

    return answer


def unannounced(content: bytes) -> Answer:
    """Give it without saying how long it is."""

    def answer(handler: Handler) -> None:
        if handler.begin(None):
            handler.wfile.write(content)

    return answer


def cut(content: bytes) -> Answer:
    """Promise all of it and hang up half-way."""

    def answer(handler: Handler) -> None:
        if handler.begin(len(content)):
            handler.wfile.write(content[: len(content) // 2])

    return answer


def stall(content: bytes) -> Answer:
    """Give half of it and then nothing, without hanging up."""

    def answer(handler: Handler) -> None:
        if handler.begin(len(content)):
            handler.wfile.write(content[: len(content) // 2])
            handler.wfile.flush()
            handler.server.closing.wait(60)

    return answer


def slow(content: bytes, *, seconds: float, started: Callable[[], None] = lambda: None) -> Answer:
    """Give half of it, wait, and give the rest."""

    def answer(handler: Handler) -> None:
        if handler.begin(len(content)):
            handler.wfile.write(content[: len(content) // 2])
            handler.wfile.flush()
            started()
            handler.server.closing.wait(seconds)
            handler.wfile.write(content[len(content) // 2 :])

    return answer


def mute(handler: Handler) -> None:
    """Take the request and say nothing at all."""
    handler.server.closing.wait(60)


def endless(handler: Handler) -> None:
    """Never stop."""
    if handler.begin(None):
        while not handler.server.closing.is_set():
            handler.wfile.write(bytes(65536))


def status(code: int) -> Answer:
    return lambda handler: handler.begin(0, code=code) and None


def moved(url: str) -> Answer:
    def answer(handler: Handler) -> None:
        handler.send_response(302)
        handler.send_header("Location", url)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def resumable(content: bytes) -> Answer:
    """Give it, or what is asked for of it by "Range: bytes=N-"."""

    def answer(handler: Handler) -> None:
        wanted = handler.headers.get("Range", "")
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        if start >= len(content):
            handler.begin(0, code=416)
            return
        extent = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        if handler.begin(
            len(content) - start, code=206 if wanted else 200, **(extent if wanted else {})
        ):
            handler.wfile.write(content[start:])

    return answer
