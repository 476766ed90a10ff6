"""The rules of the house: who may import whom, and that nothing private of torch is used outside its one file."""
import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALLOWED = {
    "errors": set(), "config": set(),
    "compiler": {"compiler", "errors", "config"},
    "runtime": {"runtime", "errors", "config"},
    "frontend": {"frontend", "compiler", "errors", "config"},
    "codegen": {"codegen", "compiler", "runtime", "errors", "config"},
}
ROOMS = {"compiler", "frontend", "codegen", "runtime", "tools", "errors", "config", "pipeline"}


def modules():
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[0] in ALLOWED:
            yield parts


def imported_rooms(parts):
    """Rooms of smelt that a module imports anywhere, function bodies included."""
    package = parts[:-1]
    tree = ast.parse((ROOT.joinpath(*parts)).with_suffix(".py").read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - (node.level - 1)]
            path = (*base, *filter(None, (node.module or "").split(".")))
            names = path[:1] or [a.name for a in node.names]
            yield from (n for n in names if n)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "smelt":
            yield ((node.module or "").split(".") + ["the root package"])[1]
        elif isinstance(node, ast.Import):
            for a in node.names:
                assert a.name.split(".")[0] not in ROOMS - {"errors", "config"}, f"{'/'.join(parts)} imports {a.name} absolutely"


@pytest.mark.parametrize("parts", list(modules()), ids="/".join)
def test_a_room_imports_only_what_it_may(parts):
    wrong = set(imported_rooms(parts)) - ALLOWED[parts[0]]
    assert not wrong, f"{'/'.join(parts)} imports {', '.join(sorted(wrong))}"


def test_the_folders_of_the_frontend_stand_in_order():
    """Each imports those before it, and the modules beside them that import none."""
    order = ["symbolic", "guard", "observe", "record", "run"]
    for path in (ROOT / "frontend").rglob("*.py"):
        parts = path.relative_to(ROOT / "frontend").parts
        place = order.index(parts[0]) if len(parts) > 1 else len(order) * (parts[0] in ("api.py", "__init__.py"))
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level == len(parts) and node.module:
                found = node.module.split(".")[0]
                typing = parts[-1] == "readings.py" and found == "observe"  # an annotation
                assert typing or found not in order or order.index(found) < place, f"{'/'.join(parts)} imports {node.module}"


def test_the_runtime_knows_no_ir_and_codegen_knows_only_its_data():
    for path in (ROOT / "codegen").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and "runtime" in node.module.split("."):
                assert node.module.split(".")[-1] == "program", f"{path.name} imports {node.module}"


def test_private_torch_is_named_in_one_file():
    found = []
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).parts
        if parts[0] in ("tests", "benchmarks", "examples", ".venv", "build") or path.name == "torch_internals.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            private = isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.endswith("__")
            if private and isinstance(node.value, ast.Attribute | ast.Name):
                text = ast.unparse(node)
                if text.startswith("torch._") or text.startswith("torch.") and not text.startswith("torch.ops.") and "._" in text:
                    found.append(f"{'/'.join(parts)}:{node.lineno} {text}")
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("torch") and "._" in node.module:
                found.append(f"{'/'.join(parts)}:{node.lineno} {node.module}")
    assert not found, found
