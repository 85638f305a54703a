"""What people and programs see of the store: payments, histories, explanations, diagrams.

A view reads the store and moves no money.
"""

from __future__ import annotations
