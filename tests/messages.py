"""What the code can say when something is wrong, read from its source: errors, faults, warnings, reasons of lost rows.

A message is a template: what is only known when it is said is an ellipsis, as in ``… is missing: run the step that
writes it``. Backticks are left out, so that it can stand in a code span.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("dags", "include/models", "plugins")
PROGRAMS = ("tools/demo.py", "tools/local_airflow.py")
SCRIPTS = ("bin", "docker")
GAP = "…"
ERRORS = {  # subclasses that the code defines are added
    "LaionPeopleError",
    "ModelError",
    "AirflowException",
    "AirflowFailException",
    "AirflowSkipException",
    "AirflowTaskTimeout",
    "ArgumentTypeError",
    "HTTPException",
}
REASONS = ("FetchError", "ImageError", "reading")  # whose first argument is the reason that a lost row is counted under
FAULTS = re.compile(r"_?(how_to_get|.*(fault|damage|outdated|outlier)s?)")  # functions, variables that hold sentences
STEP_OF = {  # of modules that are no step's
    "funnel": "mesh",  # people without a mesh are counted when the funnel is shown
    "images": "detect",
    "tars": "detect",
}


@dataclass(frozen=True, order=True)
class Said:
    """``text`` as the code at ``place`` (file:line) can say it; of a reason, ``step`` counts rows under it."""

    text: str
    place: str
    step: str = ""


def collect() -> tuple[list[Said], list[Said]]:
    """The messages and the reasons of the whole code, in the order of their files."""
    paths = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    paths += [ROOT / path for path in PROGRAMS]
    scripts = [
        path for folder in SCRIPTS for path in sorted((ROOT / folder).iterdir()) if path.is_file() and not path.suffix
    ]
    modules = [Module(path) for path in [*paths, *(p for p in scripts if "python" in _first_line(p))]]
    constants = {name: value for module in modules for name, value in module.constants.items()}
    errors = set(ERRORS)
    while more := {c for m in modules for c, bases in m.classes.items() if bases & errors} - errors:
        errors |= more
    messages = [said for module in modules for said in module.messages(errors, constants)]
    messages += [said for path in scripts if "bash" in _first_line(path) for said in _of_shell(path)]
    return messages, [said for module in modules for said in module.reasons()]


class Module:
    """The source of one module."""

    def __init__(self, path: Path):
        self.path = path
        self.tree = ast.parse(path.read_text())
        self.classes = {c.name: {_name(b) for b in c.bases} for c in ast.walk(self.tree) if isinstance(c, ast.ClassDef)}
        assigned = [(_name(s.targets[0]), s.value) for s in self.tree.body if isinstance(s, ast.Assign)]
        self.constants: dict[str, ast.expr] = {
            name: value
            for name, value in assigned
            if name.isupper() and isinstance(value, ast.Constant | ast.JoinedStr)
        }

    @cached_property
    def _scopes(self) -> list[tuple[str, list[ast.AST]]]:
        """The functions by name, and the module itself, each with the nodes that are its own."""
        functions = [f for f in ast.walk(self.tree) if isinstance(f, ast.FunctionDef | ast.AsyncFunctionDef)]
        inner = [(f.name, list(ast.walk(f))) for f in functions]
        in_functions = {id(node) for _, nodes in inner for node in nodes}
        return [*inner, ("", [node for node in ast.walk(self.tree) if id(node) not in in_functions])]

    def messages(self, errors: set[str], constants: dict[str, ast.expr]) -> Iterator[Said]:
        """What is given to an error, and what functions and variables that are named after faults hold."""
        found = set()
        for name, nodes in self._scopes:
            names = constants | self.constants | _assigned(nodes)
            for node in nodes:
                for text in self._texts(name, node, names, errors):
                    text = re.sub(rf"{GAP}({GAP})+", GAP, " ".join(text.replace("`", "").split()))
                    if re.search(r"[^\W\d_]{2}", text):  # else only what another place has said is handed on
                        found.add(Said(text, self._place(node)))
        yield from sorted(found, key=lambda said: (int(said.place.rpartition(":")[2]), said.text))

    def _texts(self, scope: str, node: ast.AST, names: dict[str, ast.expr], errors: set[str]) -> list[str]:
        match node:
            case ast.Call(func=func, args=[*arguments], keywords=[*keywords]) if self._makes(func, names, errors):
                details = [keyword.value for keyword in keywords if keyword.arg == "detail"]
                return [text for value in details or arguments[-1:] for text in self._templates(value, names)]
            case ast.Call(func=ast.Attribute(attr="warning" | "error"), args=[ast.Constant(value=str() as text), *_]):
                return [re.sub(r"%[-+.0-9]*[a-z]", GAP, text)]
            case ast.Return(value=ast.expr() as value) | ast.Yield(value=ast.expr() as value):
                return self._sentences(value, names) if FAULTS.fullmatch(scope) else []
            case ast.AugAssign(target=target, value=value) | ast.Assign(targets=[target], value=value):
                return self._sentences(value, names) if FAULTS.fullmatch(_name(target)) else []
        return []

    def _makes(self, func: ast.expr, names: dict[str, ast.expr], errors: set[str]) -> bool:
        """Whether calling this makes an error whose message is a sentence."""
        if isinstance(func, ast.IfExp):
            return self._makes(func.body, names, errors)
        if _name(func) in names and isinstance(names[_name(func)], ast.IfExp):
            return self._makes(names[_name(func)], names, errors)
        return _name(func) in errors

    def _sentences(self, value: ast.expr, names: dict[str, ast.expr]) -> list[str]:
        """The texts of a value that is a text, or holds some."""
        match value:
            case ast.List(elts=inner) | ast.Tuple(elts=inner):
                pass
            case ast.ListComp(elt=inner_value) | ast.DictComp(value=inner_value):
                inner = [inner_value]
            case _:
                inner = [value]
        return [t for v in inner for t in self._templates(v, names) if " " in t]  # a sentence, no name of a step

    def _templates(self, value: ast.expr, names: dict[str, ast.expr], depth: int = 0) -> list[str]:
        """The texts that an expression can be; a part that cannot be told is a gap."""
        match value:
            case ast.Constant(value=str() as text):
                return [text]
            case ast.JoinedStr(values=parts) if depth < 9:
                texts = [""]
                for part in parts:
                    inner = part.value if isinstance(part, ast.FormattedValue) else part
                    texts = [text + more for text in texts for more in self._templates(inner, names, depth + 1)]
                return texts
            case ast.BinOp(left=left, op=ast.Add(), right=right) if depth < 9:
                ends = self._templates(right, names, depth + 1)
                return [a + b for a in self._templates(left, names, depth + 1) for b in ends]
            case ast.IfExp(body=body, orelse=orelse) if depth < 9:
                return self._templates(body, names, depth + 1) + self._templates(orelse, names, depth + 1)
            case ast.BoolOp(values=values) if depth < 9:
                return [t for v in values for t in self._templates(v, names, depth + 1)]
            case ast.Name(id=name) if name in names and depth < 9:
                return self._templates(names[name], names, depth + 1)
        return [GAP]

    def reasons(self) -> Iterator[Said]:
        """What rows are counted under when they are lost."""
        folder, stem = self.path.parent.name, self.path.stem
        step = STEP_OF.get(stem, stem if folder == "steps" else folder)
        found: dict[str, Said] = {}
        for node in ast.walk(self.tree):
            for value in self._counted(node):
                for text in self._templates(value, self.constants):
                    if re.search("[a-z]", text):
                        found.setdefault(text, Said(text, self._place(node), step))
        yield from found.values()

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
            case ast.Assign(
                targets=[ast.Name(id="PASSING" | "LASTING" | "UNUSABLE" | "SAMPLE_REASONS")],
                value=ast.Dict(keys=[*keys]),
            ):
                return [key for key in keys if key]
        return []

    def _place(self, node: ast.AST) -> str:
        return f"{self.path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}"


def _of_shell(path: Path) -> Iterator[Said]:
    """What a script says before it ends with an error."""
    for number, line in enumerate(path.read_text().splitlines(), 1):
        for text in re.findall(r'echo "([^"]+)" >&2; exit', line):
            yield Said(re.sub(r"\$(\w+|\{[^}]*\})", GAP, text), f"{path.relative_to(ROOT)}:{number}")


def _first_line(path: Path) -> str:
    return path.read_text().partition("\n")[0]


def _assigned(nodes: list[ast.AST]) -> dict[str, ast.expr]:
    """The local variables of a scope that are given a value once."""
    simple = [n for n in nodes if isinstance(n, ast.Assign) and isinstance(n.targets[0], ast.Name)]
    names = [_name(n.targets[0]) for n in simple]
    return {_name(n.targets[0]): n.value for n in simple if names.count(_name(n.targets[0])) == 1}


def _name(node: ast.AST) -> str:
    return getattr(node, "id", getattr(node, "attr", ""))
