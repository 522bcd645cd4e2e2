"""The index: receipts, dead letters, reviews and source offsets in a SQL database, so that questions have answers.

```
<p>.receipts, <p>.dead, <p>.review, crossdock.offsets ── one owner, in batches ──> tables + positions, one transaction
```
Kafka is the truth. The index can be deleted and made again, and nothing in the data path asks it anything: while its
database is away or full, there are log lines, and its answers are older (`as_of`). The original bytes stay in Kafka and
are fetched by topic, partition and offset.
"""
