"""The review page in a real browser: two annotators label 40 photos by keyboard, the server is killed in between, kappa is scikit-learn's.

    python scripts/review/browser.py --photos FOLDER --passer target/release/passer --shots shots

FOLDER holds 30 photos or more. Needs Debian's `chromium` and `chromium-driver`, and scikit-learn for the last figure; speaks
WebDriver by itself. Ends with status 1 at the first thing that is not as it should be. Not part of scripts/check.sh.
"""

import argparse
import http.server
import pathlib
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request

from driver import Browser, Client, Server, answers, check, chromedriver, curation


def other_origin(browser, address):
    """A page of another origin tries to read, to post and to show a photo."""
    page = b"<!DOCTYPE html><title>elsewhere</title>"

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *_):
            pass

    elsewhere = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=elsewhere.serve_forever, daemon=True).start()
    browser.open(f"http://localhost:{elsewhere.server_port}/")
    found = browser.call("POST", f"{browser.session}/execute/async", {"args": [address], "script": """
        const [address, done] = arguments;
        const tries = {
          read: () => fetch(address + "api/state").then(() => "came through"),
          post: () => fetch(address + "api/answers", { method: "POST", mode: "no-cors", headers: { "Content-Type": "text/plain" },
            body: JSON.stringify({ annotator: 1, answers: [{ photo: 1, categories: [] }] }) }).then(() => "sent"),
          image: () => new Promise((resolve, reject) => { const image = new Image(); image.onload = () => resolve("came through");
            image.onerror = reject; image.src = address + "thumb/1"; }),
        };
        Promise.all(Object.entries(tries).map(([name, work]) => work().catch(() => "refused").then((said) => [name, said])))
          .then((all) => done(Object.fromEntries(all)));"""})
    elsewhere.shutdown()
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", required=True)
    parser.add_argument("--passer", default="target/release/passer")
    parser.add_argument("--shots", default="shots")
    parser.add_argument("--port", type=int, default=7891)
    arguments = parser.parse_args()
    shots = pathlib.Path(arguments.shots)
    shots.mkdir(parents=True, exist_ok=True)
    home = pathlib.Path(tempfile.mkdtemp())
    _, out = curation(arguments.passer, arguments.photos, home, 30, 0.6)
    driver_port = arguments.port + 1
    driver = chromedriver(driver_port)
    server = Server(arguments.passer, out, arguments.port)
    browsers = []
    try:
        address = server.start()
        check(address == f"http://127.0.0.1:{arguments.port}/", f"it serves at {address}")
        one, two = (Browser(f"http://127.0.0.1:{driver_port}", dark) for dark in (False, True))
        browsers += [one, two]
        for browser, name in ((one, "Ann <i>"), (two, "Bob")):
            browser.size(1280, 900)
            browser.open(address)
            browser.wait_for("document.activeElement.id === 'nickname'", "the name has the focus")
            browser.press(*name)
            browser.press_and_wait("enter")
            browser.wait_for("document.querySelectorAll('.cell').length > 0", "photos")
            browser.loaded()
        check(one.run("return document.getElementById('who').textContent") == "You are Ann <i>.", "names are text")

        # Ann: marks, corrects, goes through the grid by arrows; the server dies in the middle.
        one.press_and_wait("1")
        check(one.run("return document.querySelector('.cell .answer').textContent") == "Person", "a mark is shown once it is saved")
        check(len(answers(out)) == 1, "and is in the ledger")
        one.press("right")
        one.press_and_wait("3")
        one.press_and_wait("3")
        check(answers(out)[-1][2] == "", "the same key takes a mark away")
        one.press_and_wait("u")
        check(answers(out)[-1][2] == "licence_plate", "undo brings it back")
        one.press("down")
        row = one.run("return [...document.querySelectorAll('.cell')].indexOf(document.activeElement)")
        check(row > 2, f"the arrow goes to the row below (photo {row + 1})")
        one.press_and_wait("2")
        one.shot(shots / "grid-1280-light.png")
        saved = len(answers(out))
        server.kill()
        one.press("right")
        one.press("1")
        one.wait_for("!document.getElementById('trouble').hidden", "a dead server is said")
        text = one.run("return document.getElementById('trouble').textContent")
        check("does not answer" in text and "1 change is not saved yet" in text, text)
        check(one.run("return document.activeElement.dataset.state") == "saving", "and nothing is shown as saved")
        one.shot(shots / "trouble-1280-light.png")
        check(len(answers(out)) == saved, "every answer outlived the kill")
        server.start()
        one.saved()
        check(len(answers(out)) == saved + 1 and one.run("return document.getElementById('trouble').hidden"), "it is sent again and saved")

        # One photo, large.
        one.press("v")
        one.wait_for("onScreen(state.photos[state.at])", "the photo")
        check(one.run("return document.activeElement.id") == "frame", "the photo has the focus")
        about = one.run("return document.getElementById('about').textContent")
        check("<img src=x" in about and "<b>Ann & Bob</b>" in about, "titles and photographers are text")
        one.press("+", "+")
        check(one.run("return document.getElementById('zoom').textContent") == "200 %", "it zooms")
        sides = one.run("const f = document.getElementById('frame'); return [f.scrollWidth / f.clientWidth, f.scrollHeight / f.clientHeight]")
        check(all(1.9 < side < 2.1 for side in sides), f"and is twice as large ({sides[0]:.2f}, {sides[1]:.2f})")
        one.shot(shots / "single-1280-light.png")
        one.press("-", "-")
        one.press("left")
        one.press("escape")
        check(one.run("return document.activeElement.classList.contains('cell')"), "Escape goes back to the grid")
        one.loaded()
        one.press_and_wait("n")

        # Bob, and both to the end: the last third differently, so that kappa is not one.
        for turn in range(40):
            for browser in (two, one):
                while browser.run("return document.querySelectorAll('.cell').length") > 0 and not browser.run("return !document.getElementById('empty').hidden"):
                    if browser is two and turn == 0:
                        for at in range(4):
                            two.press_and_wait("1" if at % 2 == 0 else "5")
                            two.press("right")
                        two.size(390, 844)
                        time.sleep(0.3)
                        two.shot(shots / "grid-390-dark.png")
                        two.press("v")
                        two.wait_for("onScreen(state.photos[state.at])", "the photo")
                        two.shot(shots / "single-390-dark.png")
                        wide = two.run("return document.documentElement.scrollWidth")
                        check(wide <= 390, f"nothing is wider than a phone ({wide} px)")
                        two.press("escape")
                        turn = 1
                    browser.loaded()
                    browser.press_and_wait("n")
                    browser.saved()
            if not Client(address).call("/api/state")["labels_open"]:
                break
            for browser in (one, two):
                browser.press_and_wait("enter")
        state = Client(address).call("/api/state")
        said = answers(out)
        check(state["labels_open"] == 0 and state["done"] == 30, "every photo has its labels")
        check(len(said) >= 40, f"{len(said)} answers by keyboard")
        by = {name: {key: categories != "" for who, key, categories in said if who == name} for name in ("Ann <i>", "Bob")}
        both = sorted(set(by["Ann <i>"]) & set(by["Bob"]))
        from sklearn.metrics import cohen_kappa_score
        kappa = cohen_kappa_score([by["Ann <i>"][key] for key in both], [by["Bob"][key] for key in both])
        pair = state["pairs"][0]
        check(pair["photos"] == len(both) and abs(pair["kappa"] - kappa) < 1e-12, f"kappa {pair['kappa']:.6f} on {len(both)} photos is scikit-learn's {kappa:.6f}")
        one.run("return refresh()")
        one.wait_for("document.querySelectorAll('#pairs td').length === 3", "the pair")
        check(one.run("return document.querySelectorAll('#pairs td')[2].textContent") == f"{kappa:.3f}", "and is shown")
        one.shot(shots / "done-1280-light.png")
        check(one.run("return document.title") == "Review: Browser test <b>", "nobody's text was run")

        # Names for screen readers.
        one.press("u")
        one.wait_for("document.querySelectorAll('.cell').length > 0 && document.getElementById('empty').hidden", "photos again")
        one.loaded()
        named = one.call("POST", f"{one.session}/elements", {"using": "css selector", "value": "button, input, progress, [role=group]"})
        labels = [(element, one.label(next(iter(element.values())))) for element in named if one.run("return arguments[0].checkVisibility()", element)]
        check(len(labels) > 8 and all(label for _, label in labels), f"{len(labels)} controls have names")
        one.press("right")
        check(one.run("return getComputedStyle(document.activeElement).outlineStyle") != "none", "the focus is to be seen")
        one.size(390, 844)
        time.sleep(0.3)
        one.shot(shots / "grid-390-light.png")
        one.press("?")
        one.shot(shots / "keys-390-light.png")
        one.press("escape")
        check(one.run("return document.getElementById('keys').hidden"), "Escape closes the keys")
        one.run("window.scrollTo(0, document.body.scrollHeight)")
        one.shot(shots / "people-390-light.png")
        two.size(1280, 900)
        two.shot(shots / "empty-1280-dark.png")

        before = len(answers(out))
        found = other_origin(two, address)
        check(found["read"] == "refused" and found["image"] == "refused", f"another origin: {found}")
        check(len(answers(out)) == before, "and what it posted is not in the ledger")
        request = urllib.request.Request(address, headers={"Host": "evil.example"})
        try:
            urllib.request.urlopen(request)
            check(False, "another name for this machine is refused")
        except urllib.error.HTTPError as error:
            check(error.code == 403, "another name for this machine is refused")
        two.open(address)
        two.wait_for("document.getElementById('who').textContent === 'You are Bob.'", "the name is remembered")
        for path in ("../../etc/passwd", "photo/..%2f..%2f..%2fetc%2fpasswd"):
            try:
                urllib.request.urlopen(address + path)
                check(False, f"{path} is refused")
            except urllib.error.HTTPError as error:
                check(error.code in (400, 404), f"{path} is refused")
    finally:
        for browser in browsers:
            try:
                browser.close()
            except Exception as error:
                print("closing:", error)
        driver.send_signal(signal.SIGTERM)
        if server.process:
            server.kill()
    # The undone answer is missing; without it the stage waits.
    done = subprocess.run([arguments.passer, "curate", "run", home / "config.toml", "--out", out], capture_output=True, text=True)
    check(done.returncode == 3 and "of 30 photos are labeled" in done.stderr, "an answer that was taken back is waited for")
    shutil.rmtree(home)
    print("all as it should be")


if __name__ == "__main__":
    main()
