"""The flows of the simulated merchants: the shipped ones, and some with short times."""

from __future__ import annotations

from cfflow.core.flow import Flow, parse
from cfflow.store.catalog import Catalog

_FAST = """
name = "{name}"
capture = "{capture}"
methods = ["card", "upi"]
[pay]
timeout_s = 4
[otp]
submits_max = 2
resends_max = 1
resend_after_s = 30
expires_after_s = 90
[poll]
after_s = [2, 5, 15, 60, 300, 900]
review_after_s = 7200
{hold}
[end]
abandoned_hold = "{abandoned}"
late_watch_s = 10800
retention_s = {retention_s}
"""

_HOLD = """[hold]
expires_after_s = 1800
act_before_expiry_s = 300
on_expiry = "{on_expiry}"
"""

_FAST_HOLDS = ("fast_hold_void", "fast_hold_capture", "fast_hold_review")

#: How long the bank holds money for the fast flows.
FAST_HOLD_S = 1800.0


def _fast(name: str, *, hold: str = "", abandoned: str = "void", retention_s: int = 86400) -> Flow:
    capture = "manual" if hold else "automatic"
    text = _FAST.format(
        name=name, capture=capture, hold=hold, abandoned=abandoned, retention_s=retention_s
    )
    # As a stored text: an order of `fast_brief` is purged sooner than a file may want today.
    return parse(text.encode(), stored=True)


def catalog() -> Catalog:
    """Return the shipped flows and the fast ones."""
    made = Catalog()
    made._keep(_fast("fast"))
    made._keep(_fast("fast_brief", retention_s=20))
    for on_expiry, abandoned in (("void", "review"), ("capture", "void"), ("review", "void")):
        hold = _HOLD.format(on_expiry=on_expiry)
        made._keep(_fast(f"fast_hold_{on_expiry}", hold=hold, abandoned=abandoned))
    return made


#: One catalog for all worlds of this interpreter: flows never change.
CATALOG = catalog()


def flows_of(*, fast: bool, holds: bool) -> tuple[str, ...]:
    """Return the names of the flows from which an order's flow is drawn."""
    if fast:
        return _FAST_HOLDS if holds else ("fast", "fast", "fast_brief")
    return ("preauth", "upi_mandate") if holds else ("native_otp", "redirect", "upi")
