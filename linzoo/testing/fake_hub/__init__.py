"""A Hugging Face Hub on loopback, for tests: the real client talks to it over real HTTP.

Example:
    >>> with FakeHub() as hub, hub.client(tmp_path):
    ...     hub.put("someone/model", {"README.md": b"# A model"})
    ...     huggingface_hub.hf_hub_download("someone/model", "README.md")
"""

from linzoo.testing.fake_hub.contents import StoredFile
from linzoo.testing.fake_hub.discussions import PullRequest
from linzoo.testing.fake_hub.faults import Fault
from linzoo.testing.fake_hub.hub import FakeHub
from linzoo.testing.fake_hub.log import Request

__all__ = ["FakeHub", "Fault", "PullRequest", "Request", "StoredFile"]
