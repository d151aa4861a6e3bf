"""Messages of CSI v1 and of the kubelet's plugin registration v1, as far as this driver uses them.

Field numbers are those of the Container Storage Interface, v1 (`csi.proto`), and of the kubelet (`pluginregistration`,
v1). Fields of a request that are not declared here are skipped, as protobuf does with unknown fields. The message types
are made at import, so that no generated code has to be kept in step with a protocol compiler.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_Field = descriptor_pb2.FieldDescriptorProto
STRING, BOOL, MESSAGE = _Field.TYPE_STRING, _Field.TYPE_BOOL, _Field.TYPE_MESSAGE


@dataclass(frozen=True, slots=True)
class F:
    """A field of a message; `of` is the type of a field that is a message itself."""

    number: int
    name: str
    type: descriptor_pb2.FieldDescriptorProto.Type.ValueType = STRING
    repeated: bool = False
    of: str = ""


_MESSAGES: Mapping[str, tuple[F, ...]] = {
    "Empty": (),
    "Bool": (F(1, "value", BOOL),),  # google.protobuf.BoolValue
    "Entry": (F(1, "key"), F(2, "value")),  # of a map<string, string>
    "Capability": (F(1, "block", MESSAGE, of="Empty"), F(2, "mount", MESSAGE, of="Empty")),
    "GetPluginInfoResponse": (F(1, "name"), F(2, "vendor_version")),
    "ProbeResponse": (F(1, "ready", MESSAGE, of="Bool"),),
    "NodeGetInfoResponse": (F(1, "node_id"),),
    "NodePublishVolumeRequest": (
        F(1, "volume_id"),
        F(4, "target_path"),
        F(5, "volume_capability", MESSAGE, of="Capability"),
        F(8, "volume_context", MESSAGE, repeated=True, of="Entry"),
    ),
    "NodeUnpublishVolumeRequest": (F(1, "volume_id"), F(2, "target_path")),
    "PluginInfo": (F(1, "type"), F(2, "name"), F(3, "endpoint"), F(4, "supported_versions", repeated=True)),
    "RegistrationStatus": (F(1, "plugin_registered", BOOL), F(2, "error")),
}


def _types() -> dict[str, Any]:
    """Return the classes of the messages by name; on the wire, a message's name does not matter."""
    file = descriptor_pb2.FileDescriptorProto(name="headrace_csi.proto", package="headrace.csi", syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for each in fields:
            message.field.add(
                number=each.number,
                name=each.name,
                type=each.type,
                label=_Field.LABEL_REPEATED if each.repeated else _Field.LABEL_OPTIONAL,
                type_name=f".{file.package}.{each.of}" if each.of else None,
            )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{file.package}.{name}"))
        for name in _MESSAGES
    }


TYPES = _types()
"""The protobuf classes, for clients and servers."""


@dataclass(frozen=True, slots=True)
class PublishRequest:
    """NodePublishVolumeRequest: make the volume available at `target_path`."""

    volume_id: str
    target_path: str
    mount: bool
    """Whether a file system is requested, not a block device."""
    context: Mapping[str, str]
    """`volume_context`: the attributes in the pod's spec and, from the kubelet, what the pod is (podInfoOnMount)."""

    @classmethod
    def decode(cls, data: bytes) -> PublishRequest:
        """Parse a message. Raises google.protobuf.message.DecodeError."""
        found = TYPES["NodePublishVolumeRequest"].FromString(data)
        context = {entry.key: entry.value for entry in found.volume_context}
        return cls(found.volume_id, found.target_path, found.volume_capability.HasField("mount"), context)


@dataclass(frozen=True, slots=True)
class UnpublishRequest:
    """NodeUnpublishVolumeRequest: end the volume at `target_path`."""

    volume_id: str
    target_path: str

    @classmethod
    def decode(cls, data: bytes) -> UnpublishRequest:
        """Parse a message. Raises google.protobuf.message.DecodeError."""
        found = TYPES["NodeUnpublishVolumeRequest"].FromString(data)
        return cls(found.volume_id, found.target_path)


@dataclass(frozen=True, slots=True)
class RegistrationStatus:
    """RegistrationStatus: whether the kubelet has accepted the driver."""

    registered: bool
    error: str

    @classmethod
    def decode(cls, data: bytes) -> RegistrationStatus:
        """Parse a message. Raises google.protobuf.message.DecodeError."""
        found = TYPES["RegistrationStatus"].FromString(data)
        return cls(found.plugin_registered, found.error)


def encode(name: str, /, **fields: Any) -> bytes:
    """Return the bytes of a message."""
    encoded: bytes = TYPES[name](**fields).SerializeToString()
    return encoded
