"""The suite that every store must pass: `suite` joins the parts, `helpers` makes their records."""

from __future__ import annotations
