"""Looks into an ONNX file without loading it: which operators it has, and what it must not have.

An ONNX file is data in Protocol Buffers' wire format. Only the few fields that matter are followed, so that no library
has to parse a file that nobody has checked yet.
"""

from collections.abc import Iterator
from typing import NamedTuple

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_DEEPEST = 32

# Field numbers of onnx.proto.
_MODEL_GRAPH, _MODEL_TRAINING, _MODEL_FUNCTIONS = 7, 20, 25
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE = 1, 5, 15
_NODE_OPERATOR, _NODE_ATTRIBUTE, _NODE_DOMAIN = 4, 5, 7
_ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH, _ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS = 5, 6, 10, 11
_TENSOR_EXTERNAL, _TENSOR_LOCATION = 13, 14
_SPARSE_VALUES, _SPARSE_INDICES = 1, 2


class NotOnnx(ValueError):
    """Bytes that are no ONNX model, or one with parts that are never loaded."""


class _Field(NamedTuple):
    number: int
    kind: int
    number_value: int
    bytes_value: bytes


def operators(model: bytes) -> frozenset[str]:
    """Names of all operators, those of other domains with it: `Identity`, `ai.onnx.ml.TreeEnsembleClassifier`.

    Raises:
        NotOnnx: not an ONNX model, or it refers to other files, brings functions of its own or training code.
    """
    found: set[str] = set()
    graphs = 0
    for field in _fields(model):
        if field.number == _MODEL_GRAPH:
            graphs += 1
            _graph(_nested(field), found, 0)
        elif field.number == _MODEL_FUNCTIONS:
            raise NotOnnx("it brings functions of its own")
        elif field.number == _MODEL_TRAINING:
            raise NotOnnx("it brings training code")
    if graphs != 1 or not found:
        raise NotOnnx("it holds no graph")
    return frozenset(found)


def _graph(graph: bytes, found: set[str], depth: int) -> None:
    if depth > _DEEPEST:
        raise NotOnnx("graphs inside graphs, too deep")
    for field in _fields(graph):
        if field.number == _GRAPH_NODE:
            _node(_nested(field), found, depth)
        elif field.number == _GRAPH_INITIALIZER:
            _tensor(_nested(field))
        elif field.number == _GRAPH_SPARSE:
            for part in _fields(_nested(field)):
                if part.number in (_SPARSE_VALUES, _SPARSE_INDICES):
                    _tensor(_nested(part))


def _node(node: bytes, found: set[str], depth: int) -> None:
    operator = domain = ""
    for field in _fields(node):
        if field.number == _NODE_OPERATOR:
            operator = _text(field)
        elif field.number == _NODE_DOMAIN:
            domain = _text(field)
        elif field.number == _NODE_ATTRIBUTE:
            _attribute(_nested(field), found, depth)
    found.add(f"{domain}.{operator}" if domain not in ("", "ai.onnx") else operator)


def _attribute(attribute: bytes, found: set[str], depth: int) -> None:
    for field in _fields(attribute):
        if field.number in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS):
            _graph(_nested(field), found, depth + 1)
        elif field.number in (_ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS) and field.kind == _BYTES:
            _tensor(_nested(field))


def _tensor(tensor: bytes) -> None:
    for field in _fields(tensor):
        if field.number == _TENSOR_EXTERNAL or (field.number == _TENSOR_LOCATION and field.number_value != 0):
            raise NotOnnx("its numbers stand in another file (external data)")


def _nested(field: _Field) -> bytes:
    if field.kind != _BYTES:
        raise NotOnnx(f"field {field.number} is not what ONNX says")
    return field.bytes_value


def _text(field: _Field) -> str:
    try:
        return _nested(field).decode("ascii")
    except UnicodeDecodeError as error:
        raise NotOnnx("an operator's name is not plain text") from error


def _fields(data: bytes) -> Iterator[_Field]:
    """The fields of one message. Raises NotOnnx for bytes that are none."""
    at, end = 0, len(data)
    while at < end:
        tag, at = _varint(data, at)
        number, kind = tag >> 3, tag & 7
        if number == 0:
            raise NotOnnx("not an ONNX model")
        if kind == _VARINT:
            value, at = _varint(data, at)
            yield _Field(number, kind, value, b"")
            continue
        if kind == _BYTES:
            length, at = _varint(data, at)
        elif kind in (_FIXED64, _FIXED32):
            length = 8 if kind == _FIXED64 else 4
        else:
            raise NotOnnx("not an ONNX model")
        if at + length > end:
            raise NotOnnx("it is cut off")
        yield _Field(number, kind, 0, data[at : at + length])
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise NotOnnx("not an ONNX model")
