"""Values of options: a subset of Python's expressions, evaluated without `eval` in bounded time.

Allowed are numbers, strings, True, False and None, lists, tuples and dicts, `+ - * / // % **`, `not`,
comparisons, and calls of the functions in `FUNCTIONS`. Results are those of Python, except that an expression
with an undefined name is text: `cosine` means 'cosine'.
"""

import ast
import operator
import warnings
from collections.abc import Callable, Iterable
from typing import Any

from dioscuri.errors import UserError, shorten

MAX_CHARACTERS = 10_000
MAX_NODES = 5_000
MAX_DEPTH = 100
MAX_SIZE = 10_000
"""Maximum number of values in a list, including nested ones, or of characters in a string."""
MAX_WORK = 100_000
"""Maximum total size of all intermediate values."""
MAX_BITS = 256
"""Maximum size of an integer."""
MAX_DIGITS = 100
"""Maximum number of digits of `round`."""

FUNCTIONS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (min, max, abs, round, int, float, len, sum, range, list, dict)
}
_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
    ast.Not: operator.not_,
}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
}
_ATOMS = frozenset({int, float, bool, type(None)})
_STRUCTURE = (
    ast.Expression,
    ast.Constant,
    ast.List,
    ast.Tuple,
    ast.Dict,
    ast.UnaryOp,
    ast.BinOp,
    ast.Compare,
    ast.Call,
    ast.keyword,
    ast.Name,
    ast.Load,
)
_ALLOWED = frozenset({*_STRUCTURE, *_BINARY, *_UNARY, *_COMPARE})
_IN_WORDS = {
    ast.Attribute: "attribute access",
    ast.Subscript: "indexing",
    ast.Lambda: "a lambda",
    ast.Set: "a set",
    ast.Is: "'is'",
    ast.IsNot: "'is'",
    ast.JoinedStr: "an f-string",
    ast.ListComp: "a comprehension",
    ast.SetComp: "a comprehension",
    ast.DictComp: "a comprehension",
    ast.GeneratorExp: "a comprehension",
    ast.LShift: "a shift",
    ast.RShift: "a shift",
    ast.IfExp: "a conditional",
    ast.NamedExpr: "an assignment",
    ast.Starred: "a star",
}


class ExpressionError(ValueError):
    """The text is not an allowed expression; the message says why."""


class _UndefinedName(Exception):
    """Python would raise `NameError` here."""


def evaluate(text: str, where: str) -> Any:
    """Return the value of an option's text. A `UserError` says `where` and what is wrong."""
    try:
        return _Evaluation().value(_parse(text))
    except _UndefinedName:
        return text
    except ExpressionError as error:
        raise UserError(f"{where} = {shorten(text)}: {error}") from None


def _parse(text: str) -> ast.expr:
    """Parse, and refuse anything that is not allowed before evaluation."""
    if len(text) > MAX_CHARACTERS:
        raise ExpressionError(f"it has {len(text)} characters; at most {MAX_CHARACTERS} are read")
    if not text.strip():
        raise ExpressionError("it is empty; write a value, '' for empty text")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text, mode="eval")
    except (RecursionError, MemoryError):
        raise ExpressionError(f"it is nested more than {MAX_DEPTH} deep") from None
    except (SyntaxError, ValueError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else str(error)
        raise ExpressionError(f"it is no expression ({reason}); put quotes around text") from None
    _check(tree)
    return tree.body


def _check(tree: ast.AST) -> None:
    """Check the kinds, number and depth of the nodes, without recursion."""
    stack, n_nodes = [(tree, 0)], 0
    while stack:
        node, depth = stack.pop()
        n_nodes += 1
        if type(node) not in _ALLOWED:
            kind = _IN_WORDS.get(type(node), f"'{type(node).__name__}'")
            raise ExpressionError(f"{kind} is not allowed; put quotes around text")
        if depth > MAX_DEPTH:
            raise ExpressionError(f"it is nested more than {MAX_DEPTH} deep")
        if n_nodes > MAX_NODES:
            raise ExpressionError(f"it has more than {MAX_NODES} parts")
        if isinstance(node, ast.Call):
            _check_call(node)
        stack.extend((child, depth + 1) for child in ast.iter_child_nodes(node))


def _check_call(node: ast.Call) -> None:
    name = node.func.id if isinstance(node.func, ast.Name) else ""
    if name not in FUNCTIONS:
        raise ExpressionError(f"only these can be called: {', '.join(FUNCTIONS)}; put quotes around text")
    if any(keyword.arg is None or name != "dict" for keyword in node.keywords):
        raise ExpressionError(f"{name} takes no such argument here")


class _Evaluation:
    """Evaluates a checked tree and adds up the sizes of all values on the way."""

    def __init__(self) -> None:
        self.work = 0

    def value(self, node: ast.expr) -> Any:
        try:
            return self._account(self._evaluate(node))
        except (TypeError, ValueError, ArithmeticError, RecursionError, MemoryError) as error:
            if isinstance(error, ExpressionError):
                raise
            raise ExpressionError(shorten(str(error) or type(error).__name__)) from None

    def _evaluate(self, node: ast.expr) -> Any:
        match node:
            case ast.Constant():
                return node.value
            case ast.Name():
                raise _UndefinedName
            case ast.List():
                return self._all(node.elts)
            case ast.Tuple():
                return tuple(self._all(node.elts))
            case ast.Dict():
                return self._dict(node)
            case ast.UnaryOp():
                return _UNARY[type(node.op)](self.value(node.operand))
            case ast.BinOp():
                return _binary(node.op, self.value(node.left), self.value(node.right))
            case ast.Compare():
                return self._compare(node)
            case ast.Call(func=ast.Name(id=name)):
                keywords = {keyword.arg: self.value(keyword.value) for keyword in node.keywords}
                return _call(name, self._all(node.args), keywords)
        raise ExpressionError("it is not allowed")

    def _all(self, nodes: Iterable[ast.expr]) -> list[Any]:
        values, size = [], 0
        for node in nodes:
            values.append(self.value(node))
            size += _size(values[-1])
            _check_size(size)
        return values

    def _dict(self, node: ast.Dict) -> dict[Any, Any]:
        keys = [key for key in node.keys if key is not None]
        if len(keys) < len(node.keys):
            raise ExpressionError("a star is not allowed")
        return dict(zip(self._all(keys), self._all(node.values), strict=True))

    def _compare(self, node: ast.Compare) -> bool:
        left = self.value(node.left)
        for kind, following in zip(node.ops, node.comparators, strict=True):
            right = self.value(following)
            if not _COMPARE[type(kind)](left, right):
                return False
            left = right
        return True

    def _account(self, value: Any) -> Any:
        """Refuse a value of an unknown type or beyond the limits."""
        if not isinstance(value, int | float | str | list | tuple | dict | range | None):
            raise ExpressionError(f"a value of type {type(value).__name__} is not allowed")
        if isinstance(value, int) and value.bit_length() > MAX_BITS:
            raise ExpressionError(f"an integer has more than {MAX_BITS} bits")
        size = _size(value)
        _check_size(size)
        self.work += size
        if self.work > MAX_WORK:
            raise ExpressionError(f"it makes more than {MAX_WORK} values on its way")
        return value


def _size(value: Any) -> int:
    """Number of values in a value, including itself; counting stops soon after `MAX_SIZE`."""
    if isinstance(value, str | range):
        return 1 + _length(value)
    if isinstance(value, dict):
        return _size([*value.keys(), *value.values()])
    if not isinstance(value, list | tuple):
        return 1
    size = 1 + len(value)
    if size > MAX_SIZE + 1 or _ATOMS.issuperset(map(type, value)):
        return size
    for item in value:
        size += _size(item) - 1
        if size > MAX_SIZE + 1:
            break
    return size


def _length(value: Any) -> int:
    try:
        return len(value)
    except OverflowError:
        return MAX_SIZE + 1


def _check_size(size: int) -> None:
    if size > MAX_SIZE + 1:
        raise ExpressionError(f"it would hold more than {MAX_SIZE} values or characters")


def _binary(kind: ast.operator, left: Any, right: Any) -> Any:
    """An operation on two numbers, the sum of two sequences, or a repeated sequence.

    Nothing else is allowed: `%` on a string, for instance, could ask for any width.
    """
    if _is_number(left) and _is_number(right):
        if isinstance(kind, ast.Pow):
            _check_power(left, right)
    elif isinstance(kind, ast.Add):
        _check_size(_size(left) + _size(right) - 1)
    elif isinstance(kind, ast.Mult):
        sequence, times = (right, left) if _is_number(left) else (left, right)
        if isinstance(times, int):
            _check_size((_size(sequence) - 1) * max(times, 0) + 1)
    else:
        raise ExpressionError("this operator takes numbers only")
    return _BINARY[type(kind)](left, right)


def _check_power(base: Any, exponent: Any) -> None:
    whole = isinstance(base, int) and isinstance(exponent, int)
    if whole and abs(base) > 1 and base.bit_length() * exponent > 2 * MAX_BITS:
        raise ExpressionError(f"an integer would have more than {MAX_BITS} bits")


def _call(name: str, arguments: list[Any], keywords: dict[Any, Any]) -> Any:
    if name == "round" and len(arguments) > 1 and _is_number(arguments[1]) and abs(arguments[1]) > MAX_DIGITS:
        raise ExpressionError(f"round takes at most {MAX_DIGITS} digits")
    if name == "sum":
        items = [item for argument in arguments for item in _items(argument)]
        if not all(_is_number(item) for item in items):
            raise ExpressionError("sum takes numbers only")
    return FUNCTIONS[name](*arguments, **keywords)


def _items(value: Any) -> Iterable[Any]:
    return value if isinstance(value, list | tuple | range | dict | str) else (value,)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)
