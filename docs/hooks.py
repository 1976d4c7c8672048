"""For mkdocs: the README is the home page, so that there is one of them, and notebooks are pages with their results."""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from nbconvert import MarkdownExporter

ROOT = Path(__file__).parent.parent


def on_files(files: Files, config: Any) -> Files:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    text = text.replace("](docs/", "](")
    # What lies outside docs/ is named, not linked.
    text = re.sub(r"\[([^\]]+)\]\((?:benchmarks/README|CONTRIBUTING|CHANGELOG|SECURITY)\.md\)", r"`\1`", text)
    files.append(File.generated(config, "index.md", content=text))
    for notebook in [file for file in files if file.src_uri.endswith(".ipynb")]:
        files.remove(notebook)
        page = Path(notebook.src_uri).with_suffix(".md")
        text, resources = MarkdownExporter().from_filename(notebook.abs_src_path, {"unique_key": page.stem})
        files.append(File.generated(config, page.as_posix(), content=text))
        for name, content in resources["outputs"].items():  # its pictures
            files.append(File.generated(config, page.with_name(name).as_posix(), content=content))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    return re.sub(r"\]\(([\w/]+)\.ipynb\)", r"](\1.md)", markdown)
