#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks the Markdown pages: every relative link leads to a file and heading of the tree, every
decision is listed in docs/adr/README.md under its own title, and every page of docs/internals and
docs/guide can be reached from README.md.  Prints page:line and what is wrong; exit 1 then."""
import pathlib
import re
import sys
import urllib.parse

ROOT = pathlib.Path(__file__).resolve().parents[2]
LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(page):
    """The anchors of a page's headings, as renderers make them."""
    found = set()
    for line in page.read_text().splitlines():
        if line.startswith("#"):
            text = re.sub(r"[`*]", "", line.lstrip("#").strip()).lower()
            found.add(re.sub(r"[^\w\- ]", "", text).replace(" ", "-"))
    return found


def links(page):
    """(line number, target path, anchor) of each relative link outside code blocks."""
    fenced = False
    for number, line in enumerate(page.read_text().splitlines(), 1):
        fenced ^= line.lstrip().startswith("```")
        if fenced or line.startswith("    "):
            continue
        for target in LINK.findall(re.sub(r"`[^`]*`", "", line)):
            if not re.match(r"[a-z]+:", target):
                path, _, anchor = target.partition("#")
                yield number, (page.parent / urllib.parse.unquote(path)).resolve() if path else page, anchor


def check_links(pages):
    for page in pages:
        for number, target, anchor in links(page):
            where = f"{page.relative_to(ROOT)}:{number}"
            if not target.exists():
                yield f"{where}: leads to {target}, which does not exist"
            elif anchor and target.suffix == ".md" and anchor not in anchors(target):
                yield f"{where}: {target.name} has no heading #{anchor}"


def check_decisions():
    index = ROOT / "docs/adr/README.md"
    listed = {title: name for title, name in re.findall(r"\[([^\]]+)\]\((\d{4}-[^)]+)\)", index.read_text())}
    for page in sorted((ROOT / "docs/adr").glob("[0-9]*.md")):
        head = page.read_text().splitlines()[0]
        number, _, title = head.removeprefix("# ").partition(". ")
        if int(page.name[:4]) != int(number):
            yield f"{page.relative_to(ROOT)}:1: its number is {number}, expected {int(page.name[:4])}"
        if listed.get(title.replace("`", "")) != page.name and listed.get(title) != page.name:
            yield f"docs/adr/README.md: does not list [{title}]({page.name})"


def check_reached(pages):
    """A link to a folder reaches the pages in it."""
    seen, wait = set(), [ROOT / "README.md"]
    while wait:
        page = wait.pop()
        if page not in seen:
            seen.add(page)
            for _, target, _ in links(page):
                if target.is_dir():
                    wait += target.glob("*.md")
                elif target.suffix == ".md" and target.exists():
                    wait.append(target)
    for page in pages:
        if page.is_relative_to(ROOT / "docs") and page not in seen:
            yield f"{page.relative_to(ROOT)}: no page leads to it from README.md"


def main():
    pages = sorted(p for p in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"),
                               *(ROOT / "profiles").rglob("*.md"), *(ROOT / "allocator").rglob("*.md")])
    problems = [*check_links(pages), *check_decisions(), *check_reached(pages)]
    print("\n".join(problems) or f"{len(pages)} pages")
    return 1 if problems or len(pages) < 10 else 0


if __name__ == "__main__":
    sys.exit(main())
