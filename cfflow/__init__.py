"""cfflow drives Cashfree payments as state machines in Redis, and never loses one."""

from __future__ import annotations

import typing

from cfflow.names import late
from cfflow.names.version import __version__ as __version__

if typing.TYPE_CHECKING:
    from cfflow.names.public import *  # noqa: F403  the names are its `__all__`
    from cfflow.names.public import __all__ as __all__

# The pytest plugin is loaded in every test run of an environment that has cfflow, and a program
# may import cfflow long before it takes a payment: neither waits for all that cfflow needs.
__getattr__, __dir__ = late.names_of(__name__, lambda _: "cfflow.names.public")
