"""Everything about the gateway: its calls, its JSON, its errors, its connections.

`facts.py` has every Cashfree constant with its source, `calls.py` the table of calls, `gateway.py`
the typed calls, `client.py` how one of them is sent. Nothing in here decides about a payment.
"""

from __future__ import annotations
