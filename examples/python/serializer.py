"""Values as JSON. Any other format is a class with the same two methods."""

import json


class JsonSerializer:
    """One object, one spelling: sorted keys, no spaces, UTF-8."""

    def serialize(self, value):
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("utf-8")

    def deserialize(self, data):
        """Raises ValueError where the bytes are no JSON."""
        return json.loads(data.decode("utf-8"))
