#!/usr/bin/env python3
"""Writes odd.pcap: frames that no honest stack sends, one of a kind each.

    odd.py OUT

The other captures show what programs meet every day; this one shows what they must survive. The
bytes are the same on every machine and in every run.
"""

import struct
import sys

CLIENT_MAC, ROUTER_MAC = bytes.fromhex("020000000002"), bytes.fromhex("020000000001")
CLIENT, SERVER = bytes([10, 0, 0, 2]), bytes([192, 0, 2, 2])
CLIENT6 = bytes.fromhex("20010db8000a00000000000000000002")
SERVER6 = bytes.fromhex("20010db8000b00000000000000000002")
IPV4, IPV6, VLAN, QINQ = 0x0800, 0x86DD, 0x8100, 0x88A8
ICMP, IPIP, TCP, UDP, IN6, GRE, ICMP6 = 1, 4, 6, 17, 41, 47, 58
FIN, SYN, RST, PSH, ACK, URG = 1, 2, 4, 8, 16, 32


def checksum(data):
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def eth(proto, payload, to=ROUTER_MAC):
    return to + CLIENT_MAC + struct.pack("!H", proto) + payload


def ip4(proto, payload, src=CLIENT, dst=SERVER, first=0x45, ttl=64, frag=0, length=None,
        options=b""):
    first += len(options) // 4
    if length is None:
        length = 20 + len(options) + len(payload)
    head = struct.pack("!BBHHHBBH", first, 0, length, 1, frag, ttl, proto, 0) + src + dst + options
    head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
    return head + payload


def ip6(proto, payload, src=CLIENT6, dst=SERVER6, hops=64, length=None):
    length = len(payload) if length is None else length
    return struct.pack("!IHBB", 0x60000000, length, proto, hops) + src + dst + payload


def with_checksum(proto, segment, at, src, dst):
    pseudo = src + dst + struct.pack("!II", len(segment), proto)
    return segment[:at] + struct.pack("!H", checksum(pseudo + segment) or 0xFFFF) + segment[at + 2:]


def tcp(flags, port=80, payload=b"", options=b"", doff=None, src=CLIENT, dst=SERVER, sport=40000):
    words = (5 + len(options) // 4) if doff is None else doff
    segment = struct.pack("!HHIIBBHHH", sport, port, 1000, 2000, words << 4, flags, 64240, 0, 0)
    return with_checksum(TCP, segment + options + payload, 16, src, dst)


def udp(payload, port=53, src=CLIENT, dst=SERVER, length=None):
    length = 8 + len(payload) if length is None else length
    return with_checksum(UDP, struct.pack("!HHHH", 40000, port, length, 0) + payload, 6, src, dst)


def echo(payload=bytes(56), kind=8, code=0):
    message = struct.pack("!BBHHH", kind, code, 0, 7, 1) + payload
    return message[:2] + struct.pack("!H", checksum(message)) + message[4:]


def tags(count, inner, tpid=VLAN, tci=100, proto=IPV4):
    """A payload behind `count` tags, without the TPID of the outermost one: that is eth()'s."""
    for _ in range(count):
        inner, proto = struct.pack("!HH", tci, proto) + inner, tpid
    return inner


def gre(flags, proto, payload, optional=b""):
    return struct.pack("!HH", flags, proto) + optional + payload


def tunnels(depth):
    packet = ip4(ICMP, echo())
    for _ in range(depth):
        packet = ip4(IPIP, packet)
    return packet


def extension_chain(kinds):
    """Empty extension headers, 8 bytes each, before a UDP datagram."""
    datagram = udp(b"six", src=CLIENT6, dst=SERVER6)
    following = kinds[1:] + [UDP]
    headers = b"".join(bytes([proto, 0, 1, 4, 0, 0, 0, 0]) for proto in following)
    return ip6(kinds[0], headers + datagram)


def short_frames():
    whole = eth(IPV4, ip4(TCP, tcp(SYN)))
    for length in (14, 15, 33, 34, 37, 38, 53):
        yield whole[:length]
    six = eth(IPV6, ip6(UDP, udp(b"", src=CLIENT6, dst=SERVER6)))
    yield six[:53]
    yield six[:58]
    yield eth(VLAN, b"\0d")
    yield eth(0x0806, bytes(10))


def odd_ipv4():
    yield eth(IPV4, ip4(UDP, udp(b"x"), first=0x44))
    yield eth(IPV4, ip4(UDP, udp(b"x"), first=0x55))
    yield eth(IPV4, ip4(UDP, udp(b"x"), first=0x4F))
    yield eth(IPV4, ip4(UDP, udp(b"x"), length=1400))
    yield eth(IPV4, ip4(UDP, udp(b"x"), length=12))
    yield eth(IPV4, ip4(UDP, udp(b"x"), ttl=0))
    yield eth(IPV4, ip4(UDP, udp(b"x"), ttl=1))
    yield eth(IPV4, ip4(ICMP, echo(), src=SERVER, dst=SERVER))
    yield eth(IPV4, ip4(ICMP, echo(), options=bytes([7, 7, 4, 0, 0, 0, 0, 0])))
    yield eth(IPV4, ip4(UDP, bytes(64), frag=0x1FFF))
    yield eth(IPV4, ip4(UDP, udp(bytes(64)), frag=0x2000))
    yield eth(IPV4, ip4(253, b"experiment"))


def odd_ports():
    # MSS, SACK, timestamps, window scale, and no-operations up to the longest header there is.
    every_option = (bytes([2, 4, 5, 180, 4, 2, 8, 10]) + bytes(8) + bytes([1, 3, 3, 7]) +
                    bytes([1] * 20))
    yield eth(IPV4, ip4(TCP, tcp(SYN)))
    yield eth(IPV4, ip4(TCP, tcp(SYN, options=every_option)))
    yield eth(IPV4, ip4(TCP, tcp(SYN, doff=15)))
    yield eth(IPV4, ip4(TCP, tcp(SYN, doff=4)))
    yield eth(IPV4, ip4(TCP, tcp(SYN, port=23)))
    yield eth(IPV4, ip4(TCP, tcp(SYN | FIN)))
    yield eth(IPV4, ip4(TCP, tcp(SYN | RST)))
    yield eth(IPV4, ip4(TCP, tcp(0)))
    yield eth(IPV4, ip4(TCP, tcp(FIN | PSH | URG)))
    yield eth(IPV4, ip4(TCP, tcp(ACK)))
    yield eth(IPV4, ip4(TCP, tcp(RST)))
    yield eth(IPV4, ip4(TCP, tcp(SYN | ACK)))
    yield eth(IPV6, ip6(TCP, tcp(SYN, src=CLIENT6, dst=SERVER6)))
    yield eth(IPV6, ip6(TCP, tcp(ACK, src=CLIENT6, dst=SERVER6)))
    yield eth(IPV4, ip4(UDP, struct.pack("!HHHH", 40000, 53, 12, 0) + b"none"))
    yield eth(IPV4, ip4(UDP, struct.pack("!HHHH", 40000, 53, 12, 0xBAD) + b"evil"))
    yield eth(IPV4, ip4(UDP, udp(b"x", port=0)))
    yield eth(IPV4, ip4(UDP, udp(b"x", length=4)))
    # To an address translator's outside, where nobody holds the port.
    outside = bytes([198, 51, 100, 1])
    yield eth(IPV4, ip4(UDP, udp(b"x", port=9, src=SERVER, dst=outside), src=SERVER, dst=outside))
    yield eth(IPV4, ip4(ICMP, echo(code=1)))
    yield eth(IPV4, ip4(ICMP, echo()), to=b"\xff" * 6)


def odd_ipv6():
    datagram = udp(b"six", src=CLIENT6, dst=SERVER6)
    yield eth(IPV6, extension_chain([0, 43, 60]))
    yield eth(IPV6, extension_chain([0, 60, 43, 60, 60]))
    yield eth(IPV6, ip6(0, bytes([UDP, 255]) + datagram))
    yield eth(IPV6, ip6(44, bytes([UDP, 0, 0, 1, 0, 0, 0, 9]) + datagram))
    yield eth(IPV6, ip6(44, bytes([UDP, 0, 0, 9, 0, 0, 0, 9]) + datagram))
    yield eth(IPV6, ip6(59, b""))
    yield eth(IPV6, ip6(UDP, datagram, src=bytes.fromhex("ff02") + bytes(14)))
    yield eth(IPV6, ip6(UDP, datagram, length=1400))
    yield eth(IPV6, ip6(UDP, datagram, hops=0))


def odd_tags():
    packet = ip4(ICMP, echo())
    yield eth(VLAN, tags(1, packet, tci=0))
    yield eth(VLAN, tags(1, packet, tci=4095))
    yield eth(QINQ, tags(2, packet, tpid=QINQ))
    yield eth(VLAN, tags(3, packet))
    yield eth(VLAN, tags(33, packet))
    yield eth(VLAN, tags(40, packet))
    yield eth(VLAN, tags(1, b"", proto=0x88B5))


def odd_tunnels():
    packet = ip4(ICMP, echo())
    yield eth(IPV4, tunnels(3))
    yield eth(IPV4, tunnels(33))
    yield eth(IPV4, tunnels(40))
    yield eth(IPV4, ip4(IPIP, packet[:10]))
    yield eth(IPV4, ip4(IPIP, b""))
    yield eth(IPV6, ip6(IPIP, packet))
    yield eth(IPV6, ip6(IN6, ip6(ICMP6, bytes(8))))
    yield eth(IPV6, ip6(GRE, gre(0, IPV4, packet)))
    yield eth(IPV4, ip4(GRE, gre(0xB000, IPV4, packet, bytes(12))))
    yield eth(IPV4, ip4(GRE, gre(0x2001, 0x880B, bytes(16))))
    yield eth(IPV4, ip4(GRE, gre(0x4000, IPV4, packet)))
    yield eth(IPV4, ip4(GRE, gre(0, 0x6558, b"\2\0\0")))
    yield eth(IPV4, ip4(GRE, gre(0, 0x88B5, bytes(16))))
    yield eth(IPV4, ip4(GRE, b"\0\0\x08"))


def odd_frames():
    small = eth(IPV4, ip4(UDP, udp(b"x")))
    yield small + bytes(60 - len(small))
    yield small + b"somebody's memory"
    yield eth(0x88B5, bytes(46))
    yield eth(0x88CC, bytes(46), to=bytes.fromhex("0180c200000e"))
    yield eth(38, bytes.fromhex("424203") + bytes(43), to=bytes.fromhex("0180c2000000"))
    yield eth(IPV4, ip4(UDP, udp(b"x")), to=bytes.fromhex("01005e000001"))
    yield eth(IPV4, ip4(UDP, udp(bytes(1472))))
    yield eth(IPV4, ip4(UDP, udp(bytes(3486))))
    yield eth(IPV4, ip4(UDP, udp(bytes(8972))))
    yield eth(IPV4, ip4(TCP, tcp(ACK, payload=b"y" * 15999)[:-1] + b"z"))


def main():
    kinds = (short_frames, odd_ipv4, odd_ports, odd_ipv6, odd_tags, odd_tunnels, odd_frames)
    out = bytearray(struct.pack("<IHHIIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, 1))
    frames = [frame for kind in kinds for frame in kind()]
    for number, frame in enumerate(frames):
        out += struct.pack("<IIII", number, 0, len(frame), len(frame)) + frame
    with open(sys.argv[1], "wb") as file:
        file.write(out)


main()
