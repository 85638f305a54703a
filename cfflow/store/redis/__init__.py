"""The store in Redis or Valkey: one Lua script a commit, on one server or a cluster."""

from __future__ import annotations
