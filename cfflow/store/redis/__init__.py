"""The store in Redis or Valkey, on one server or a cluster: one run of a Lua script per commit."""

from __future__ import annotations
