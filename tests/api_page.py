"""docs/reference/api.md, made from the code: every public name with all that users type.

`python -m tests.api_page` writes the page anew; a test fails while it is not what the code gives.
Which names there are, and their order, is in docs/reference/public-api.md: the index. Annotations
are shown as they are written in the source, so every version of Python makes the same page.
"""

from __future__ import annotations

import dataclasses
import inspect
import pkgutil
import re
import sys
import textwrap
import types
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import Any, Final, get_args

import msgspec

import cfflow
from cfflow import CfflowError, PaymentNotFound, StoreError
from cfflow.cashfree.gateway import Gateway
from cfflow.names import public
from cfflow.testing import MemoryStore

REFERENCE: Final = Path(__file__).parents[1] / "docs" / "reference"
INDEX: Final = REFERENCE / "public-api.md"
PAGE: Final = REFERENCE / "api.md"
COLUMNS: Final = 88

#: Public classes of which not every method is public: public-api.md says which.
SOME_METHODS: Final[dict[type, tuple[str, ...]]] = {
    cfflow.Budget: ("background", "room", "wait_s"),
    # Its other methods are those of `Store`.
    MemoryStore: ("restarted",),
    Gateway: (
        "create_order",
        "fetch_order",
        "pay",
        "authenticate",
        "authorize",
        "fetch_payment",
        "fetch_payments",
        "simulate",
        "fetch_simulation",
    ),
}
#: For cfflow's own modules, on a public class.
HIDDEN: Final = frozenset(
    {"body", "check", "flow_of", "instrument", "last_four", "shown", "snapshot", "with_ids_only"}
)

HEAD: Final = """\
# API

Every public name, made from the code by `python -m tests.api_page`: do not edit this page, edit the
docstring. [What is public](public-api.md) is its index and says what a public name promises.

- **Errors.** Under a call are the errors that its docstring names. *Money may have moved* and *safe
  to retry* are the error's `money_may_have_moved` and `safe_to_retry`; an error without either left
  the money as it was, and the same call would fail again. Beside the errors named, every call that
  reads or writes the store can raise a [`StoreError`](#storeerror), every gateway call a
  [`GatewayError`](#gatewayerror), and every call [`InvalidInput`](#invalidinput) for an argument of
  another type. *See the instance*: a `StoreError` has `money_may_have_moved` True, and
  `safe_to_retry` False, when a gateway call was made and its outcome could not be stored.
  [Errors](errors.md) has what to do about each.
- **Amounts** are rupees: a `Decimal`, an `int`, or a text such as `"4200.50"`. What cfflow returns
  is a `Decimal`.
- **Times** that cfflow returns are `datetime`s with a time zone. Durations are in seconds where a
  name ends in `_s`.
- **Steps** (`pay`, `submit_otp`, `resend_otp`, `leave_otp`, `capture`, `void`) take a payment or
  its id. `expected_version` guards a step whose caller has only an id: if the payment has another
  version, it is a [`Conflict`](#conflict) and nothing is sent. `actor` is who wants it, a name of
  your own in one line of 64 characters at most; it is kept in the history and the feed.
"""

_ERRORS: Final = {
    name: kind
    for name, kind in vars(public).items()
    if isinstance(kind, type) and issubclass(kind, CfflowError)
}


def index(text: str) -> Iterator[tuple[str, list[list[str]]]]:
    """Yield each public module of the index, with the groups of its names."""
    for module, section in re.findall(r"(?ms)^## `(cfflow[.\w]*)`\n(.*?)(?=^## |\Z)", text):
        rows = re.findall(r"(?m)^\|([^|]*)\|", section)
        yield module, [names for row in rows if (names := re.findall(r"`(\w+)`", row))]


def page() -> str:
    """Return the whole page."""
    done: dict[int, str] = {}
    parts = [HEAD]
    for module, groups in index(INDEX.read_text()):
        parts.append(f"\n## `{module}`\n")
        owner, again = pkgutil.resolve_name(module), []
        for name in [name for group in groups for name in group]:
            value = getattr(owner, name)
            if id(value) in done and not isinstance(value, int | str):
                again.append(_link(done[id(value)]))
                continue
            heading = _heading(module, name)
            done[id(value)] = heading
            parts.append(f"\n### {heading}\n\n{entry(name, value, module)}")
        if again:
            parts.append("\n" + _wrapped(f"The same as above: {', '.join(again)}.") + "\n")
    return "".join(parts)


def _heading(module: str, name: str) -> str:
    """Return the heading of a name; another module's name of the same word has its module's too."""
    rooms = ("cfflow.show", "cfflow.sync")
    return f"{module.partition('.')[2]}.{name}" if module in rooms else name


def _link(heading: str, text: str = "") -> str:
    return f"[`{text or heading}`](#{heading.lower().replace('.', '')})"


def entry(name: str, value: Any, module: str) -> str:
    """Return what the page has below the heading of a name."""
    if isinstance(value, types.ModuleType):
        return f"A module: see [`cfflow.{name}`](#cfflow{name}).\n"
    if isinstance(value, type) and module == "cfflow.sync":
        return _blocking(name, value)
    if isinstance(value, type):
        return _class(value)
    if inspect.isroutine(value):
        return _call(value, name)
    if members := get_args(value):
        names = " | ".join(member.__name__ for member in members)
        return _code(textwrap.fill(f"{name} = {names}", COLUMNS, subsequent_indent="    "))
    shown = "" if name == "__version__" else f", `{value!r}`"
    return f"A constant of type `{type(value).__name__}`{shown}.\n"


# text


def _code(text: str) -> str:
    return f"```python\n{text}\n```\n"


def _wrapped(text: str, indent: str = "") -> str:
    return textwrap.fill(
        text,
        100,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def doc_of(owner: Any) -> str:
    """Return an object's own docstring with links to the concept pages; "" for a made-up one."""
    text = inspect.cleandoc(owner.__doc__ or "")
    if text.startswith(f"{getattr(owner, '__name__', '')}("):
        return ""
    found = r"(?<![\w/])((gateway|design)\.md#[\w-]+)"
    paragraphs = re.split(r"\n{2,}", re.sub(found, r"[the \2](../concepts/\1)", text))
    return "\n\n".join(_paragraph(paragraph) for paragraph in paragraphs) + "\n"


def _paragraph(text: str) -> str:
    """Return a paragraph in the page's width; lists and indented text keep their lines."""
    lines = text.split("\n")
    if any(re.match(r"\s|[*-] |\d+\. ", line) for line in lines):
        return text
    return _wrapped(" ".join(lines))


def errors_of(call: Callable[..., Any]) -> tuple[type[CfflowError], ...]:
    """Return the errors that a docstring names after "Raises", those of another call too."""
    raised = re.split(r"\bRaises\b", doc_of(call), maxsplit=1)[1:]
    text = " ".join(raised)
    if same := re.search(r"as `(\w+)` does", text):
        owner = vars(sys.modules[call.__module__])[call.__qualname__.partition(".")[0]]
        return errors_of(getattr(owner, same[1]))
    return tuple(
        _ERRORS[name] for name in dict.fromkeys(re.findall(r"`(\w+)`", text)) if name in _ERRORS
    )


def means(kind: type[CfflowError]) -> str:
    """Return what an error means for money, "" where it left all as it was."""
    moved = {"no": "", "**yes**": "**money may have moved**"}.get(
        money_of(kind), "money may have moved: see the instance"
    )
    return ", ".join(filter(None, [moved, "safe to retry" if kind.safe_to_retry else ""]))


def money_of(kind: type[CfflowError]) -> str:
    """Return whether money may have moved: what is stored after a call can fail too."""
    if issubclass(kind, StoreError | PaymentNotFound):
        return "**see the instance**"
    return "**yes**" if kind.money_may_have_moved else "no"


def _errors_line(call: Callable[..., Any]) -> str:
    found = [
        _link(kind.__name__) + (f" ({text})" if (text := means(kind)) else "")
        for kind in errors_of(call)
    ]
    return "\n" + _wrapped(f"Errors: {', '.join(found)}.") + "\n" if found else ""


# signatures


def signature(call: Callable[..., Any], name: str) -> str:
    """Return a call as it stands in the source, without `self`."""
    found = inspect.signature(call)
    parameters = [p for p in found.parameters.values() if p.name != "self"]
    shown = [_parameter(parameter) for parameter in parameters]
    kinds = [parameter.kind for parameter in parameters]
    if inspect.Parameter.KEYWORD_ONLY in kinds and inspect.Parameter.VAR_POSITIONAL not in kinds:
        shown.insert(kinds.index(inspect.Parameter.KEYWORD_ONLY), "*")
    returned = found.return_annotation
    after = "" if returned is found.empty else f" -> {_type(returned)}"
    word = "async def" if inspect.iscoroutinefunction(call) else "def"
    line = f"{word} {name}({', '.join(shown)}){after}"
    if len(line) <= COLUMNS:
        return line
    body = "".join(f"    {text},\n" for text in shown)
    return f"{word} {name}(\n{body}){after}"


def _parameter(parameter: inspect.Parameter) -> str:
    stars = {"VAR_POSITIONAL": "*", "VAR_KEYWORD": "**"}.get(parameter.kind.name, "")
    text = stars + parameter.name
    if parameter.annotation is not parameter.empty:
        text += f": {_type(parameter.annotation)}"
    return text if parameter.default is parameter.empty else f"{text} = {_value(parameter.default)}"


def _type(annotation: Any) -> str:
    """Return an annotation without the marks that only cfflow's own decoder reads."""
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "Any")
    return re.sub(r"\bDecides\[(.*)\]", r"\1", text).replace("_Id", "int | str | None")


def _value(value: Any) -> str:
    """Return a default as a reader would type it."""
    if isinstance(value, cfflow.LeftOut):
        return "..."
    return f"{type(value).__name__}.{value.name}" if isinstance(value, Enum) else repr(value)


def _call(call: Callable[..., Any], name: str) -> str:
    return f"{_code(signature(call, name))}\n{doc_of(call)}{_errors_line(call)}"


# classes


def _class(kind: type) -> str:
    if issubclass(kind, CfflowError):
        return _error(kind)
    parts = [doc_of(kind)]
    if issubclass(kind, Enum):
        parts.append(_code("\n".join(f"{m.name} = {m.value!r}" for m in kind)))
    elif issubclass(kind, msgspec.Struct):
        parts.append(_fields(kind))
    elif kind is cfflow.Payment:
        parts.append(_code("\n".join(map(_dataclass_field, dataclasses.fields(kind)))))
    elif kind is cfflow.Worker:
        parts.append(_code(signature(kind.__init__, kind.__name__).removeprefix("def ")))
    parts += _methods(kind)
    return "\n".join(part for part in parts if part)


def _dataclass_field(field: dataclasses.Field[Any]) -> str:
    made = field.default_factory
    default = "" if made is dataclasses.MISSING else f" = {_value(made())}"
    return f"{field.name}: {_type(field.type)}{default}"


def _fields(kind: type[msgspec.Struct]) -> str:
    hints: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        hints |= inspect.get_annotations(base)
    lines = []
    for field in msgspec.structs.fields(kind):
        if field.name.startswith("_"):
            continue
        default = "" if field.required else f" = {_value(_default(field))}"
        lines.append(f"{field.name}: {_type(hints[field.name])}{default}")
    tag = kind.__struct_config__.tag
    if kind.__module__ == "cfflow.views.show":
        lines.insert(0, f"# in JSON: show = {tag!r}")
    return _code("\n".join(lines)) if lines else ""


def _default(field: msgspec.structs.FieldInfo) -> Any:
    made = field.default_factory
    return field.default if made is msgspec.NODEFAULT else made()


def _methods(kind: type) -> Iterator[str]:
    """Yield the entries of a class's public properties and methods, in the order of the source."""
    wanted = SOME_METHODS.get(kind)
    found: dict[str, Any] = {}
    # What a public base class has is shown there, once.
    bases = [b for b in kind.__mro__ if b is kind or b.__name__ not in cfflow.__all__]
    for base in reversed(bases):
        if base.__module__.startswith("cfflow") and not issubclass(base, Enum):
            found |= vars(base)
    names = wanted or [name for name in found if not name.startswith("_") and name not in HIDDEN]
    for name in names:
        # The tests of `StoreConformance` are promised as a whole.
        if not name.startswith("test_") and (shown := _member(found[name], name)):
            yield f"#### `{kind.__name__}.{name}`\n\n{shown}"


def _member(value: Any, name: str) -> str:
    """Return the entry of a property or a method, "" for anything else."""
    if isinstance(value, property) and value.fget is not None:
        returned = _type(inspect.signature(value.fget).return_annotation)
        return f"{_code(f'{name}: {returned}')}\n{doc_of(value)}"
    call = value.__func__ if isinstance(value, staticmethod | classmethod) else value
    return _call(call, name) if inspect.isroutine(call) else ""


def _error(kind: type[CfflowError]) -> str:
    parent = kind.__mro__[1]
    above = _link(parent.__name__) if issubclass(parent, CfflowError) else "`Exception`"
    safe = "yes" if kind.safe_to_retry else "no"
    names = dict.fromkeys(
        name
        for base in reversed(kind.__mro__[:-3])
        for name in (
            *inspect.get_annotations(base),
            *(["payment"] if base is CfflowError else []),
            *(p for p in inspect.signature(base).parameters if base is not Exception),
        )
    )
    shown = [
        n
        for n in names
        if n not in {"message", "args", "kwargs", "safe_to_retry", "money_may_have_moved"}
    ]
    attributes = ", ".join(f"`{name}`" for name in shown)
    return (
        f"{doc_of(kind)}\n- a kind of: {above}\n- safe to retry: {safe}\n"
        f"- money may have moved: {money_of(kind)}\n- attributes: {attributes}\n"
    )


def _blocking(name: str, kind: type) -> str:
    """Return what is different from the async class: its other methods have the same entry."""
    twin = getattr(cfflow, name)
    calls = [n for n in vars(kind) if not n.startswith("_")]
    same = ", ".join(f"`{n}`" for n in calls if hasattr(twin, n))
    own = [n for n in calls if not hasattr(twin, n)]
    text = _wrapped(f"As {_link(name, f'cfflow.{name}')} has them, without `await`: {same}.")
    parts = [doc_of(kind), text + "\n"]
    parts += [f"#### `sync.{name}.{n}`\n\n{_member(vars(kind)[n], n)}" for n in own]
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page())
