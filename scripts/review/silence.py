"""The review page on a bad network, with bad files and hasty fingers: no answer is stored that nobody gave, and none is lost.

    python scripts/review/silence.py --photos FOLDER --passer target/release/passer --shots shots --seed 1

FOLDER holds 130 photos or more. Needs Debian's `chromium` and `chromium-driver`. Ends with status 1 at the first thing that is not as it
should be. Not part of scripts/check.sh.
"""

import argparse
import collections
import pathlib
import random
import shutil
import signal
import subprocess
import tempfile
import time

from driver import CONFIG, Browser, Server, Slow, answers, check, chromedriver, curation

CATEGORIES = ["person", "body_part", "licence_plate", "signature_or_handwriting", "nsfw", "other_harm"]
INTEGRITY = """
[[stages]]
[stages.integrity]
min_side_px = 1
max_side_px = 20000
max_pixels = 178956970
single_colour_levels = 0
placeholders = []
"""
# Every message that a key did nothing, in the order in which they came.
WATCH = """window.unusedKeys = []; const old = unused; window.unused = (key, why) => { window.unusedKeys.push(`${key}: ${why}`); old(key, why); };
return true;"""


def keys_of(browser):
    return browser.run("return state.photos.map((photo) => photo.key)")


def said(out, name):
    return {key: categories for who, key, categories in answers(out) if who == name}


def enter(browser, address, name):
    browser.size(1280, 900)
    # Not on the page itself: one that remembers a name would still be joining under it.
    browser.open(address + "page.css")
    browser.run("sessionStorage.clear(); localStorage.clear()")
    browser.open(address)
    browser.wait_for("document.activeElement && document.activeElement.id === 'nickname'", "the name has the focus")
    browser.run("document.getElementById('nickname').value = ''")
    browser.press(*name)
    browser.press("enter")
    browser.wait_for("document.querySelectorAll('.cell').length > 0", "photos")
    browser.loaded()
    browser.run(WATCH)


def turn_page(browser):
    """N until the next page is there."""
    first = browser.run("return state.photos.length && state.photos[0].key")
    for rounds in range(1, 30):
        browser.loaded()
        browser.press("n")
        browser.saved()
        if browser.run("return state.photos.length && state.photos[0].key") != first:
            return rounds
    check(False, "the page turns")


def hasty_grid(browser, out, dice, rounds):
    """Marks and arrows, 10 to 140 ms apart: what is stored is what was pressed."""
    for turn in range(rounds):
        browser.loaded()
        photos = keys_of(browser)
        count = browser.run("return state.photos.filter((photo) => photo.inView).length")
        browser.run("go(0)")
        plan, keys = {}, []
        for key in photos[:count]:
            marks = dice.sample(range(1, 7), dice.randint(0, 3))
            for mark in marks:
                keys.append(str(mark))
            # Twice is not at all.
            if marks and dice.random() < 0.3:
                keys.append(str(marks[0]))
                marks = marks[1:]
            if not marks:
                keys.append("0")
            plan[key] = ",".join(name for at, name in enumerate(CATEGORIES, 1) if at in marks)
            keys.append("right")
        browser.press_in_time(keys, [dice.randint(10, 140) for _ in keys])
        browser.saved()
        stored = said(out, "Ann")
        wrong = [(key, plan[key], stored.get(key)) for key in plan if stored.get(key) != plan[key]]
        check(not wrong, f"round {turn + 1}: {len(keys)} keys, {len(plan)} photos stored as pressed {wrong[:3]}")
        check(browser.run("return window.unusedKeys.splice(0)") == [], "no key was refused")
        shown = browser.run("return state.photos.map((photo) => [photo.key, photo.cell.querySelector('.answer').textContent])")
        check(all("saving" not in text for _, text in shown), "nothing is shown as being saved any more")
        # Undo and correct at once: keys behind an undo wait for it.
        last = list(plan)[-1]
        before = dict(stored)
        browser.run(f"go({count - 1})")
        browser.press_in_time(["5", "u", "6"], [dice.randint(10, 60) for _ in range(3)])
        browser.saved()
        # 6 is switched in the answer that the undo brought back.
        had = before[last].split(",") if before[last] else []
        now = sorted(set(had) ^ {"other_harm"}, key=CATEGORIES.index)
        check(said(out, "Ann")[last] == ",".join(now), f"5, U, 6: `{before[last]}` becomes `{','.join(now)}`")
        if turn + 1 < rounds:
            browser.press("n")
            browser.saved()


def hasty_single(browser, out, dice):
    """One photo after the other: each 0 is either stored for the photo that was on the screen, or said to have done nothing."""
    browser.loaded()
    photos = keys_of(browser)
    before = said(out, "Ann")
    browser.run("go(0); openSingle(true)")
    browser.wait_for("onScreen(state.photos[0])", "the first photo")
    presses = 14
    browser.press_in_time(["0"] * presses, [dice.randint(10, 140) for _ in range(presses)])
    browser.saved()
    stored = [key for key in photos if key in said(out, "Ann") and key not in before]
    refused = browser.run("return window.unusedKeys.splice(0)")
    check(len(stored) + len(refused) == presses, f"{presses} times 0: {len(stored)} stored, {len(refused)} said to have done nothing")
    check(stored == photos[:len(stored)], "in the order of the photos")
    check(all("on the screen" in why for why in refused), "only where the photo was not there yet")
    browser.press("escape")
    browser.press("escape")


def only_what_was_in_view(browser, out):
    """N speaks of the photos that were in view, and of no others."""
    browser.size(1280, 560)
    browser.press("u")
    browser.saved()
    browser.run("window.scrollTo(0, 0)")
    browser.open(browser.run("return location.href"))
    browser.wait_for("document.querySelectorAll('.cell').length > 0", "photos after a reload, the name is remembered")
    browser.run(WATCH)
    browser.loaded()
    before = said(out, "Ann")
    names = keys_of(browser)
    seen = browser.run("return state.photos.filter(wasSeen).map((photo) => photo.key)")
    text = browser.run("return document.getElementById('done-text').textContent")
    check(0 < len(seen) < len(names), f"{len(seen)} of {len(names)} photos are in view; the button: {text}")
    check(text.startswith(f"None in the {len(seen)} that were in view"), "the button says of how many it speaks")
    browser.press("n")
    browser.saved()
    new = sorted(set(said(out, "Ann")) - set(before))
    check(new == sorted(seen), f"N stored {len(new)}: those that were in view")
    check("not in view yet" in browser.run("return document.getElementById('notice').textContent"), "and says so of the others")
    rounds = turn_page(browser)
    check(set(names) <= set(said(out, "Ann")), f"after {rounds} more N all {len(names)} are stored")
    # At once after the turn of the page, nothing was seen.
    browser.loaded()
    for _ in range(3):
        browser.run("window.scrollTo(0, 0)")
        while browser.run("return state.photos.filter(isOpen).length !== state.photos.filter((photo) => isOpen(photo) && wasSeen(photo)).length"):
            browser.run("const photo = state.photos.find((photo) => isOpen(photo) && !wasSeen(photo)); photo.cell.scrollIntoView({ block: 'center' })")
            time.sleep(0.45)
        before = said(out, "Ann")
        rest = set(keys_of(browser))
        browser.press_in_time(["n", "n", "n", "1", "0"], [15, 40, 120, 15, 15])
        browser.saved()
        new = set(said(out, "Ann")) - set(before)
        check(new <= rest, "N, N, N, 1, 0 in 200 ms: nothing is stored for the page that nobody saw")
        if not browser.run("return state.photos.length"):
            break
        browser.loaded()
    browser.size(1280, 900)


def bad_files(browser, server, photos, out, shots):
    """Missing, exchanged and cut off: shown as such, no answer."""
    enter(browser, server.address, "Bob")
    names = keys_of(browser)
    files = {path.stem: path for path in photos.iterdir() if path.suffix != ".json"}
    missing, exchanged, cut, later = (files[name] for name in names[:4])
    kept = {path: path.read_bytes() for path in (missing, exchanged, cut, later)}
    missing.unlink()
    exchanged.write_bytes(files[names[5]].read_bytes())
    cut.write_bytes(kept[cut][:len(kept[cut]) // 2])
    browser.open(server.address)
    browser.wait_for("document.querySelectorAll('.cell').length > 0", "photos")
    browser.run(WATCH)
    browser.loaded()
    states = dict(browser.run("return state.photos.map((photo) => [photo.key, photo.cell.dataset.state])"))
    check([states[name] for name in names[:3]] == ["broken"] * 3, "the page shows them as what they are")
    reasons = browser.run("return state.photos.slice(0, 3).map((photo) => photo.broken)")
    for reason in reasons:
        print("    ", reason)
    check("integrity" in reasons[1], "the exchanged one names the stage that read the other file")
    browser.shot(shots / "broken-1280-light.png")
    for at in range(3):
        browser.run(f"go({at})")
        browser.press("1")
    browser.saved()
    check(len(browser.run("return window.unusedKeys.splice(0)")) == 3, "keys for them are said to have done nothing")
    turn_page(browser)
    stored = said(out, "Bob")
    check(not set(names[:3]) & set(stored) and len(stored) == 21, f"N stored {len(stored)}, none of these")

    # Exchanged behind the back of the page, with the server started again in between.
    browser.loaded()
    names = keys_of(browser)
    victim, calm = files[names[0]], names[1]
    kept[victim] = victim.read_bytes()
    server.kill()
    victim.write_bytes(files[names[5]].read_bytes())
    browser.run("go(0)")
    browser.press_in_time(["1", "right", "2"], [30, 30, 30])
    server.start()
    browser.saved()
    stored = said(out, "Bob")
    check(names[0] not in stored, "a photo exchanged while the server was away gets no answer")
    check(stored.get(calm) == "body_part", "the other one, unchanged, keeps the answer that was given")
    text = browser.run("return document.getElementById('notice').textContent")
    check("no longer the one that you saw" in text, text)
    for path, content in kept.items():
        path.write_bytes(content)
    browser.saved()


def reload_and_discard(browser, server, out, dice, shots):
    """A reload in the middle of saving loses nothing silently; the name and the larger pictures stay; answers can be discarded."""
    enter(browser, server.address, "Cleo")
    names = keys_of(browser)
    browser.press("l")
    browser.loaded()
    browser.shot(shots / "larger-1280-light.png")
    browser.run("go(0)")
    browser.press_in_time(["1", "right", "0"], [20, 20, 5])
    browser.run("window.onbeforeunload = null")
    browser.saved()
    browser.open(server.address)
    browser.wait_for("document.getElementById('who').textContent === 'You are Cleo.'", "the name is remembered over a reload")
    browser.wait_for("document.querySelectorAll('.cell').length > 0", "photos")
    browser.loaded()
    check(browser.run("return state.larger"), "so are the larger pictures")
    # The longer side: photos may be upright.
    side = browser.run("const img = document.querySelector('.cell .picture img'); return Math.max(img.naturalWidth, img.naturalHeight)")
    check(side > 480, f"whose longer side is {side} px")
    stored = said(out, "Cleo")
    check(stored == {names[0]: "person", names[1]: ""}, "both answers are stored")
    check(not set(stored) & set(keys_of(browser)), "and their photos are not shown again")
    browser.press("?")
    check(not browser.run("return document.getElementById('keys').hidden"), "? opens the keys")
    browser.press("escape")
    check(browser.run("return document.getElementById('keys').hidden"), "Escape closes them")
    browser.run("document.getElementById('discard').click()")
    check("2 answers of Cleo" in browser.run("return document.getElementById('discard-text').textContent"), "the panel says what is discarded")
    browser.shot(shots / "discard-1280-light.png")
    browser.press("escape")
    check(browser.run("return document.getElementById('discarding').hidden") and len(said(out, "Cleo")) == 2, "Escape keeps them")
    browser.run("document.getElementById('discard').click(); document.getElementById('discard-yes').click()")
    browser.saved()
    check(said(out, "Cleo") == {} and len(answers(out, "discarded")) == 2, "discarded: none counts, two stay in the ledger")
    browser.press("l")


def alone(arguments, browser, home, shots):
    """One person finishes alone, or learns what is missing and what to type."""
    _, out = curation(arguments.passer, arguments.photos, home, 12, 0.5)
    server = Server(arguments.passer, out, arguments.port)
    server.address = server.start()
    try:
        enter(browser, server.address, "Dora")
        for _ in range(10):
            if browser.run("return state.photos.length === 0"):
                break
            browser.loaded()
            browser.press("n")
            browser.saved()
        text = browser.run("return document.getElementById('empty').innerText")
        check("for a second person" in text and "--set stages.review.labelled_twice=0.0" in text and "passer curate run" in text, "the page says who is missing, and what to do alone")
        browser.shot(shots / "second-1280-light.png")
    finally:
        server.process.send_signal(signal.SIGINT)
        server.process.wait()
    config = home / "config.toml"
    command = [arguments.passer, "curate", "run", config, "--out", out]
    done = subprocess.run(command, capture_output=True, text=True)
    print("    ", done.stderr.strip().replace("\n", "\n     "))
    check(done.returncode == 3 and "wait for a second person" in done.stderr, "so does the command")
    status = subprocess.run([arguments.passer, "curate", "status", out], capture_output=True, text=True).stdout
    check("of 12 photos are labeled" in status, status.strip().splitlines()[-1].strip())
    done = subprocess.run([*command, "--set", "stages.review.labelled_twice=0.0"], capture_output=True, text=True)
    check(done.returncode == 0, "with labelled_twice=0.0 it goes on")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", required=True)
    parser.add_argument("--passer", default="target/release/passer")
    parser.add_argument("--shots", default="shots")
    parser.add_argument("--port", type=int, default=7895)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    shots = pathlib.Path(arguments.shots)
    shots.mkdir(parents=True, exist_ok=True)
    dice = random.Random(arguments.seed)
    home = pathlib.Path(tempfile.mkdtemp())
    integrity = CONFIG.replace("[[stages]]\n[stages.review]", INTEGRITY + "[[stages]]\n[stages.review]")
    photos, out = curation(arguments.passer, arguments.photos, home / "one", 130, 1.0, integrity)
    driver = chromedriver(arguments.port + 1)
    server = Server(arguments.passer, out, arguments.port)
    browser = None
    try:
        server.address = server.start()
        browser = Browser(f"http://127.0.0.1:{arguments.port + 1}", False)
        slow = Slow(arguments.port, arguments.seed)
        enter(browser, slow.address, "Ann")
        hasty_grid(browser, out, dice, 1)
        slow.lose = 0.2
        turn_page(browser)
        hasty_grid(browser, out, dice, 1)
        check(slow.lost > 0, f"with {slow.lost} responses lost on the way")
        slow.lose = 0.0
        turn_page(browser)
        hasty_single(browser, out, dice)
        only_what_was_in_view(browser, out)
        states = collections.Counter(state for state in ("current", "replaced", "undone") for _ in answers(out, state))
        print("     rows of the ledger:", dict(states))
        bad_files(browser, server, photos, out, shots)
        reload_and_discard(browser, server, out, dice, shots)
        server.process.send_signal(signal.SIGINT)
        server.process.wait()
        alone(arguments, browser, home / "two", shots)
    finally:
        if browser is not None:
            try:
                browser.close()
            except Exception as error:
                print("closing:", error)
        driver.send_signal(signal.SIGTERM)
        if server.process.poll() is None:
            server.kill()
    shutil.rmtree(home)
    print("all as it should be")


if __name__ == "__main__":
    main()
