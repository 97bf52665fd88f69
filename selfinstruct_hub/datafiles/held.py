"""The texts that rows are compared with, for when one has to be shown: as bytes, because there may be millions."""

from __future__ import annotations

from array import array


class Held:
    """Texts with their places, numbered as they come; half characters, which JSON can spell out, come back too."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._ends = array("Q")  # of each place, and of the text behind it

    def __len__(self) -> int:
        return len(self._ends) // 2

    def append(self, place: str, text: str) -> None:
        """Adds `text`, which stands at `place`."""
        for part in (place, text):
            self._bytes += part.encode("utf-8", "surrogatepass")
            self._ends.append(len(self._bytes))

    def __getitem__(self, number: int) -> tuple[str, str]:
        """The place and the text."""
        begin, middle, end = (self._ends[at] if at >= 0 else 0 for at in range(2 * number - 1, 2 * number + 2))
        place, text = self._bytes[begin:middle], self._bytes[middle:end]
        return place.decode("utf-8", "surrogatepass"), text.decode("utf-8", "surrogatepass")
