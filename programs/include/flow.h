/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The 5-tuple of a packet, one form for IPv4 and IPv6: an IPv4 address is the last word of a
 * v4-mapped IPv6 address (::ffff:a.b.c.d), so one table serves both.
 */
#ifndef EARLYBIRD_FLOW_H
#define EARLYBIRD_FLOW_H

#include "parse.h"

/* 40 bytes without holes: usable as a map key as it is. */
struct flow_key {
	__be32 saddr[4];
	__be32 daddr[4];
	__be16 sport;
	__be16 dport;
	__u8 proto;
	__u8 family; /* 4 or 6 */
	__u16 zero;
};

enum flow_kind {
	FLOW_OK,
	FLOW_FRAGMENT, /* a later fragment: addresses and protocol, but no ports */
	FLOW_NOT_IP,
	FLOW_MALFORMED,
};

static __always_inline void map_ipv4(__be32 to[4], __be32 addr)
{
	to[0] = 0;
	to[1] = 0;
	to[2] = bpf_htonl(0xffff);
	to[3] = addr;
}

static __always_inline enum flow_kind flow_ports(struct cursor *c, struct flow_key *key)
{
	/* TCP, UDP and SCTP all start with the two ports. */
	if (key->proto == IPPROTO_TCP || key->proto == IPPROTO_UDP || key->proto == IPPROTO_SCTP) {
		__be16 *ports = take(c, 2 * sizeof(*ports));

		if (!ports)
			return FLOW_MALFORMED;
		key->sport = ports[0];
		key->dport = ports[1];
	}
	return FLOW_OK;
}

static __always_inline enum flow_kind flow_ipv4(struct cursor *c, struct flow_key *key)
{
	struct iphdr *ip = take_ipv4(c);

	if (!ip)
		return FLOW_MALFORMED;
	key->family = 4;
	key->proto = ip->protocol;
	map_ipv4(key->saddr, ip->saddr);
	map_ipv4(key->daddr, ip->daddr);
	if (ip->frag_off & bpf_htons(IPV4_OFFSET))
		return FLOW_FRAGMENT;
	return flow_ports(c, key);
}

static __always_inline enum flow_kind flow_ipv6(struct cursor *c, struct flow_key *key)
{
	struct ipv6hdr *ip6 = take_ipv6(c);
	bool fragment = false, offset = false;

	if (!ip6)
		return FLOW_MALFORMED;
	key->family = 6;
	key->proto = ip6->nexthdr;
	__builtin_memcpy(key->saddr, &ip6->saddr, sizeof(key->saddr));
	__builtin_memcpy(key->daddr, &ip6->daddr, sizeof(key->daddr));
	if (!skip_ipv6_ext(c, &key->proto, &fragment, &offset))
		return FLOW_MALFORMED;
	if (offset)
		return FLOW_FRAGMENT;
	return flow_ports(c, key);
}

/* Fills key from the frame; key is all zero where the answer is FLOW_NOT_IP. */
static __always_inline enum flow_kind flow_of(struct xdp_md *ctx, struct flow_key *key)
{
	struct cursor c = frame_start(ctx);
	__be16 proto;

	__builtin_memset(key, 0, sizeof(*key));
	if (!take_eth(&c, &proto) || !skip_vlans(&c, &proto))
		return FLOW_MALFORMED;
	if (proto == bpf_htons(ETH_P_IP))
		return flow_ipv4(&c, key);
	if (proto == bpf_htons(ETH_P_IPV6))
		return flow_ipv6(&c, key);
	return FLOW_NOT_IP;
}

static __always_inline __u32 mix(__u32 hash, __u32 word)
{
	hash = (hash ^ word) * 0x9e3779b1;
	return hash ^ (hash >> 15);
}

/* A hash of the whole key; both directions of a connection hash differently. */
static __always_inline __u32 flow_hash(const struct flow_key *key, __u32 seed)
{
	const __u32 *word = (const __u32 *)key;
	__u32 hash = seed;

	for (int i = 0; i < (int)(sizeof(*key) / sizeof(*word)); i++)
		hash = mix(hash, word[i]);
	return mix(hash, hash >> 16);
}

#endif
