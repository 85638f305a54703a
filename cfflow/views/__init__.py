"""What is stored, shown to people and programs: payments, histories, explanations, diagrams.

A view reads the store and moves no money.
"""

from __future__ import annotations
