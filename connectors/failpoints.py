"""Failpoints: named places, one at each state transition, where a test makes the process fail.

`CROSSDOCK_FAILPOINT=name:nth:kill|raise|sleep|stop`; several separated by commas. The nth passage of the process's life
fails, and no other. A no-op unless set, and refused where `environment: production`.
"""

import functools
import os
import signal
import threading
import time
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Final

from connectors.errors import ConfigError

VARIABLE: Final = "CROSSDOCK_FAILPOINT"
ACTIONS: Final = ("kill", "raise", "sleep", "stop")

TRANSITIONS: Final[Mapping[str, str]] = {
    "ingest_after_take_over": "the task is ours and older owners are shut out; its stored offset is not read",
    "ingest_before_open": "the stored offset is read; the source is not opened",
    "ingest_after_poll": "changes were read; nothing of them is sent",
    "ingest_after_send": "records and offset are on their way in an open transaction",
    "ingest_before_commit": "the broker has all of them; the transaction is open",
    "ingest_before_ack": "the transaction is committed; the source does not know",
    "ingest_after_ack": "the source knows; the next batch is not sent",
    "reader_before_rewind": "partitions are assigned; positions are not set to what was committed",
    "reader_before_deliver": "records are noted as open; no lane has them",
    "reader_before_give_up": "partitions are taken away; work in hand goes on",
    "reader_after_give_up": "work in hand has ended and is committed; the partitions are not left",
    "enrich_before_publish": "changes are enriched; nothing of it is published",
    "enrich_before_acknowledge": "the broker has every output; the batch is open",
    "enrich_before_commit": "batches are acknowledged; their offset is not committed",
    "enrich_after_commit": "the offset is committed",
    "writeback_before_aside": "partitions are assigned; what stands aside of them is not known",
    "writeback_before_put": "the newest write of each key is chosen; nothing is written",
    "writeback_after_intent": "the broker has the intents; no call is made",
    "sql_before_commit": "rows are changed in an open transaction",
    "sql_after_commit": "rows are changed for good; the hub has no outcome",
    "soap_before_call": "the request is made; it is not sent",
    "soap_after_call": "the service has answered; the hub has no outcome",
    "rest_before_call": "a request is made, others of its batch may be answered; it is not sent",
    "rest_after_call": "the service has answered one request; the hub has no outcome",
    "writeback_after_effect": "outcomes are known; nothing is decided",
    "writeback_before_reread": "the target's version is another one; it is not read",
    "writeback_before_park": "a record is sick alone; the broker does not have it as parked",
    "writeback_after_parked": "a parked event was tried; its tombstone is not published",
    "writeback_before_doubt": "a call that is never repeated has no answer; the broker does not know",
    "writeback_before_publish": "fates are decided; no receipt is published",
    "writeback_before_acknowledge": "the broker has every receipt; the batch is open",
    "replay_before_commit": "the broker has events and marks; the transaction is open",
    "replay_before_transaction": "what a command means is worked out; nothing is sent",
    "replay_after_commit": "events and marks are with the broker; nothing else knows",
    "retention_after_pause": "the pause is on Kafka; the retention that is to keep the unread is not raised yet",
    "offset_before_mirror": "a group's offset was moved; the note that it was is not written",
    "index_before_commit": "rows and positions are in an open transaction of the index",
    "index_after_commit": "the index has them; the next batch is not read",
    "archive_before_rename": "a file of records is complete and on the disk; it has no name",
    "archive_before_manifest": "the file has its name; no manifest says so, and the position is before it",
    "archive_after_manifest": "the position is behind the file; the next chunk is not read",
    "writeback_before_commit": "batches are acknowledged; their offset is not committed",
    "writeback_after_commit": "the offset is committed",
}
"""Every failpoint, and the state that a process which ends there leaves behind."""


class FailpointError(Exception):
    """Raised by a failpoint of the kind `raise`."""


@functools.cache
def armed() -> Mapping[tuple[str, int], str]:
    """The action of each armed passage: (name, nth) -> action.

    Raises:
        ConfigError: the variable cannot be understood.
    """
    return dict(_entry(text) for text in filter(None, os.environ.get(VARIABLE, "").split(",")))


_SEEN: Final[dict[str, int]] = {}
_LOCK: Final = threading.Lock()


def failpoint(name: str) -> None:
    """A state transition of the hub: nothing happens here unless a test armed this name.

    Raises:
        FailpointError: the armed action is `raise`.
    """
    if not armed():
        return
    with _LOCK:
        _SEEN[name] = nth = _SEEN.get(name, 0) + 1
    action = armed().get((name, nth))
    if action is not None:
        _fail(name, action)


def _entry(text: str) -> tuple[tuple[str, int], str]:
    name, nth, action = (*text.strip().split(":"), "", "")[:3]
    if name not in TRANSITIONS:
        near = get_close_matches(name, TRANSITIONS, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"{VARIABLE}: no failpoint {name!r}; known: {', '.join(TRANSITIONS)}{hint}")
    if text.count(":") != 2 or not nth.isdecimal() or int(nth) < 1 or action not in ACTIONS:
        raise ConfigError(f"{VARIABLE}: {text!r} is not of the form name:nth:{'|'.join(ACTIONS)}, nth from 1 on")
    return (name, int(nth)), action


def _fail(name: str, action: str) -> None:
    match action:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "sleep":
            time.sleep(30)
        case _:
            raise FailpointError(name)
