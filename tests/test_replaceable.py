"""Functions that say that they can be replaced, and how long they are."""

import pytest

from xbd.replaceable import replaceable, replaced


class Clerk:
    """Has a method that can be replaced."""

    def __init__(self, name: str) -> None:
        self.name = name

    @replaceable
    def greet(self, whom: str) -> str:
        """Greet."""
        return f"{self.name} greets {whom}"


def test_a_method_is_replaced_for_all_objects_until_the_block_ends() -> None:
    """By whatever name it is known; also where the block ends by an exception. The original can still be called."""
    clerk = Clerk("a")
    known_as = clerk.greet

    def check() -> None:
        with replaced(Clerk.greet, lambda original: lambda self, whom: original(self, whom).upper()):
            assert known_as("b") == Clerk("a").greet("b") == "A GREETS B"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        check()
    assert known_as("b") == "a greets b"
    assert Clerk.greet.__doc__ == "Greet."


def test_what_does_not_say_so_cannot_be_replaced() -> None:
    """A switch of a simulation that names anything else is found at once."""
    with pytest.raises(KeyError), replaced(Clerk.__init__, lambda original: original):
        pass
