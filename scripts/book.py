"""A preprocessor of mdBook: links of a page to files outside of `docs/` become links to the repository, or plain text.

mdBook calls it as book.toml says. `[preprocessor.repository] url` is the address of the repository's files at a branch; without it
the text of a link stays, with the path behind it.
"""

import json
import posixpath
import re
import sys

LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)")


def outside(page: str, target: str) -> str | None:
    """The path from the repository's root, if the target of a page's link lies outside of docs/."""
    if "://" in target or target.startswith(("#", "mailto:")):
        return None
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), target))
    return None if path.split("#")[0].startswith("docs/") and path.split("#")[0].endswith((".md", ".png", ".svg")) else path


def led_out(page: str, text: str, url: str | None) -> str:
    """The text of a page with its links out of the book changed; blocks of code stay."""

    def changed(found: re.Match[str]) -> str:
        path = outside(page, found[2])
        if path is None:
            return found[0]
        if url:
            return f"[{found[1]}]({url.rstrip('/')}/{path})"
        return found[1] if path.split("#")[0] in found[1] else f"{found[1]} (`{path}`)"

    lines, in_block = [], False
    for line in text.split("\n"):
        if line.lstrip().startswith("```"):
            in_block = not in_block
        lines.append(line if in_block else LINK.sub(changed, line))
    return "\n".join(lines)


def visit(items: list, url: str | None) -> None:
    """Changes the chapters in place."""
    for item in items:
        chapter = item.get("Chapter") if isinstance(item, dict) else None
        if chapter is None:
            continue
        if chapter.get("path"):
            chapter["content"] = led_out(chapter["path"], chapter["content"], url)
        visit(chapter["sub_items"], url)


def main() -> None:
    if sys.argv[1:2] == ["supports"]:
        sys.exit(0)
    context, book = json.load(sys.stdin)
    settings = context["config"].get("preprocessor", {}).get("repository", {})
    # `sections` up to mdBook 0.4, `items` since 0.5.
    visit(book.get("items", book.get("sections", [])), settings.get("url"))
    json.dump(book, sys.stdout)


if __name__ == "__main__":
    main()
