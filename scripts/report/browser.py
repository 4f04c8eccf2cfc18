"""Opens HTML reports of `passer evaluate` and `passer report` in headless Chromium, narrow (390 px) and wide (1280 and 1440 px), light and dark; writes screenshots
and asserts what a person would look for: nothing is cut off or loaded from elsewhere, every picture is there and has its text, tables
have captions and headed columns, text can be told from its background.

    python scripts/report/browser.py results/report.html --out screenshots [--expect TEXT]...

Needs Debian's `chromium`, and nothing else.
"""

import argparse
import html
import json
import pathlib
import re
import subprocess
import sys
import tempfile

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--allow-file-access-from-files",
    "--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=20000",
]
# Chromium's windows cannot be as narrow as a phone; a frame can, and its style sheet sees the frame's width.
FRAME = """<!DOCTYPE html><meta charset="utf-8"><style>body{margin:0}iframe{border:0;display:block}</style>
<iframe src="REPORT" width="WIDTH" height="1200"></iframe><pre id="found" hidden></pre><script>
const frame = document.querySelector("iframe");
frame.onload = async () => {
  const page = frame.contentDocument, root = page.documentElement;
  for (const image of page.images) image.loading = "eager";
  frame.height = root.scrollHeight;
  await Promise.all([...page.images].map((image) => image.decode().catch(() => 0)));
  const visible = (element) => element.getClientRects().length > 0;
  const channels = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = (color) => channels(color).slice(0, 3).map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, at) => sum + v * [0.2126, 0.7152, 0.0722][at], 0);
  const style = frame.contentWindow.getComputedStyle(page.body);
  const behind = light(style.backgroundColor);
  const contrast = (element) => {
    const own = light(frame.contentWindow.getComputedStyle(element).color);
    return (Math.max(own, behind) + 0.05) / (Math.min(own, behind) + 0.05);
  };
  const map = page.querySelector(".map"), points = [...page.querySelectorAll(".map i")];
  const box = map && map.getBoundingClientRect();
  document.getElementById("found").textContent = JSON.stringify({
    title: page.title,
    headings: [...page.querySelectorAll("h2")].map((heading) => heading.textContent),
    text: page.body.innerText,
    overflow: root.scrollWidth - root.clientWidth,
    images: page.images.length,
    broken: [...page.images].filter((image) => !image.complete || image.naturalWidth === 0).length,
    silent: [...page.images].filter((image) => !image.alt.trim()).length,
    shown: [...page.images].filter(visible).length,
    tables: page.querySelectorAll("table").length,
    captions: page.querySelectorAll("table > caption").length,
    unheaded: [...page.querySelectorAll("thead th, tbody th")].filter((cell) => !cell.scope).length,
    points: points.length,
    outside: points.filter((point) => {
      const own = point.getBoundingClientRect();
      return own.left + own.width / 2 < box.left || own.left + own.width / 2 > box.right;
    }).length,
    pointed: points.length && frame.contentWindow.getComputedStyle(points[0]).backgroundImage.startsWith("url("),
    loaded: frame.contentWindow.performance.getEntriesByType("resource").map((entry) => entry.name)
      .filter((name) => !name.startsWith("data:")),
    scripts: page.scripts.length,
    background: style.backgroundColor,
    contrast: Math.min(...[...page.querySelectorAll("p, dt, dd, figcaption span, th, a")].filter(visible).map(contrast)),
    height: root.scrollHeight,
  });
};
</script>"""


def chromium(arguments, page):
    with tempfile.TemporaryDirectory() as profile:
        command = ["chromium", *FLAGS, f"--user-data-dir={profile}", *arguments, page.as_uri()]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False).stdout


def look(report, width, dark, out, expected):
    name = f"{report.stem}-{width}-{'dark' if dark else 'light'}"
    # 0 is dark.
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    with tempfile.TemporaryDirectory() as folder:
        page = pathlib.Path(folder, "frame.html")
        page.write_text(FRAME.replace("REPORT", report.as_uri()).replace("WIDTH", str(width)))
        # On a busy machine the browser's clock may run out before the page is there.
        for _ in range(3):
            dom = chromium([scheme, "--dump-dom", f"--window-size={max(width, 500)},1200"], page)
            found = re.search(r'<pre id="found"[^>]*>(.+?)</pre>', dom, re.S)
            if found:
                break
        assert found, f"{name}: Chromium showed nothing"
        found = json.loads(html.unescape(found[1]))
        height = min(found["height"], 12000)
        picture = out / f"{name}.png"
        chromium([scheme, f"--screenshot={picture}", f"--window-size={max(width, 500)},{height}"], page)
    problems = []

    def check(right, what):
        if not right:
            problems.append(what)

    check(found["overflow"] <= 0, f"the page is {found['overflow']} px wider than the screen")
    check(found["broken"] == 0, f"{found['broken']} of {found['images']} pictures are broken")
    check(found["silent"] == 0, f"{found['silent']} pictures have no alternative text")
    check(found["shown"] == found["images"], "some pictures are not shown")
    check(found["captions"] == found["tables"] > 0, "a table has no caption, or there is none")
    check(found["unheaded"] == 0, f"{found['unheaded']} header cells do not say what they head")
    check(found["outside"] == 0, f"{found['outside']} points lie outside the map")
    check(not found["points"] or found["pointed"], "the map's points have no pictures")
    check(found["loaded"] == [], f"it loads {found['loaded'][:3]}")
    check(found["scripts"] == 0, "it has scripts")
    check(found["contrast"] >= 4.5, f"text has a contrast of {found['contrast']:.2f}, and 4.5 is the least")
    red = int(re.findall(r"\d+", found["background"])[0])
    check((red < 128) == dark, f"the background is {found['background']}")
    check(picture.is_file() and picture.stat().st_size > 10_000, "there is no screenshot")
    for text in expected:
        check(text in found["text"], f"`{text}` is nowhere to be read")
    print(
        f"{name}: {found['images']} pictures, {found['tables']} tables, {found['points']} points, {found['height']} px high, "
        f"contrast {found['contrast']:.2f}; sections: {', '.join(found['headings'])}"
    )
    for problem in problems:
        print(f"  {problem}")
    return not problems


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("reports", nargs="+", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--expect", action="append", default=[], metavar="TEXT")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    right = True
    for report in arguments.reports:
        size = report.stat().st_size
        if size > 5_000_000:
            print(f"{report}: {size} bytes, and 5 MB is the most")
            right = False
        for width in [390, 1280, 1440]:
            for dark in [False, True]:
                right &= look(report.resolve(), width, dark, arguments.out.resolve(), arguments.expect)
    sys.exit(0 if right else 1)


main()
