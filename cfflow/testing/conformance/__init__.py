"""The suite that every store must pass: `suite` joins the parts, `helpers` makes their commits."""

from __future__ import annotations
