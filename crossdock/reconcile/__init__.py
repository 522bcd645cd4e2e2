"""`crossdock reconcile FOLDER PIPELINE`: is what a source holds what its targets hold?

```
source ── counts and hashes of buckets ──┐
                                         ├─ those that differ ── their records ─────────┐
target ── counts and hashes of buckets ──┘                                              ├─ suspects ── a second look
enriched events on Kafka ── the values of each record's newest effect, at the target ───┘
```
A target that keeps the hub's versions is asked itself; for any other the last receipt of each key stands in, and the
values are compared where the target can be read. What is newer than the source was read, and what is on its way, is
left out. A suspect is only said after a second look, as a hub never stands still.
"""
