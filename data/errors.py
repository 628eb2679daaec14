"""The one error of the data package: something about the user's data must be corrected."""


class DataError(ValueError):
    """Data that cannot be used; the message is one line that names the file, shard or key and what to do."""
