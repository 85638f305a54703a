"""The durable event feed: every committed transition, read by groups of consumers."""

from __future__ import annotations
