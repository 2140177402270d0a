#!/usr/bin/env python3
"""Rewrites a little-endian pcap or pcapng file as a big-endian machine would have written it.

    byteswap.py IN OUT
"""

import struct
import sys

PCAP_MAGICS = {0xA1B2C3D4, 0xA1B23C4D}
SECTION, INTERFACE, STATISTICS, ENHANCED = 0x0A0D0D0A, 1, 5, 6
# Options that hold numbers, by block type: code to struct format. All others are bytes or text.
NUMBERS = {
    INTERFACE: {8: "Q", 14: "Q"},
    STATISTICS: {2: "II", 3: "II", 4: "Q", 5: "Q", 6: "Q", 7: "Q", 8: "Q"},
    ENHANCED: {2: "I", 4: "Q", 5: "Q", 6: "I"},
}


def swap_pcap(data):
    out = bytearray(struct.pack(">IHHIIII", *struct.unpack_from("<IHHIIII", data)))
    at = 24
    while at < len(data):
        record = struct.unpack_from("<IIII", data, at)
        out += struct.pack(">IIII", *record)
        out += data[at + 16:at + 16 + record[2]]
        at += 16 + record[2]
    return out


def swap_options(kind, options):
    out = bytearray()
    at = 0
    while at < len(options):
        code, length = struct.unpack_from("<HH", options, at)
        value = options[at + 4:at + 4 + length]
        fields = NUMBERS.get(kind, {}).get(code)
        if fields:
            value = struct.pack(">" + fields, *struct.unpack("<" + fields, value))
        out += struct.pack(">HH", code, length) + value + bytes(-length % 4)
        at += 4 + length + -length % 4
    return out


def swap_block(kind, body):
    if kind == SECTION:
        head, rest = struct.pack(">IHHq", *struct.unpack_from("<IHHq", body)), body[16:]
    elif kind == INTERFACE:
        head, rest = struct.pack(">HHI", *struct.unpack_from("<HHI", body)), body[8:]
    elif kind == STATISTICS:
        head, rest = struct.pack(">III", *struct.unpack_from("<III", body)), body[12:]
    elif kind == ENHANCED:
        fields = struct.unpack_from("<IIIII", body)
        end = 20 + fields[3] + -fields[3] % 4
        head, rest = struct.pack(">IIIII", *fields) + body[20:end], body[end:]
    else:
        raise SystemExit(f"byteswap.py: no rule for pcapng block type {kind}")
    return head + swap_options(kind, rest)


def swap_pcapng(data):
    out = bytearray()
    at = 0
    while at < len(data):
        kind, length = struct.unpack_from("<II", data, at)
        body = swap_block(kind, data[at + 8:at + length - 4])
        out += struct.pack(">II", kind, length) + body + struct.pack(">I", length)
        at += length
    return out


def main():
    source, target = sys.argv[1:]
    with open(source, "rb") as file:
        data = file.read()
    magic = struct.unpack_from("<I", data)[0]
    if magic in PCAP_MAGICS:
        swapped = swap_pcap(data)
    elif magic == SECTION:
        swapped = swap_pcapng(data)
    else:
        raise SystemExit(f"byteswap.py: {source} is no little-endian pcap or pcapng file")
    with open(target, "wb") as file:
        file.write(swapped)


main()
