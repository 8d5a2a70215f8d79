"""A whole fleet under a test's control: private Redis and PostgreSQL, dispatcher and workers as processes that the
test can kill, pause and start again, and clients for everything that is seen from outside.

`Fleet` is the way in; `hl7` makes synthetic messages; `Receiver` is the system that HTTPSender sends to.
"""

from . import hl7
from .clients import Answer, Http, Mllp
from .fleet import END_EVENTS, Fleet, echo_item, file_item, item, production, router_item
from .process import free_port, wait_until
from .receiver import Receiver
from .wire import Wire

__all__ = [
    "Answer",
    "END_EVENTS",
    "Fleet",
    "Http",
    "Mllp",
    "Receiver",
    "Wire",
    "echo_item",
    "file_item",
    "free_port",
    "hl7",
    "item",
    "production",
    "router_item",
    "wait_until",
]
