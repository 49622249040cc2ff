"""A bucket on this machine whose server fails now and then: ``python tests/bucket.py RATE SEED``, a process of its own."""

import logging
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NAME = "maps"


@contextmanager
def bucket(rate: float = 0.0, seed: int = 0) -> Iterator[dict[str, str]]:
    """Serve S3, a share of whose requests ends with 500, and yield the environment in which fsspec finds it."""
    command = [sys.executable, str(Path(__file__).resolve()), str(rate), str(seed)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().decode().strip()
        assert address, "the bucket did not start"
        yield {
            "FSSPEC_S3_ENDPOINT_URL": address,
            "AWS_ACCESS_KEY_ID": "anyone",
            "AWS_SECRET_ACCESS_KEY": "anything",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
    finally:
        process.kill()
        process.wait()


def main() -> None:
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # no line for each request, but what goes wrong in moto itself
    rate, dice, lock = float(sys.argv[1]), random.Random(int(sys.argv[2])), threading.Lock()
    moto = DomainDispatcherApplication(create_backend_app)
    failed: dict[str, int] = {}

    def application(environ, start_response):
        path = environ["PATH_INFO"]
        # not many times on end, so that whoever tries again gets through, also where others ask for the same: botocore numbers calls
        call = environ.get("HTTP_AMZ_SDK_INVOCATION_ID", path)
        with lock:
            bad = path.count("/") > 1 and failed.get(call, 0) < 2 and dice.random() < rate
            failed[call] = failed.get(call, 0) + 1 if bad else 0
        if bad:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start_response("500 Internal Server Error", [("Content-Length", "0")])
            return [b""]
        return moto(environ, start_response)

    server = make_server("127.0.0.1", 0, application, threaded=True)
    print(f"http://127.0.0.1:{server.port}", flush=True)
    server.serve_forever()


def make(environment: dict[str, str]) -> None:
    """Make the bucket."""
    import boto3

    keys = {name.lower(): environment[name.upper()] for name in ("aws_access_key_id", "aws_secret_access_key")}
    client = boto3.client("s3", endpoint_url=environment["FSSPEC_S3_ENDPOINT_URL"], region_name="us-east-1", **keys)
    client.create_bucket(Bucket=NAME)


if __name__ == "__main__":
    assert os.environ.get("AWS_PROFILE") is None
    main()
