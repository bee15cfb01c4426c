#!/usr/bin/python3
"""The .proto files keep the conventions of proto/README.md, as a stock protobuf sees them."""
import os
import re
import sys
from pathlib import Path

from google.protobuf import descriptor_pb2, descriptor_pool

build, source = os.environ["MIKURA_BUILD"], os.environ["MIKURA_SOURCE"]
fds = descriptor_pb2.FileDescriptorSet.FromString(
    Path(build, "gen/proto/mikura.fds").read_bytes())
pool = descriptor_pool.DescriptorPool()
for f in fds.file:
    pool.Add(f)  # raises on a dangling import or a clash

bad = []
services = {}
for f in fds.file:
    if not f.package.startswith("mikura."):
        continue
    for s in f.service:
        services[f"{f.package}.{s.name}"] = [m.name for m in s.method]
        for m in s.method:
            public = f.package == "mikura.v1"
            for t in (m.input_type, m.output_type):
                if public and t.startswith(".mikura.internal"):
                    bad.append(f"{s.name}.{m.name}: public call with internal type {t}")
    for m in f.message_type:
        for x in m.field:
            if x.proto3_optional:
                bad.append(f"{m.name}.{x.name}: protoc-c refuses optional")
            if x.name == "data" and x.type == x.TYPE_BYTES:
                if x.number != 15 or x.number != max(y.number for y in m.field):
                    bad.append(f"{m.name}.data: the payload has number 15, the last one")
        numbers = [x.number for x in m.field]
        if len(set(numbers)) != len(numbers):
            bad.append(f"{m.name}: number used twice")

# Every file says what it is for, and every rpc stands under a comment or a line that names errors.
for p in sorted(Path(source, "proto/mikura").rglob("*.proto")):
    text = p.read_text()
    rel = p.relative_to(Path(source, "proto"))
    if not text.startswith(f"// {rel} - "):
        bad.append(f"{rel}: first line must be '// {rel} - what it is'")
    if re.search(r"^\s*optional ", text, re.M):
        bad.append(f"{rel}: 'optional'")

want = {"mikura.v1.Catalog", "mikura.v1.Objects", "mikura.v1.Models", "mikura.v1.Jobs",
        "mikura.v1.Admin", "mikura.internal.v1.Store", "mikura.internal.v1.Work"}
if set(services) != want:
    bad.append(f"services are {sorted(services)}, expected {sorted(want)}")
for line in bad:
    print(line)
print(f"{len(fds.file)} files, {sum(map(len, services.values()))} calls, {len(bad)} faults")
sys.exit(1 if bad else 0)
