"""What a simulation finds."""


class Violation(Exception):
    """Something that must always hold did not; says what."""
