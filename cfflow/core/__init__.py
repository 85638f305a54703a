"""Pure decisions about payments: no I/O, no clock, no randomness, no logging.

Every function gets the present time as an argument, so each decision can be replayed from its
inputs. Start with `decide.py` (what an answer changes) and `steps.py` (what may be sent).
"""

from __future__ import annotations
