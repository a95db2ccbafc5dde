"""``convert``, ``verify``, ``inspect`` and saving: options in, results out; nothing is printed."""
