"""The messages that are spoken to etcd."""

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from lit_storage_proto.etcd import v3_pb2 as pb


def test_another_client_of_etcd_has_room_in_the_same_process():
    """Our messages have names of our own: a file that declares etcd's can be loaded beside them."""
    file = descriptor_pb2.FileDescriptorProto(name="rpc.proto", package="etcdserverpb", syntax="proto3")
    for name in pb.DESCRIPTOR.message_types_by_name:
        file.message_type.add(name=name)
    pool = descriptor_pool.Default()
    pool.Add(file)
    other = message_factory.GetMessageClass(pool.FindMessageTypeByName("etcdserverpb.RangeRequest"))
    assert other.FromString(pb.RangeRequest(key=b"x").SerializeToString()).ByteSize() > 0


def test_a_field_of_a_later_version_is_passed_over():
    """What etcd adds to an answer does not keep it from being read."""
    later = pb.PutRequest(key=b"key", lease=7).SerializeToString() + b"\xfa\x3f\x01x"
    assert pb.PutRequest.FromString(later).lease == 7
