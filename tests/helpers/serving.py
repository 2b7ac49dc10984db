"""Servers on loopback, in this process or one of their own, and images as clients send them."""

import base64
import io
import os
import socket
import subprocess
import sys
from contextlib import contextmanager
from threading import Thread
from time import monotonic, sleep

import httpx

from liveedit.editable import EditableVLM, embedded
from liveedit.editors import load_editor
from liveedit.serve.app import application
from liveedit.serve.server import Server, configured

FLAG = "Which country's flag is this?"


@contextmanager
def running(app, grace=20, arrival=20):
    """The address of an application that runs in a thread."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = Server(configured(app, grace, arrival), lambda: None)
        thread = Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def serving(vlm, store, **options):
    """The address of a server of the embedded model and, as second, its model."""
    editor = load_editor(vlm, embedded("pinpoint"))
    model = EditableVLM(vlm, editor, store, {"model": "emblem", "editor": "pinpoint"})
    try:
        with running(application(model, "emblem", **options)) as address:
            yield address, model
    finally:
        model.store.close()


@contextmanager
def process(folder, *options, **environment):
    """The address of `liveedit serve` in a folder, and its process."""
    command = [sys.executable, "-m", "liveedit", "serve", "--port", "0", *options]
    known = {name: value for name, value in os.environ.items() if not name.startswith("LIVEEDIT")}
    done = subprocess.Popen(
        command,
        cwd=folder,
        env=known | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        line = done.stdout.readline()
        assert "http" in line, line + done.stdout.read()
        yield line.split()[-1], done
    finally:
        done.kill()
        done.wait()
        done.stdout.close()


def until(true, patience=20):
    """Wait until something is true."""
    end = monotonic() + patience
    while not true():
        assert monotonic() < end, "it did not become true"
        sleep(0.02)


def data_url(image, kind="PNG"):
    """An image as a data URL."""
    stream = io.BytesIO()
    image.save(stream, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(stream.getvalue()).decode()}"


def content(text, *images):
    """The content of a chat's message."""
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in images]
    return [*parts, {"type": "text", "text": text}]


def question(text, *images):
    """A chat of one question."""
    return [{"role": "user", "content": content(text, *images)}]


def metric(address, name):
    """The value of a metric; 0 where it is not counted yet."""
    for line in httpx.get(f"{address}/metrics").text.splitlines():
        if line.startswith(f"{name} "):
            return float(line.split()[-1])
    return 0.0
