"""What tests read out of cfflow's errors."""

from __future__ import annotations

from cfflow import Payment
from cfflow.errors import CfflowError

__all__ = ["payment_in"]


def payment_in(error: CfflowError) -> Payment:
    """Return the payment that an error carries; fails where it carries none."""
    assert error.payment is not None, f"{error!r} carries no payment"
    return error.payment
