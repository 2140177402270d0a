#!/usr/bin/env python3
"""Drops what a pcapng file says about the machine and the program that wrote it.

    anonymous.py IN OUT     (little-endian pcapng)
"""

import struct
import sys

SECTION, INTERFACE = 0x0A0D0D0A, 1
# Options that describe the maker: hardware, operating system, application; interface name,
# description, operating system, hardware.
MAKER = {SECTION: {2, 3, 4}, INTERFACE: {2, 3, 12, 15}}
FIXED = {SECTION: 16, INTERFACE: 8}


def strip(kind, body):
    out = bytearray(body[:FIXED[kind]])
    at = len(out)
    while at < len(body):
        code, length = struct.unpack_from("<HH", body, at)
        size = 4 + length + -length % 4
        if code not in MAKER[kind]:
            out += body[at:at + size]
        at += size
    # An end-of-options mark alone is not needed.
    if len(out) == FIXED[kind] + 4:
        out = out[:FIXED[kind]]
    return out


def main():
    source, target = sys.argv[1:]
    with open(source, "rb") as file:
        data = file.read()
    out = bytearray()
    at = 0
    while at < len(data):
        kind, length = struct.unpack_from("<II", data, at)
        body = data[at + 8:at + length - 4]
        if kind in FIXED:
            body = strip(kind, body)
        total = len(body) + 12
        out += struct.pack("<II", kind, total) + body + struct.pack("<I", total)
        at += length
    with open(target, "wb") as file:
        file.write(out)


main()
