"""Sources and destinations elsewhere: ``s3://``, ``gs://``, ``https://``, ``hf://`` and so on.

A source is copied into a cache, verified, and used from there; a destination gets a file that is
finished already. What a URL means is fsspec's business, and the Hub's its own library's: both come
with the extra ``remote``, and are imported where they are used.
"""

from inflate.io.remote.caching import scratch_folder
from inflate.io.remote.fetching import fetch
from inflate.io.remote.location import is_remote, local_path, shown
from inflate.io.remote.looking import matches, version
from inflate.io.remote.publishing import check_destination, publish

__all__ = [
    "check_destination",
    "fetch",
    "is_remote",
    "local_path",
    "matches",
    "publish",
    "scratch_folder",
    "shown",
    "version",
]
