"""Reads messages as protobuf for Python does: of each line `TYPE BASE64` it prints `ok`, or why it cannot be read."""

import base64
import sys

from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

pool = descriptor_pool.DescriptorPool()
with open(sys.argv[1], "rb") as image:
    for file in descriptor_pb2.FileDescriptorSet.FromString(image.read()).file:
        pool.Add(file)
for line in sys.stdin:
    name, encoded = line.split()
    kind = message_factory.GetMessageClass(pool.FindMessageTypeByName(name))
    try:
        kind.FromString(base64.b64decode(encoded))
        print("ok")
    except message.DecodeError as error:
        print(error)
