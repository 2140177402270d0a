#!/usr/bin/env python3
"""Makes the bad inputs of this folder anew. README.md says what is wrong with each.

Needs clang-19, llvm-strip-19 and the Debian packages libbpf-dev and linux-libc-dev, and the
objects of ../../programs.
"""

import glob
import os
import struct
import subprocess

LLVM = os.environ.get("LLVM", "19")
ETHERNET, RAW_IP, LINUX_SLL = 1, 101, 113
# A ping from 10.0.0.2 to 192.0.2.2, without its Ethernet header.
ECHO = bytes.fromhex("450000240001400040016ed40a000002c0000202" "08003d55000700016561726c79626972")


def write(name, data):
    with open(name, "wb") as file:
        file.write(data)


def compile_object(source, target, name):
    headers = glob.glob("/usr/include/*-linux-gnu")[0]
    subprocess.run([f"clang-{LLVM}", "-O2", "-g", "-target", target, "-isystem", headers,
                    f"-ffile-prefix-map={os.getcwd()}=.", "-c", source, "-o", name], check=True)
    subprocess.run([f"llvm-strip-{LLVM}", "-g", name], check=True)


def objects():
    for name in ("no_xdp", "no_program", "missing_kfunc", "unchecked"):
        compile_object(f"{name}.c", "bpf", f"{name}.o")
    compile_object("unchecked.c", "bpfeb", "big_endian.o")
    compile_object("no_program.c", "x86_64-linux-gnu", "other_machine.o")
    with open("../../programs/firewall.bpf.o", "rb") as file:
        good = file.read()
    write("truncated.o", good[:4000])
    write("header_only.o", good[:64])
    with open("../objects/core_relo.o", "rb") as file:
        write("newline_in_access_path.o", file.read().replace(b"\0000:1\0", b"\0\n:1\0", 1))
    write("text.o", b"This is a text file that somebody called an object.\n")
    write("empty.o", b"")


def record(frame, length=None):
    length = len(frame) if length is None else length
    return struct.pack("<IIII", 0, 0, length, length) + frame


def pcap(*records, link=ETHERNET):
    return struct.pack("<IHHIIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, link) + b"".join(records)


def block(kind, body, length=None):
    length = len(body) + 12 if length is None else length
    return struct.pack("<II", kind, length) + body + struct.pack("<I", length)


def pcapng(*blocks):
    section = block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1))
    interface = block(1, struct.pack("<HHI", ETHERNET, 0, 262144))
    return section + interface + b"".join(blocks)


def enhanced(frame, interface=0, captured=None):
    captured = len(frame) if captured is None else captured
    head = struct.pack("<IIIII", interface, 0, 0, captured, len(frame))
    return block(6, head + frame + bytes(-len(frame) % 4))


def captures():
    frame = bytes.fromhex("0200000000010200000000020800") + ECHO
    write("runt.pcap", pcap(record(frame[:13]), record(frame)))
    write("raw_ip.pcap", pcap(record(ECHO), link=RAW_IP))
    cooked = struct.pack("!HHH8sH", 0, 1, 6, bytes.fromhex("020000000002") + bytes(2), 0x0800)
    write("linux_sll.pcap", pcap(record(cooked + ECHO), link=LINUX_SLL))
    write("no_packets.pcap", pcap())
    write("truncated.pcap", pcap(record(frame), record(frame))[:-20])
    write("truncated_record.pcap", pcap(record(frame), record(frame)[:7]))
    write("huge_record.pcap", pcap(record(frame), record(frame, 0xFFFFFFFF)))
    write("truncated.pcapng", pcapng(enhanced(frame), enhanced(frame))[:-30])
    write("zero_block.pcapng", pcapng(enhanced(frame), block(6, b"", 0)))
    write("no_interface.pcapng", pcapng(enhanced(frame, interface=3)))
    write("long_packet.pcapng", pcapng(enhanced(frame, captured=5000)))
    write("text.pcap", b"This is a text file that somebody called a capture.\n")
    write("empty.pcap", b"")


os.chdir(os.path.dirname(os.path.abspath(__file__)))
objects()
captures()
