"""For mkdocs: the README is the home page, so that there is one of them."""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent


def on_files(files: Files, config: Any) -> Files:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    text = text.replace("](docs/", "](")
    # What lies outside docs/ is named, not linked.
    text = re.sub(r"\[([^\]]+)\]\((?:benchmarks/README|CONTRIBUTING|CHANGELOG)\.md\)", r"`\1`", text)
    files.append(File.generated(config, "index.md", content=text))
    return files
