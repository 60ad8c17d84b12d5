"""How a step says that something is wrong."""


class Failed(Exception):
    """A step found something wrong; the message says what."""
