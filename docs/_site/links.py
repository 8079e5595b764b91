"""Check a built site without a network: ``python docs/_site/links.py site``.

Every page, anchor, image, style and script that a page names must be in the site, and nothing may be loaded from
elsewhere (links to elsewhere are fine, and are not followed).
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# Attributes that make a browser load something, and the one that a reader follows.
LOADS = {"img": ("src", "srcset"), "script": ("src",), "iframe": ("src",), "source": ("src",), "link": ("href",)}
OURS = "data-src"  # a figure's script, loaded when it comes into view


class Page(HTMLParser):
    """The anchors that a page has, the addresses that it loads and those that it links to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = {""}
        self.loads: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take note of one element."""
        given = {name: value for name, value in attrs if value}
        self.anchors.update(given[name] for name in ("id", "name") if name in given)
        self.loads += [given[name] for name in (*LOADS.get(tag, ()), OURS) if name in given]
        if tag == "a" and "href" in given:
            self.links.append(given["href"])


def problems(site: Path) -> list[str]:
    """One line for each address that leads nowhere, or loads from elsewhere."""
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    found = []
    for path, page in pages.items():
        name = path.relative_to(site)
        if name.name == "404.html":
            continue  # it may be shown at any address, so that its own are not relative to it
        for address in page.loads:
            parts = urlsplit(address)
            if parts.scheme == "data":
                continue
            if parts.scheme or parts.netloc:
                found.append(f"{name}: loads {address} from the network")
            elif not path.parent.joinpath(unquote(parts.path)).is_file():
                found.append(f"{name}: {address} is not in the site")
        for address in page.links:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            target = path.parent.joinpath(unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file():
                found.append(f"{name}: {address} is not in the site")
            elif target in pages and unquote(parts.fragment) not in pages[target].anchors:
                found.append(f"{name}: {address} has no such anchor")
    if not pages:
        found.append(f"{site}: holds no pages")
    return found


def main() -> int:
    """Print the problems of the site named on the command line."""
    site = Path(sys.argv[1]).resolve()
    found = problems(site)
    print("\n".join(found) or f"{site.name}: every page, anchor, image and script is there")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
