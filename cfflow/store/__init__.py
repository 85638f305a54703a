"""Stores of payments: the protocol, and the stores that come with cfflow.

A store writes whole plans and reads whole orders; it decides nothing about money.
"""

from __future__ import annotations
