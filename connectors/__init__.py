"""How systems are spoken to. Knows nothing of the hub's own Kafka, nor of Faust."""
