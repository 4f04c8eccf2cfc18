"""What the scripts of this folder share: a headless Chromium by WebDriver, the review's server, and a slow network between them.

Needs Debian's `chromium` and `chromium-driver`. Standard library only.
"""

import base64
import http.client
import json
import pathlib
import random
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]
CONFIG = """
[source.folder]
folder = "{photos}"
class_folders = false
licence = "mine"
[[stages]]
[stages.licence]
attribution = []
accept = [{{ name = "mine", urls = [] }}]
[[stages]]
[stages.review]
drop = ["person", "body_part", "licence_plate", "signature_or_handwriting", "nsfw", "other_harm"]
labelled_twice = {twice}
disagreement = "drop"
seed = 3
[release]
name = "Browser test <b>"
description = "d"
publisher = "p"
contact = "c"
url = "u"
licence_url = "l"
records_per_shard = 100
shard_prefix = "s"
coordinates = false
metadata = "strip_private"
"""
KEYS = {"left": "\ue012", "up": "\ue013", "right": "\ue014", "down": "\ue015", "enter": "\ue007", "escape": "\ue00c", "tab": "\ue004"}


def check(truth, what):
    print("ok  " if truth else "BAD ", what, flush=True)
    if not truth:
        sys.exit(1)


class Browser:
    """One window of a headless Chromium, by the WebDriver protocol."""

    def __init__(self, driver, dark):
        self.profile = tempfile.mkdtemp()
        flags = [*FLAGS, f"--user-data-dir={self.profile}"] + (["--force-dark-mode", "--blink-settings=preferredColorScheme=0"] if dark else [])
        wanted = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": {"args": flags, "binary": "/usr/bin/chromium"}}}}
        self.driver = driver
        self.session = f"{driver}/session/" + self.call("POST", f"{driver}/session", wanted)["sessionId"]

    def call(self, method, url, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
        try:
            return json.load(urllib.request.urlopen(request, timeout=60))["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(error.read().decode()[:500]) from None

    def open(self, url):
        self.call("POST", f"{self.session}/url", {"url": url})

    def size(self, width, height):
        # The window has no edges, but Chromium does not make it narrower than 500 px: the page's own size is overridden.
        self.call("POST", f"{self.session}/goog/cdp/execute", {"cmd": "Emulation.setDeviceMetricsOverride", "params": {
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}})

    def run(self, script, *arguments):
        return self.call("POST", f"{self.session}/execute/sync", {"script": script, "args": list(arguments)})

    def wait_for(self, script, what, seconds=20):
        until = time.time() + seconds
        while not self.run(f"return Boolean({script})"):
            if time.time() > until:
                check(False, f"waited for: {what}")
            time.sleep(0.03)

    def press(self, *keys):
        actions = []
        for key in keys:
            key = KEYS.get(key, key)
            actions += [{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]
        self.call("POST", f"{self.session}/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def press_in_time(self, keys, gaps_ms):
        """Keys with these pauses between them, timed by the browser."""
        actions = []
        for key, gap in zip(keys, gaps_ms):
            key = KEYS.get(key, key)
            actions += [{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}, {"type": "pause", "duration": gap}]
        self.call("POST", f"{self.session}/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def saved(self):
        """Waits until nothing is left to be saved."""
        self.wait_for("changes.length === 0 && holding === 0", "everything is saved", 60)

    def loaded(self):
        """Waits until every picture of the page is shown, or known not to be, and those in view have been so for long enough."""
        self.wait_for("changes.length === 0 && state.photos.every((photo) => photo.ready || photo.broken !== null || photo.gone)", "the pictures", 60)
        self.wait_for("state.single || state.photos.filter((photo) => photo.inView && photo.ready && isOpen(photo)).every(wasSeen)", "they are seen")

    def press_and_wait(self, key):
        """A key that talks to the server: waits until the page has its answer."""
        before = self.run("return Number(document.body.dataset.settled || 0)")
        self.press(key)
        self.wait_for(f"Number(document.body.dataset.settled || 0) > {before}", f"an answer to `{key}`")

    def shot(self, path):
        path.write_bytes(base64.b64decode(self.call("GET", f"{self.session}/screenshot")))

    def label(self, element):
        return self.call("GET", f"{self.session}/element/{element}/computedlabel")

    def close(self):
        self.call("DELETE", self.session)
        shutil.rmtree(self.profile, ignore_errors=True)


class Server:
    def __init__(self, passer, folder, port):
        self.command = [passer, "curate", "review", folder, "--listen", f"127.0.0.1:{port}"]
        self.process = None

    def start(self):
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        return self.process.stdout.readline().strip()

    def kill(self):
        self.process.kill()
        self.process.wait()


class Slow:
    """A network with delay before the server: every request waits 20 to 150 ms, and some responses are lost after the server has done
    what was requested."""

    def __init__(self, port, seed):
        self.port, self.random, self.lost, self.lose = port, random.Random(seed), 0, 0.0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.own = self.listener.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.own}/"
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.forward, args=(client,), daemon=True).start()

    def forward(self, client):
        with client:
            request = b""
            while b"\r\n\r\n" not in request:
                part = client.recv(65536)
                if not part:
                    return
                request += part
            head, body = request.split(b"\r\n\r\n", 1)
            length = next((int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0)
            while len(body) < length:
                body += client.recv(65536)
            # The server knows itself by its own port.
            head = head.replace(b"127.0.0.1:%d" % self.own, b"127.0.0.1:%d" % self.port)
            time.sleep(self.random.uniform(0.02, 0.15))
            try:
                with socket.create_connection(("127.0.0.1", self.port)) as server:
                    server.sendall(head + b"\r\n\r\n" + body)
                    response = b""
                    while part := server.recv(65536):
                        response += part
            except OSError:
                return
            if head.startswith(b"POST") and self.random.random() < self.lose:
                self.lost += 1
                return
            try:
                client.sendall(response)
            except OSError:
                pass


class Client:
    """The page's requests, without the page. Notes how long each takes, in ms, by name."""

    def __init__(self, address):
        self.address, self.times, self.number = address.removeprefix("http://").rstrip("/"), {}, 0

    def call(self, path, body=None, name=None):
        started = time.perf_counter()
        connection = http.client.HTTPConnection(self.address)
        headers = {"Origin": f"http://{self.address}", "Content-Type": "application/json"}
        connection.request("GET" if body is None else "POST", path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        content = answer.read()
        self.times.setdefault(name or path, []).append(1e3 * (time.perf_counter() - started))
        assert answer.status == 200, (path, answer.status, content[:200])
        return answer.headers["X-Photo-Sha256"] if path.startswith("/thumb") else json.loads(content)

    def change(self, path, who, name, answers=()):
        self.number += 1
        return self.call(path, {"annotator": who, "page": "script", "number": self.number, "answers": list(answers)}, name)

    def answers(self, who, photos, categories):
        """Looks at each photo, and answers."""
        look = lambda photo: self.call(f"/thumb/{photo}?annotator={who}", name="a thumbnail")
        return [{"photo": photo, "categories": categories, "shown": look(photo)} for photo in photos]


def answers(folder, state="current"):
    ledger = sqlite3.connect(f"file:{folder}/ledger.sqlite?mode=ro", uri=True)
    return ledger.execute("SELECT n.name, a.key, a.categories FROM answers a JOIN annotators n ON n.id = a.annotator "
                          "WHERE a.state = ? ORDER BY a.id", [state]).fetchall()


def curation(passer, source, home, count, labelled_twice, config=CONFIG):
    """A folder of `count` photos, and a curation that waits for its review. Returns the photos and the curation."""
    photos, out = home / "photos", home / "out"
    photos.mkdir(parents=True)
    for path in sorted(path for path in pathlib.Path(source).iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))[:count]:
        shutil.copy(path, photos / path.name)
        about = {"title": "<img src=x onerror=document.title='hacked'>", "photographer": "<b>Ann & Bob</b>", "licence": "mine"}
        (photos / path.name).with_suffix(".json").write_text(json.dumps(about))
    (home / "config.toml").write_text(config.format(photos=photos, twice=labelled_twice))
    done = subprocess.run([passer, "curate", "run", home / "config.toml", "--out", out], capture_output=True, text=True)
    check(done.returncode == 3 and f"0 of {count} photos are labeled" in done.stderr and "error" not in done.stderr, "the stage waits for people, status 3")
    return photos, out


def chromedriver(port):
    driver = subprocess.Popen(["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(100):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/status", timeout=5)
            break
        except OSError:
            time.sleep(0.1)
    return driver
