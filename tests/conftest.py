"""Settings that every test shares."""

from hypothesis import HealthCheck, settings

# The same examples on every run, on a machine of any speed.
settings.register_profile(
    "xbd", derandomize=True, database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("xbd")
