"""docs/reference/api.md is what the code gives, and names what users type."""

from __future__ import annotations

import inspect
import re

import pytest

import cfflow
from cfflow import CfflowError, Orchestrator
from tests.api_page import INDEX, PAGE, REFERENCE, errors_of, index, means, page
from tests.test_public_api import ERRORS, FIELDS, GATEWAY, ORCHESTRATOR

TEXT = PAGE.read_text()
#: Where the errors are told of with what to do about each; a base class has no row there.
ERRORS_PAGE = (REFERENCE / "errors.md").read_text()


def section(heading: str) -> str:
    """Return what the page has below a heading, up to the next one."""
    (found,) = re.findall(rf"(?ms)^###+ {re.escape(heading)}\n(.*?)(?=^##|\Z)", TEXT)
    return str(found)


def test_the_page_is_what_the_code_gives() -> None:
    """After a change of a docstring or a signature: `python -m tests.api_page`."""
    assert page() == TEXT, "run `python -m tests.api_page`"


def test_every_public_name_has_an_entry() -> None:
    """Those of the index, each once."""
    headings = re.findall(r"^### (?:show\.|sync\.)?(\w+)$", TEXT, re.MULTILINE)
    names = {name for _, groups in index(INDEX.read_text()) for group in groups for name in group}
    assert set(headings) == names


@pytest.mark.parametrize("name", ORCHESTRATOR)
def test_a_call_has_its_arguments_and_its_errors(name: str) -> None:
    """With what each error means for money."""
    shown = section(f"`Orchestrator.{name}`")
    call = getattr(Orchestrator, name)
    assert all(word in shown for word in inspect.signature(call).parameters if word != "self")
    for kind in errors_of(call):
        after = f" ({text})" if (text := means(kind)) else ""
        assert f"[`{kind.__name__}`](#{kind.__name__.lower()}){after}" in " ".join(shown.split())


def test_void_has_the_errors_of_capture() -> None:
    """But for the amount, which a void has not got."""
    both = {*errors_of(Orchestrator.void), cfflow.InvalidAmount}
    assert both == {*errors_of(Orchestrator.capture)}
    assert cfflow.OutcomeUnknown in errors_of(Orchestrator.void)


@pytest.mark.parametrize("name", GATEWAY)
def test_a_gateway_call_has_an_entry(name: str) -> None:
    """Whoever calls the gateway directly reads it here."""
    assert f"async def {name}(" in section(f"`Gateway.{name}`")


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_says_what_it_means_for_money(name: str) -> None:
    """As the class does; what depends on the instance says so."""
    kind, shown = getattr(cfflow, name), section(name)
    assert issubclass(kind, CfflowError)
    assert f"- safe to retry: {'yes' if kind.safe_to_retry else 'no'}\n" in shown
    (moved,) = re.findall(r"- money may have moved: (.*)", shown)
    (row,) = re.findall(rf"(?m)^\| `{name}` \| [^|]* \| ([^|]*) \|", ERRORS_PAGE) or ["no"]
    assert (moved, kind.money_may_have_moved) == (row, row == "**yes**")


def test_a_payment_has_all_of_its_fields() -> None:
    """In their order, with their types."""
    assert re.findall(r"^(\w+): ", section("Payment"), re.MULTILINE) == FIELDS.split()


def test_the_links_of_the_page_lead_to_its_headings() -> None:
    """As GitHub makes their names."""
    headings = re.findall(r"^#+ (.+)$", TEXT, re.MULTILINE)
    slugs = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", TEXT)) <= slugs
