/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What every program here starts from: the kernel's ABI, libbpf's macros, and the wire formats
 * and constants that the Debian 12 headers (Linux 6.1) do not offer to BPF programs.
 */
#ifndef EARLYBIRD_BASE_H
#define EARLYBIRD_BASE_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/icmp.h>
#include <linux/icmpv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <stdbool.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#ifndef NULL
#define NULL ((void *)0)
#endif

/* <sys/socket.h> is not for BPF programs, and bpf_fib_lookup() wants these. */
#ifndef AF_INET
#define AF_INET 2
#define AF_INET6 10
#endif

/* Bits of iphdr.frag_off, in host byte order. */
#define IPV4_DF 0x4000
#define IPV4_MF 0x2000
#define IPV4_OFFSET 0x1fff

/* Bits of ipv6_frag_hdr.frag_off, in host byte order. */
#define IPV6_MF 0x0001
#define IPV6_OFFSET 0xfff8

/* The four tag-control bytes after the two MAC addresses of a tagged frame. */
struct vlan_hdr {
	__be16 tci;
	__be16 proto;
};

#define VLAN_VID_MASK 0x0fff
#define VLAN_PCP_SHIFT 13

struct ipv6_frag_hdr {
	__u8 nexthdr;
	__u8 reserved;
	__be16 frag_off;
	__be32 id;
};

struct gre_hdr {
	__be16 flags;
	__be16 proto;
};

/* Bits of gre_hdr.flags, in host byte order (RFC 2784, RFC 2890). */
#define GRE_FLAG_CSUM 0x8000
#define GRE_FLAG_ROUTING 0x4000
#define GRE_FLAG_KEY 0x2000
#define GRE_FLAG_SEQ 0x1000
#define GRE_VERSION 0x0007

/* IPv4 address in network byte order; usable in initialisers. */
#define IPV4(a, b, c, d) \
	bpf_htonl(((__u32)(a) << 24) | ((__u32)(b) << 16) | ((__u32)(c) << 8) | (__u32)(d))

/* Counts one event in a per-CPU (or otherwise private) array of u64. */
static __always_inline void count(void *counters, __u32 which)
{
	__u64 *counter = bpf_map_lookup_elem(counters, &which);

	if (counter)
		*counter += 1;
}

#endif
