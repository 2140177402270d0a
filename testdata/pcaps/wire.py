#!/usr/bin/env python3
"""A tap or tun device whose packets leave wrapped: with VLAN tags, or in an IP tunnel.

    wire.py tap NAME --link DEV --tag 8100:100 [--tag ...]
        Ethernet frames of tap device NAME leave through DEV with the tags in front (outermost
        first), and frames that come in by DEV with just these tags come out of NAME.

    wire.py tun NAME --peer ADDR --proto ipip|6in4|gre [--key N]
    wire.py tap NAME --peer ADDR --proto gre
        Packets of NAME leave as payload of IPv4 packets to ADDR, whose headers the kernel writes.

Stands in for the kernel's own devices where a kernel was built without them. Runs until killed.
"""

import argparse
import errno
import fcntl
import os
import select
import socket
import struct

TUNSETIFF = 0x400454CA
IFF_TUN, IFF_TAP, IFF_NO_PI = 1, 2, 0x1000
SOL_PACKET, PACKET_AUXDATA, TP_STATUS_VLAN_VALID = 263, 8, 0x10
PACKET_OUTGOING = 4
ETH_P_ALL = 3
PROTOCOLS = {"ipip": 4, "6in4": 41, "gre": 47}
ETH_P_TEB = 0x6558


def open_device(kind, name):
    fd = os.open("/dev/net/tun", os.O_RDWR)
    flags = (IFF_TUN if kind == "tun" else IFF_TAP) | IFF_NO_PI
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
    return fd


class Trunk:
    """Frames on a device, with tags between the MAC addresses and the rest."""

    def __init__(self, device, tags):
        self.tags = b"".join(struct.pack("!HH", int(tpid, 16), int(tci))
                             for tpid, tci in (tag.split(":") for tag in tags))
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self.socket.bind((device, 0))
        self.socket.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)

    def send(self, frame):
        self.socket.send(frame[:12] + self.tags + frame[12:])

    def receive(self):
        frame, ancillary, _, address = self.socket.recvmsg(65536, 64)
        if address[2] == PACKET_OUTGOING:
            return None
        # The kernel takes the outermost tag off and tells it beside the frame.
        for level, kind, data in ancillary:
            if level == SOL_PACKET and kind == PACKET_AUXDATA:
                status, _, _, _, _, tci, tpid = struct.unpack("IIIHHHH", data[:20])
                if status & TP_STATUS_VLAN_VALID:
                    frame = frame[:12] + struct.pack("!HH", tpid, tci) + frame[12:]
        if not frame[12:].startswith(self.tags):
            return None
        return frame[:12] + frame[12 + len(self.tags):]


class Tunnel:
    """Packets as payload of IPv4, behind a GRE header if the protocol is GRE."""

    def __init__(self, kind, peer, proto, key):
        self.kind, self.peer, self.gre, self.key = kind, peer, proto == "gre", key
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_RAW, PROTOCOLS[proto])
        self.socket.connect((peer, 0))

    def header(self, packet):
        if not self.gre:
            return b""
        if self.kind == "tap":
            proto = ETH_P_TEB
        else:
            proto = 0x0800 if packet[0] >> 4 == 4 else 0x86DD
        if self.key is None:
            return struct.pack("!HH", 0, proto)
        return struct.pack("!HHI", 0x2000, proto, self.key)

    def send(self, packet):
        self.socket.send(self.header(packet) + packet)

    def receive(self):
        packet = self.socket.recv(65536)
        packet = packet[(packet[0] & 15) * 4:]
        if not self.gre:
            return packet
        keyed = struct.unpack("!H", packet[:2])[0] & 0x2000
        return packet[8:] if keyed else packet[4:]


def deliver(device, packet):
    try:
        os.write(device, packet)
    except OSError as error:
        # The device is not up yet: the packet is lost, as on any wire.
        if error.errno != errno.EIO:
            raise


def run(device, far):
    while True:
        ready, _, _ = select.select([device, far.socket], [], [])
        if device in ready:
            far.send(os.read(device, 65536))
        if far.socket in ready:
            packet = far.receive()
            if packet:
                deliver(device, packet)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=["tap", "tun"])
    parser.add_argument("name")
    parser.add_argument("--link")
    parser.add_argument("--tag", action="append", default=[])
    parser.add_argument("--peer")
    parser.add_argument("--proto", choices=PROTOCOLS)
    parser.add_argument("--key", type=int)
    args = parser.parse_args()
    if args.link:
        far = Trunk(args.link, args.tag)
    else:
        far = Tunnel(args.kind, args.peer, args.proto, args.key)
    # Last, so that who sees the device knows that the way out is open.
    run(open_device(args.kind, args.name), far)


main()
