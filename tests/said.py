"""What the code can say when something is wrong, read from its source: codes of errors, reasons of lost rows."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("dags", "include/models", "plugins", "tools")
SCRIPTS = ("bin", "docker")
CODED = {"CodedError", "coded", "_warn"}  # whose first argument is a code; subclasses are added
OF_OTHERS = {  # errors of libraries, whose text ends with the code
    "AirflowException",
    "AirflowFailException",
    "AirflowSkipException",
    "AirflowTaskTimeout",
    "ArgumentTypeError",
    "HTTPException",
}
REASONS = ("FetchError", "ImageError", "reading")  # whose first argument is the reason that a lost row is counted under
STEP_OF = {  # of modules that are no step's
    "removals": "",  # of every step
    "funnel": "mesh",  # people without a mesh are counted when the funnel is shown
    "images": "detect",
    "tars": "detect",
}


@dataclass(frozen=True, order=True)
class Said:
    """A code, or a reason that ``step`` counts rows under, as the code at ``place`` (file:line) says it.

    An empty ``text`` is that of an error without a code.
    """

    text: str
    place: str
    step: str = ""


def codes() -> list[Said]:
    """The codes of the whole source, in the order of its files."""
    modules = [*map(Module, _paths())]
    coded = set(CODED)
    while more := {c for m in modules for c, bases in m.classes.items() if bases & coded} - coded:
        coded |= more
    return [said for module in modules for said in module.codes(coded)] + [*_of_shell()]


def reasons() -> list[Said]:
    """What rows are counted under when they are lost, in the order of the source's files."""
    return [said for path in _paths() for said in Module(path).reasons()]


class Module:
    """The source of one module."""

    def __init__(self, path: Path):
        self.path = path
        self.nodes = list(ast.walk(ast.parse(path.read_text())))
        self.classes = {c.name: {_name(b) for b in c.bases} for c in self.nodes if isinstance(c, ast.ClassDef)}

    def codes(self, coded: set[str]) -> Iterator[Said]:
        for call in (node for node in self.nodes if isinstance(node, ast.Call)):
            branches = [call.func.body, call.func.orelse] if isinstance(call.func, ast.IfExp) else [call.func]
            names = set(map(_name, branches))
            if names & coded and call.args:
                yield from (Said(code, self._place(call)) for code in _given(call.args[0]))
            elif names & OF_OTHERS and call.args:
                parts = list(ast.walk(call.args[-1]))
                if any(isinstance(n, ast.Constant) and isinstance(n.value, str) for n in parts) and not any(
                    isinstance(n, ast.Call) and _name(n.func) == "coded" for n in parts
                ):
                    yield Said("", self._place(call))

    def reasons(self) -> Iterator[Said]:
        folder, stem = self.path.parent.name, self.path.stem
        step = STEP_OF.get(stem, stem if folder == "steps" else folder)
        messages: dict[str, Said] = {}
        for node in self.nodes:
            for value in self._counted(node):
                for text in _reasons(value):
                    if re.search("[a-z]", text):
                        messages.setdefault(text, Said(text, self._place(node), step))
        yield from messages.values()

    def _counted(self, node: ast.AST) -> list[ast.expr]:
        named = self.path.stem in ("composer", "cutouts")  # elsewhere what is selected are facts about people
        match node:
            case ast.Call(func=ast.Attribute(attr="reject"), args=[reason, *_]):
                return [reason]
            case ast.Call(func=ast.Name(id=name), args=[reason, *_]) if name in REASONS:
                return [reason]
            case ast.Call(func=ast.Attribute(attr="select"), args=[_, ast.List(elts=reasons), *other]) if named:
                return [*reasons, *other]
            case ast.Call(func=ast.Name(id="Stage"), args=[*_, ast.IfExp(body=ast.Dict(keys=[*keys]))]):
                return [key for key in keys if key]
            case ast.AugAssign(target=ast.Attribute(attr="rejected"), value=ast.Call(keywords=counts)):
                return [ast.Constant(count.arg) for count in counts]
            case ast.Assign(targets=[ast.Name(id="REMOVED")], value=ast.Constant() as reason):
                return [reason]
            case ast.Assign(
                targets=[ast.Name(id="PASSING" | "LASTING" | "UNUSABLE" | "SAMPLE_REASONS")],
                value=ast.Dict(keys=[*keys]),
            ):
                return [key for key in keys if key]
        return []

    def _place(self, node: ast.AST) -> str:
        return f"{self.path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}"


def _given(value: ast.expr) -> list[str]:
    """The codes that the first argument of an error can be; none of one that hands on another's, [""] of no code."""
    match value:
        case ast.Constant(value=str() as code) if re.fullmatch(r"[a-z]+(-[a-z]+)*", code):
            return [code]
        case ast.IfExp(body=body, orelse=orelse):
            return _given(body) + _given(orelse)
        case ast.Attribute(attr="code") | ast.Name(id="code"):
            return []
    return [""]


def _reasons(value: ast.expr) -> list[str]:
    """The reasons that an expression can be; a part that cannot be told is an ellipsis."""
    match value:
        case ast.Constant(value=str() as text):
            return [text]
        case ast.JoinedStr(values=parts):
            return ["".join(part.value if isinstance(part, ast.Constant) else "…" for part in parts)]
        case ast.IfExp(body=body, orelse=orelse):
            return _reasons(body) + _reasons(orelse)
        case ast.BoolOp(values=values):
            return [text for part in values for text in _reasons(part)]
    return []


def _of_shell() -> Iterator[Said]:
    """The codes of what scripts say before they end with an error."""
    for path in _scripts("bash"):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            for text in re.findall(r'echo "([^"]+)" >&2; exit', line):
                code = re.search(r" \[([a-z-]+)\]$", text)
                yield Said(code[1] if code else "", f"{path.relative_to(ROOT)}:{number}")


def _paths() -> list[Path]:
    return [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))] + _scripts("python")


def _scripts(language: str) -> list[Path]:
    files = [path for folder in SCRIPTS for path in sorted((ROOT / folder).iterdir()) if path.is_file()]
    return [path for path in files if not path.suffix and language in path.read_text().partition("\n")[0]]


def _name(node: ast.AST) -> str:
    return getattr(node, "id", getattr(node, "attr", ""))
