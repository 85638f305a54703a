"""How much is kept of what the gateway or a caller sends: every limit, in one table.

Limits count characters; those of a name that ends in `_B` count bytes. Together they bound what
one order takes in the store, whatever comes (design.md#what-is-kept-of-a-text). An id is never
cut: one that is too long is no id (`facts.CF_PAYMENT_ID_PATTERN`, `facts.ORDER_ID_PATTERN`).
"""

from __future__ import annotations

from typing import Final

#: The gateway's words: a status, an action, a method, a channel, a content type. They are compared
#: with known ones, which are all shorter, so a cut one is still an unknown one.
WORD_MAX: Final = 64
#: A currency of the gateway's. Ours have three letters, so a longer one still differs.
CURRENCY_MAX: Final = 8
#: The order that an answer names. Ours are shorter, so a cut one is still another order's.
NAMED_ORDER_MAX: Final = 64
#: The gateway's texts for people: a message, and each part of why an attempt failed.
TEXT_MAX: Final = 200
#: The text, and the code and type, of an error.
ERROR_TEXT_MAX: Final = 500
ERROR_CODE_MAX: Final = 80
#: A bank's reference or authorization number.
REFERENCE_MAX: Final = 40
#: The gateway's id of a call.
REQUEST_ID_MAX: Final = 80

#: The address of a page. A longer one is not passed on: half of it would lead nowhere.
URL_MAX: Final = 8_192
#: A next action as it is stored. A QR image or a form fits. A larger one is not passed on.
ACTION_MAX_B: Final = 65_536

#: What an answer showed, in a line of the history.
BRIEF_MAX: Final = 48
#: A line of the history: it may name who decided.
HISTORY_TEXT_MAX: Final = 300
#: The detail of a review. It names some attempts; a card tester's order has hundreds.
DETAIL_MAX: Final = 500
#: The name of who wants a step. Each line of the history may have one.
ACTOR_MAX: Final = 64
#: What a person writes about a decision: actor and note.
PERSON_TEXT_MAX: Final = 500

#: The text of a flow, and one line of it. The time of reading a key grows with the square of its
#: parts: one of 30,000 takes 14 seconds.
FLOW_MAX_B: Final = 16_384
FLOW_LINE_MAX: Final = 400

#: What a payment takes in its order's record, without what persons wrote and the merchant's own
#: metadata. It follows from the limits above.
PAYMENT_MAX_B: Final = 131_072
