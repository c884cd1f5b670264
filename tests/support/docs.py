"""The Python examples of the README and of docs/, as modules.

Every block fenced as `python` is one, also within a list. A comment on the line before it may name it, for the tests,
and say what it continues: `<!-- continues -->` the block before, `<!-- example: csrf, continues api_key -->` another
one by name.
One that is a file, `<!-- file: shop.py -->`, is written to the current folder before it runs.
"""

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
TEXTS = [*DOCUMENTS, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]

_BLOCK = re.compile(
    r"^(?P<indent> *)(?:<!-- (?:example: (?P<name>\w+)|file: (?P<file>[\w.]+))?(?:, )?"
    r"(?P<continues>continues(?: (?P<what>\w+))?)? -->\n(?P=indent))?"
    r"```python\n(?P<code>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Example:
    document: Path
    line: int
    name: str | None
    code: str
    continues: "Example | None"
    file: str | None = None

    def __str__(self) -> str:
        return f"{self.document.relative_to(ROOT)}:{self.line}"

    def run(self) -> ModuleType:
        """Run it, after what it continues, and return the module that a reader would have."""
        module = self.continues.run() if self.continues else ModuleType("example")
        if self.file:
            Path(self.file).write_text(self.code)
        # The empty lines make tracebacks point into the document.
        code = compile("\n" * (self.line - 1) + self.code, self.document, "exec")
        exec(code, vars(module))
        return module


def examples(document: Path) -> list[Example]:
    found: list[Example] = []
    text = document.read_text()
    for block in _BLOCK.finditer(text):
        before = None
        if block["what"]:
            before = next(example for example in found if example.name == block["what"])
        elif block["continues"]:
            before = found[-1]
        line = text.count("\n", 0, block.start("code")) + 1
        code = textwrap.dedent(block["code"])
        found.append(Example(document, line, block["name"], code, before, block["file"]))
    return found


def fences(document: Path) -> int:
    """Return how many blocks of Python there are, however they are written."""
    return len(re.findall(r"^[ >]*[`~]{3,} *py", document.read_text(), re.MULTILINE | re.IGNORECASE))


def headings(document: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def example(document: str, name: str) -> ModuleType:
    """Run the example of this name."""
    (named,) = [example for example in examples(ROOT / document) if example.name == name]
    return named.run()


def fenced(document: str, language: str) -> list[str]:
    """Return the blocks of a document in one language, as they are pasted."""
    blocks = re.findall(
        rf"^(?P<indent> *)```{language}\n(?P<code>.*?)^(?P=indent)```$",
        (ROOT / document).read_text(),
        re.MULTILINE | re.DOTALL,
    )
    return [textwrap.dedent(code) for _, code in blocks]
