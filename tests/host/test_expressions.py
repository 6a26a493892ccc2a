"""The evaluator of option values agrees with Python on allowed expressions and refuses all others at once."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dioscuri.errors import UserError, quoted, shorten
from dioscuri.hparams.expressions import FUNCTIONS, MAX_BITS, MAX_CHARACTERS, MAX_SIZE, evaluate

ROOT = Path(__file__).parents[2]
HOSTILE = {
    "tower of powers": "9**9**9",
    "long string": "'a' * 10**11",
    "long list": "[1] * 10**9",
    "long list from the left": "10**9 * [1]",
    "long list in steps": "[[[1] * 100] * 100] * 100",
    "nested sharing": "[" * 30 + "1" + "] * 2" * 30,
    "sum of a long range": "sum(range(10**10))",
    "endless range": "list(range(10**30))",
    "membership in a long range": "-1 in range(10**12)",
    "many large comparisons": "[1] * 9999" + " == [1] * 9999" * 600,
    "copies of copies": "list(" * 45 + "range(9999)" + ")" * 45,
    "formatting": "'%1000000000d' % 1",
    "rounding to a million digits": "round(1, -10**6)",
    "integer from a long string": "int('9' * 9000)",
    "integer in another base": "int('f' * 9000, 16)",
    "large literal": "9" * 4000,
    "larger literal": "9" * 9000,
    "shift": "1 << 10**9",
    "complex": "1j",
    "complex by a power": "(-8) ** 0.5",
    "f-string": "f'{1:1000000000d}'",
    "attribute": "().__class__.__bases__",
    "method": "'a'.join([])",
    "comprehension": "[x for x in range(3)]",
    "generator": "sum(x for x in [1])",
    "lambda": "(lambda: 0)()",
    "conditional": "1 if True else 2",
    "index": "[1][0]",
    "set": "{1, 2}",
    "bytes": "b'a' * 3",
    "dots": "...",
    "assignment": "(x := 1)",
    "star": "max(*[1, 2])",
    "double star": "dict(**{'a': 1})",
    "dict in a dict": "{**{'a': 1}}",
    "import": "__import__('os').system('true')",
    "imported at the end": "undefined + __import__('os')",
    "open": "open('/etc/passwd')",
    "eval": "eval('1')",
    "call of a call": "max(1, 2)(3)",
    "sorting key": "max([1], key=len)",
    "await": "await x",
    "yield": "(yield)",
    "deep parentheses": "(" * 3000 + ")" * 3000,
    "deep lists": "[" * 90 + "]" * 90 + "+ 1" * 60,
    "deep minus": "-" * 9000 + "1",
    "deep not": "not " * 2400 + "1",
    "long chain": "1+" * 4900 + "1",
    "long attribute chain": "x.y" * 3000,
    "huge source": "[" + "1," * 10**6 + "]",
    "huge name": "x" * 10**6,
    "null character": "\0",
    "null character in a string": "'\0'",
    "lone surrogate": "'\ud800'",
}

_CHILD = """
import json, resource, sys
from dioscuri.errors import UserError
from dioscuri.hparams.expressions import evaluate
resource.setrlimit(resource.RLIMIT_CPU, (200, 200))
resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
for name, text in json.load(sys.stdin).items():
    try:
        outcome = ["given", repr(evaluate(text, "f.cfg: [a] b"))[:200]]
    except UserError as error:
        outcome = ["refused", str(error)]
    print(json.dumps([name, outcome]), flush=True)
"""


@pytest.fixture(scope="module")
def outcomes():
    """The result of each hostile expression in a process with limited time and memory."""
    child = subprocess.run(
        [sys.executable, "-c", _CHILD], input=json.dumps(HOSTILE), capture_output=True, text=True, cwd=ROOT,
        timeout=600, check=False,
    )  # fmt: skip
    return dict(json.loads(line) for line in child.stdout.splitlines())


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_expression_is_refused_in_bounded_time_and_memory(outcomes, name):
    assert name in outcomes, "the process ended here"
    kind, message = outcomes[name]
    assert kind == "refused", message
    assert message.startswith("f.cfg: [a] b = ")
    assert len(message) < 400
    assert message.isprintable()


numbers_as_text = st.one_of(
    st.integers(-50, 50).map(str),
    st.floats(-100, 100, allow_nan=False).map(repr),
    st.sampled_from(["True", "False", "1e-4", "8.", "0x10", "1_000"]),
)


def _combined(inner):
    """Larger expressions made of smaller ones in parentheses."""
    pair = st.tuples(inner, inner)
    several = st.lists(inner, min_size=1, max_size=4).map(", ".join)
    operators = st.sampled_from(["+", "-", "*", "/", "//", "%"])
    comparisons = st.sampled_from(["==", "!=", "<", "<=", ">", ">="])
    return st.one_of(
        st.tuples(inner, operators, inner).map(lambda t: f"({t[0]}) {t[1]} ({t[2]})"),
        st.tuples(inner, operators, inner, operators, inner).map(" ".join),
        st.tuples(inner, comparisons, inner, comparisons, inner).map(lambda t: f"({' '.join(t)})"),
        st.tuples(inner, st.integers(-3, 4)).map(lambda t: f"({t[0]}) ** {t[1]}"),
        inner.map(lambda x: f"-({x})"),
        inner.map(lambda x: f"(not {x})"),
        inner.map(lambda x: f"int({x})"),
        inner.map(lambda x: f"float({x})"),
        inner.map(lambda x: f"abs({x})"),
        st.tuples(inner, st.integers(-2, 3)).map(lambda t: f"round({t[0]}, {t[1]})"),
        several.map(lambda x: f"max({x}, 3)"),
        several.map(lambda x: f"min([{x}])"),
        several.map(lambda x: f"sum([{x}])"),
        several.map(lambda x: f"sum(({x},), 2)"),
        several.map(lambda x: f"len([{x}])"),
        pair.map(lambda t: f"(({t[0]}) in [{t[1]}, 1])"),
    )


numbers = st.recursive(numbers_as_text, _combined, max_leaves=6)
sequences = st.recursive(
    st.one_of(
        st.lists(numbers, max_size=3).map(lambda items: f"[{', '.join(items)}]"),
        st.lists(numbers, max_size=3).map(lambda items: f"({', '.join([*items, ''])})" if items else "()"),
        st.tuples(st.integers(-5, 9), st.integers(-5, 9), st.sampled_from([1, 2, -1])).map(
            lambda t: f"list(range{t})"
        ),
        st.text("ab c'\"\\\n", max_size=3).map(repr),
    ),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(" + ".join),
        st.tuples(inner, st.integers(-1, 4)).map(lambda t: f"({t[0]}) * {t[1]}"),
        st.tuples(st.integers(-1, 4), inner).map(lambda t: f"{t[0]} * ({t[1]})"),
        st.lists(inner, max_size=2).map(lambda items: f"[{', '.join(items)}]"),
        inner.map(lambda x: f"len({x})"),
        inner.map(lambda x: f"list({x})"),
        st.tuples(inner, inner).map(lambda t: f"{{'a': {t[0]}, 'b': {t[1]}}}"),
        inner.map(lambda x: f"dict(a={x})"),
    ),
    max_leaves=5,
)


def outcome(text):
    """(value, None), or (None, message) if it is refused."""
    try:
        return evaluate(text, "here"), None
    except UserError as error:
        return None, str(error)


def python_gives(text):
    """(True, value), or (False, None) if Python raises or the value is complex or a long integer."""
    try:
        value = eval(text, {"__builtins__": {}}, dict(FUNCTIONS))
    except Exception:
        return False, None
    if isinstance(value, complex) or (isinstance(value, int) and value.bit_length() > MAX_BITS):
        return False, None
    return True, value


@settings(max_examples=400)
@given(st.one_of(numbers, sequences))
def test_agrees_with_python(text):
    python_has_a_value, expected = python_gives(text)
    got, refusal = outcome(text)
    if refusal is None:
        assert python_has_a_value
        assert type(got) is type(expected)
        assert repr(got) == repr(expected)
    elif not re.search("complex|bits", refusal):
        assert not python_has_a_value, f"{text} is {expected!r}, but {refusal}"


@settings(max_examples=300)
@given(st.one_of(st.text(max_size=60), st.text("[](){}0123456789+-*/%'\",.:=<> abne\n#", max_size=60)))
def test_any_text_gives_a_value_or_one_clear_line(text):
    _, refusal = outcome(text)
    assert refusal is None or (refusal.startswith("here = ") and refusal.isprintable())


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8.", 8.0),
        ("1e-4", 1e-4),
        ("32 * 2", 64),
        ("[1] * 4 + [2]", [1, 1, 1, 1, 2]),
        ("(1, 1)", (1, 1)),
        ("[0.8, ('linear', 0.7, 0.9)]", [0.8, ("linear", 0.7, 0.9)]),
        ("max(3, 7)", 7),
        ("1/2", 0.5),
        ("-250.", -250.0),
        ("3 # trailing", 3),
        ("[1,\n2]", [1, 2]),
        ("\n[1]", [1]),
        ("dict(a=1)", {"a": 1}),
        ("dict([(1, 2)], b=3)", {1: 2, "b": 3}),
        ("{'a': {1: (2,)}}", {"a": {1: (2,)}}),
        ("'a' 'b'", "ab"),
        ("1 < 2 < 3", True),
        ("2 not in (1, 2)", False),
        ("1 ** 10**9", 1),
        ("None", None),
        (f"len('a' * {MAX_SIZE})", MAX_SIZE),
        (f"2 ** {MAX_BITS - 1} - 1", 2 ** (MAX_BITS - 1) - 1),
    ],
)
def test_value(text, value):
    got = evaluate(text, "here")
    assert (type(got), got) == (type(value), value)


@pytest.mark.parametrize("text", ["cosine", "yes", "foo + 1", "[foo, 1]", "datasets/x", "max", "self", "a-b"])
def test_a_text_that_needs_an_undefined_name_stays_text(text):
    assert evaluate(text, "here") == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "it is empty"),
        ("foo bar", "put quotes around text"),
        ("1 +", "it is no expression"),
        ("1 / 0", "division by zero"),
        ("1 + 'a'", "unsupported operand"),
        ("float('x')", "could not convert"),
        ("{[1]: 2}", "unhashable"),
        ("print(1)", "only these can be called: min, max"),
        ("1e400 - 10.**400", "out of range"),
        ("sum([[1], [2]], [])", "numbers only"),
        ("f'{1}'", "an f-string is not allowed"),
        ("1" + "+1" * MAX_CHARACTERS, "characters"),
        (f"'a' * {MAX_SIZE} + 'b'", f"more than {MAX_SIZE}"),
        (f"2 ** {MAX_BITS}", f"more than {MAX_BITS} bits"),
    ],
)
def test_the_reason_is_given(text, reason):
    assert reason in outcome(text)[1]


def test_only_syntax_that_is_listed_is_allowed():
    """Nine of Python's kinds of expressions are allowed."""
    from dioscuri.hparams import expressions

    kinds = {kind for kind in vars(ast).values() if isinstance(kind, type) and issubclass(kind, ast.expr)}
    dangerous = {
        ast.Attribute,
        ast.Lambda,
        ast.ListComp,
        ast.GeneratorExp,
        ast.NamedExpr,
        ast.Await,
        ast.Yield,
    }
    assert dangerous <= kinds
    assert len(kinds & expressions._ALLOWED) == 9


def test_shorten_keeps_to_one_line():
    assert shorten("a\nb") == r"'a\nb'"
    assert shorten("x" * 200) == "x" * 77 + "..."
    assert shorten([1, 2]) == "[1, 2]"
    assert shorten("") == "''"
    assert quoted([[1, 2]]) == "[[1, 2]]"
    table = quoted(np.ones((99, 99)))
    assert table.startswith("array([[1., 1.,")
    assert len(table) == 80
    assert table.isprintable()
