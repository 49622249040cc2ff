"""Servers that send what they please: byte by byte, without end, packed, or more than was asked for."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Answer = Callable[[str, Callable[[bytes], None]], None]


@contextmanager
def stranger(answer: Answer, host: str = "127.0.0.1") -> Iterator[str]:
    """Serve in threads; ``answer`` takes the head of a request, and a function that sends bytes. Each answer ends its connection."""
    server = socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)

    def one(client: socket.socket) -> None:
        try:
            with client:
                head = b""
                while b"\r\n\r\n" not in head:
                    part = client.recv(1 << 16)
                    if not part:
                        return
                    head += part
                answer(head.decode("latin-1"), client.sendall)
        except OSError:
            pass

    def accept() -> None:
        while True:
            try:
                client = server.accept()[0]
            except OSError:
                return
            threading.Thread(target=one, args=(client,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://{f'[{host}]' if ':' in host else host}:{server.getsockname()[1]}"
    finally:
        server.close()


def dripped(send: Callable[[bytes], None], begin: bytes, drop: bytes = b" ", pause: float = 0.1) -> None:
    """Send a beginning at once, and then the same few bytes for a minute."""
    send(begin)
    for _ in range(int(60 / pause)):
        send(drop)
        time.sleep(pause)


def whole(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    """An honest answer."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body
