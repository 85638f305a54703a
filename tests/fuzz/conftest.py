"""Settings of Hypothesis: the short run of `make test`, and the long one of `make fuzz`."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

_SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]

#: The same inputs in every run: a change that fails was made by this change.
settings.register_profile(
    "fuzz_short", max_examples=50, deadline=None, derandomize=True, suppress_health_check=_SLOW
)
#: Other inputs in every run. Those that failed once are tried first.
settings.register_profile(
    "fuzz", max_examples=5_000, deadline=None, print_blob=True, suppress_health_check=_SLOW
)
