"""The archive: receipts, dead letters and reviews as Parquet files, written long before they expire on Kafka.

```
<p>.receipts, <p>.dead, <p>.review ── one owner, in chunks ──> FOLDER/<topic>/<topic id>/<partition>/
                                                                 <start>-<digest>.parquet   the records
                                                                 <start>.json               its manifest
```
A chunk is there when its manifest is: the position of a partition is what its last manifest says, and nothing else
remembers it. A manifest is named by the position that it begins at and is put in its place by a hard link, which fails
where there is one already: so of two owners at one position only one goes on, as a database's compare-and-set would
have it. Each manifest holds the digest of its file and of the manifest before.
"""
