"""What smelt says to mistakes and to unusual tensors: a table that is tested, and printed as docs/bad-input.md.

`python tests/test_bad_input.py` writes the page anew.
"""
import os
import runpy
import subprocess
import sys
import types
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn  # noqa: F401  named by the texts below

import smelt
from smelt import SmeltWarning, config
from smelt.errors import SmeltError

pytestmark = pytest.mark.filterwarnings("ignore:coroutine.*was never awaited")

PAGE = Path(__file__).parent.parent / "docs" / "bad-input.md"

X = torch.arange(12.0).reshape(4, 3)
W = torch.ones(3, 5)


class Model:
    pass


def f(x):
    return x * 2 + 1


def product(x, w):
    return torch.relu(x @ w) + 1


def called(function=f, *args, **options):
    compiled = smelt.compile(function, **options)
    compiled(*(args or (X,)))
    return compiled


#: A mistake, as the user writes it, and the exception with its message.
MISTAKES = [
    ("smelt.compile(3)", "TypeError: smelt.compile takes a function or a module, not int"),
    ("smelt.compile('f')", "TypeError: smelt.compile takes a function or a module, not str"),
    ("smelt.compile(X)", "TypeError: smelt.compile takes a function or a module, not Tensor"),
    ("smelt.compile()(None)", "TypeError: smelt.compile takes a function or a module, not NoneType"),
    ("smelt.compile([nn.ReLU()])", "TypeError: smelt.compile takes a function or a module, not list"),
    ("smelt.compile(Model)", "TypeError: smelt.compile takes a function or a module, not the class Model"),
    ("smelt.compile(nn.Linear)", "TypeError: smelt.compile takes a function or a module, not the class Linear"),
    ("smelt.compile(f, fulgraph=True)", "TypeError: compile() got an unexpected keyword argument 'fulgraph'"),
    ("smelt.compile(f, True)", "TypeError: compile() takes from 0 to 1 positional arguments but 2 were given"),
    ("smelt.compile(f, fullgraph='yes')", "ValueError: smelt.compile: fullgraph='yes': there is False, True"),
    ("smelt.compile(f, disable='no')", "ValueError: smelt.compile: disable='no': there is False, True"),
    ("smelt.compile(f, backend='inductor')",
     "ValueError: smelt.compile: backend='inductor': there is 'auto', 'c', 'triton', 'eager'"),
    ("smelt.compile(f, mode='fastest')",
     "ValueError: smelt.compile: mode='fastest': there is None, 'default', 'reduce-overhead', 'max-autotune', "
     "'max-autotune-no-cudagraphs'"),
    ("smelt.compile(f, verify='sometimes')",
     "ValueError: smelt.compile: verify='sometimes': there is None, 'first', 'always', 'raise', 'off'"),
    ("smelt.compile(f, rng='quick')", "ValueError: smelt.compile: rng='quick': there is 'torch', 'fast'"),
    ("smelt.compile(f, dynamic='auto')", "ValueError: smelt.compile: dynamic='auto': there is None, True, False"),
    ("smelt.explain(f)", "TypeError: f is not compiled: this takes what smelt.compile gave"),
    ("smelt.show(nn.Linear(3, 4))", "TypeError: Linear is not compiled: this takes what smelt.compile gave"),
    ("smelt.draw(3, 'f.svg')", "TypeError: int is not compiled: this takes what smelt.compile gave"),
    ("smelt.show(smelt.compile(f))", "SmeltError: f has no compiled program: it has not been called yet"),
    ("smelt.draw(smelt.compile(f), 'f.svg')", "SmeltError: f has no compiled program: it has not been called yet"),
    ("smelt.show(called(f), 'optimized')",
     "SmeltError: f has no stage 'optimized'; it has recorded, simplified, forward, c, host"),
    ("smelt.show(called(f), program=1)", "SmeltError: f has 1 program, counted from 0, the newest; there is no program 1"),
    ("smelt.draw(called(f), 'f.jpg')",
     "SmeltError: f.jpg: can't draw that format; give a name that ends in one of svg, png, pdf, dot"),
    ("smelt.draw(called(f), '/no/such/f.dot')", "FileNotFoundError: [Errno 2] No such file or directory: '/no/such/f.dot'"),
    ("smelt.draw(called(f, backend='eager'), 'f.svg')",
     "SmeltError: f was compiled with backend='eager': it has no kernels to draw"),
]

#: A wrong setting, and what is said when smelt is imported (in the environment) or compiles (in the program).
SETTINGS = [
    ("SMELT_ISA=avx1024", "ValueError: SMELT_ISA='avx1024' in the environment: there is auto, avx512, avx2, neon, scalar"),
    ("SMELT_VERIFY=never", "ValueError: SMELT_VERIFY='never' in the environment: there is first, always, raise, off"),
    ("SMELT_DISABLE=yes", "ValueError: SMELT_DISABLE='yes' in the environment: there is 0, 1"),
    ("SMELT_PROGRAM_LIMIT=many", "ValueError: SMELT_PROGRAM_LIMIT='many' in the environment: a whole number is needed, as 16"),
]
ASSIGNMENTS = [
    ("isa", "avx1024", "ValueError: smelt.config.isa = 'avx1024': there is auto, avx512, avx2, neon, scalar"),
    ("verify", "never", "ValueError: smelt.config.verify = 'never': there is first, always, raise, off"),
]


def nested():
    return torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])


def generator(x):
    yield x * 2


async def coroutine(x):
    return x * 2


def made_object(x):
    return ValueError(x)


def quantized():
    return torch.quantize_per_tensor(X, 0.1, 0, torch.qint8)


#: What smelt runs eagerly: what it is, the function, its arguments, and the warning (said once, at the user's line).
EAGER = [
    ("a tensor on the meta device", f, lambda: (X.to("meta"),),
     "f runs eagerly: a tensor that is not dense on the CPU or a GPU (torch.strided, meta, torch.float32)"),
    ("a sparse COO tensor", torch.neg, lambda: (X.to_sparse(),),
     "neg runs eagerly: a tensor that is not dense on the CPU or a GPU (torch.sparse_coo, cpu, torch.float32)"),
    ("a sparse CSR tensor", torch.neg, lambda: (X.to_sparse_csr(),),
     "neg runs eagerly: argument arg0 is a tensor without strides (torch.sparse_csr)"),
    ("a nested tensor", torch.neg, lambda: (nested(),), "neg runs eagerly: argument arg0 is a tensor without strides (nested)"),
    ("a quantized tensor", torch.dequantize, lambda: (quantized(),),
     "dequantize runs eagerly: a tensor that is not dense on the CPU or a GPU (torch.strided, cpu, torch.qint8)"),
    ("a lazily conjugated tensor", torch.neg, lambda: (torch.ones(3, dtype=torch.complex64).conj(),),
     "neg runs eagerly: a tensor whose sign is kept aside (conj)"),
    ("a generator function", generator, lambda: (X,),
     "generator runs eagerly: returns an object of type generator made by the run"),
    ("a coroutine function", coroutine, lambda: (X,),
     "coroutine runs eagerly: returns an object of type coroutine made by the run"),
    ("a function that returns an object it makes, of a class in C", made_object, lambda: (X,),
     "made_object runs eagerly: returns an object of type ValueError made by the run"),
]

#: What is wrong in eager too, after calls that were right: function, arguments of the first calls, wrong arguments.
WRONG_CALLS = [
    ("shapes that do not fit", product, (X, W), (torch.ones(4, 2), W), {}),
    ("dtypes that do not fit", product, (X, W), (X.double(), W), {}),
    ("too few arguments", product, (X, W), (X,), {}),
    ("too many arguments", product, (X, W), (X, W, W), {}),
    ("an unknown keyword", product, (X, W), (X,), {"v": W}),
    ("None instead of a tensor", product, (X, W), (None, W), {}),
    ("a list instead of a tensor", product, (X, W), ([1.0], W), {}),
    ("a NumPy array instead of a tensor", product, (X, W), (X.numpy(), W), {}),
    ("an index out of range", lambda x, i: x[i], (X, torch.tensor([1])), (X, torch.tensor([7])), {}),
    ("a negative index out of range", lambda x, i: x[i], (X, torch.tensor([1])), (X, torch.tensor([-5])), {}),
    ("the maximum of nothing", lambda x: x.max(0), (X,), (X[:0],), {}),
    ("a device that is not there", lambda x, d: x.to(d), (X, "cpu"), (X, "nonsense"), {}),
    ("more memory than there is", f, (X,), (torch.ones(1).expand(2**44),), {}),
    ("writing into an expanded tensor", lambda x: x.add_(1), (X.clone(),), (torch.ones(1, 3).expand(4, 3),), {}),
    ("writing into an overlapping argument", lambda a, b: a.add_(b), (torch.ones(3), torch.ones(3)),
     (lambda base: (base[:3], base[1:]))(torch.ones(4)), {}),
    ("writing into a leaf that requires grad", lambda x: x.add_(1), (torch.ones(3),), (torch.ones(3, requires_grad=True),), {}),
]

#: Unusual tensors that smelt compiles.
UNUSUAL = [
    ("complex numbers", f, (X.to(torch.complex64),)),
    ("a product of complex matrices", torch.matmul, (X.to(torch.complex64), W.to(torch.complex64))),
    ("no elements", f, (X[:0],)),
    ("the sum of no elements", lambda x: f(x).sum(), (X[:0],)),
    ("the mean of no elements", torch.mean, (X[:0],)),
    ("no dimensions", f, (torch.tensor(2.0),)),
    ("24 dimensions", f, (torch.ones((1,) * 20 + (2,) * 4),)),
    ("65 dimensions", lambda x: f(x.reshape((1,) * 64 + (3,))).flatten(), (X[0],)),
    ("NaN, Inf and -0", f, (torch.tensor([float("nan"), float("inf"), -0.0]),)),
    ("a NaN argument", torch.mul, (X, float("nan"))),
    ("a transposed tensor", f, (torch.ones(5, 3).t(),)),
    ("an expanded tensor", f, (torch.ones(1, 3).expand(4, 3),)),
    ("a tensor whose rows overlap", f, (torch.arange(6.0).as_strided((4, 3), (1, 1)),)),
    ("one tensor twice", lambda a, b: a * b + a, (X, X)),
    ("two views of one tensor", torch.mul, (X[:2], X[1:3])),
    ("uint16", lambda x: x.to(torch.int32) + 1, (torch.ones(3, dtype=torch.uint16),)),
    ("float8", lambda x: x.to(torch.float32) * 2, (X.to(torch.float8_e4m3fn),)),
    ("no tensor at all", lambda k: k + 1, (3,)),
]


def said(work) -> str:
    with pytest.raises((TypeError, ValueError, OSError, SmeltError)) as e:
        work()
    return f"{type(e.value).__name__}: {e.value}".split(". Did you mean")[0]  # Python 3.13 adds that


@pytest.mark.parametrize("code, message", MISTAKES, ids=[c for c, _ in MISTAKES])
def test_mistakes(code, message):
    assert said(lambda: eval(code)) == message


@pytest.mark.parametrize("setting, message", SETTINGS, ids=[s for s, _ in SETTINGS])
def test_wrong_environment(setting, message, monkeypatch):
    monkeypatch.setenv(*setting.split("="))
    assert said(lambda: runpy.run_path(config.__file__)) == message


def test_a_wrong_environment_is_told_by_the_import():
    run = subprocess.run([sys.executable, "-c", "import smelt.config"], env={**os.environ, "SMELT_ISA": "foo"},
                         capture_output=True, text=True)
    assert run.returncode == 1 and run.stderr.splitlines()[-1].startswith("ValueError: SMELT_ISA='foo' in the environment")


def test_an_empty_variable_counts_as_unset(monkeypatch):
    for name in ("ISA", "VERIFY", "PROGRAM_LIMIT", "CACHE_DIR", "DISABLE"):
        monkeypatch.setenv(f"SMELT_{name}", "")
    settings = runpy.run_path(config.__file__)
    assert (settings["isa"], settings["verify"], settings["program_limit"], settings["disable"]) == ("auto", "first", 16, False)
    assert settings["cache_dir"].is_absolute()


@pytest.mark.parametrize("name, value, message", ASSIGNMENTS, ids=[a[0] for a in ASSIGNMENTS])
def test_wrong_assignments(name, value, message, monkeypatch):
    monkeypatch.setattr(config, name, value)
    assert said(called) == message


@pytest.mark.parametrize("function, make, message", [c[1:] for c in EAGER], ids=[c[0] for c in EAGER])
@pytest.mark.filterwarnings("ignore:Sparse CSR", "ignore:The PyTorch API of nested", "ignore:torch.quantize")
def test_eager_with_one_warning(function, make, message):
    args = make()
    compiled = smelt.compile(function)
    with pytest.warns(SmeltWarning) as given:
        results = [compiled(*args) for _ in range(3)]
    assert [(str(w.message), w.filename) for w in given if w.category is SmeltWarning] == [(message, __file__)]
    expected = function(*args)
    for r in results:
        assert type(r) is type(expected)
        if isinstance(r, torch.Tensor):
            assert (r.layout, r.dtype, r.device) == (expected.layout, expected.dtype, expected.device)
            assert r.is_meta or torch.equal(dense(r), dense(expected))
    if isinstance(expected, types.CoroutineType):
        for made in (*results, expected):
            made.close()
    with pytest.raises(smelt.Unsupported) as e:
        smelt.compile(function, fullgraph=True)(*args)
    assert message.endswith(f" runs eagerly: {e.value}")


def dense(t):
    if t.is_nested:
        return torch.cat([piece.flatten() for piece in t.unbind()])
    return t.to_dense().resolve_conj() if t.layout is not torch.strided else t


@pytest.mark.filterwarnings("ignore:Sparse CSR", "ignore:The PyTorch API of nested")
@pytest.mark.parametrize("make", [X.to_sparse, X.to_sparse_csr, nested, lambda: X.to("meta"), quantized],
                         ids=["COO", "CSR", "nested", "meta", "quantized"])
def test_unusual_tensors_after_usual_ones(make):
    """The guards of a program for a dense tensor see the difference."""
    compiled = called(torch.clone)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SmeltWarning)
        result = compiled(make())
    expected = make()
    assert (result.layout, result.is_nested) == (expected.layout, expected.is_nested)
    assert (result.dtype, result.device) == (expected.dtype, expected.device)
    assert torch.equal(compiled(X), X)


@pytest.mark.parametrize("function, right, wrong, kwargs", [c[1:] for c in WRONG_CALLS], ids=[c[0] for c in WRONG_CALLS])
def test_wrong_calls_raise_what_eager_raises(function, right, wrong, kwargs):
    compiled = smelt.compile(function)
    for _ in range(2):
        compiled(*right)
    with pytest.raises(Exception) as expected:
        function(*wrong, **kwargs)
    for _ in range(2):
        with pytest.raises(type(expected.value)) as found:
            compiled(*wrong, **kwargs)
        assert type(found.value) is type(expected.value)
    again = compiled(*right)
    torch.testing.assert_close(again, function(*right))


@pytest.mark.parametrize("function, args", [c[1:] for c in UNUSUAL], ids=[c[0] for c in UNUSUAL])
def test_unusual_tensors_are_compiled(function, args):
    compiled = smelt.compile(function, fullgraph=True)
    expected = function(*args)
    for _ in range(3):
        torch.testing.assert_close(compiled(*args), expected, equal_nan=True)
    assert len(compiled.programs) == 1


def page() -> str:
    """The table as Markdown."""
    def rows(head, lines):
        return ["| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *lines)] + [""]

    def code(text):
        return f"`{text}`"
    return "\n".join([
        "# Bad input", "",
        "What smelt says to mistakes and to unusual tensors. `tests/test_bad_input.py` tests each line and writes this page.", "",
        "## Mistakes", "",
        *rows(("call", "error"), [(code(c), code(m)) for c, m in MISTAKES]),
        "`called(f)` is a compiled function that has been called.", "",
        "## Settings", "",
        *rows(("setting", "error"), [(code(s), code(m)) for s, m in SETTINGS]
              + [(code(f"smelt.config.{n} = {v!r}"), code(m)) for n, v, m in ASSIGNMENTS]),
        "## Run eagerly", "",
        "One `SmeltWarning` at the user's line, then what eager gives. With `fullgraph=True` an `Unsupported` error instead.", "",
        *rows(("what", "warning"), [(what, code(m)) for what, _, _, m in EAGER]),
        "## Wrong in eager too", "",
        "The exception has eager's type, also when earlier calls were compiled; the function works on afterwards.", "",
        *(f"* {c[0]}" for c in WRONG_CALLS), "",
        "## Unusual, and compiled", "",
        *(f"* {c[0]}" for c in UNUSUAL), ""])


def test_the_page_is_current():
    assert PAGE.read_text() == page(), "run: python tests/test_bad_input.py"


if __name__ == "__main__":
    PAGE.write_text(page())
