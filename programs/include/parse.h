/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Walking the headers of a frame. A cursor remembers how far the frame has been read; each take_*
 * function returns the next header and moves on, or returns NULL when the frame is too short or
 * the header makes no sense. A returned header may be read and written in full.
 */
#ifndef EARLYBIRD_PARSE_H
#define EARLYBIRD_PARSE_H

#include "base.h"

struct cursor {
	void *pos;
	void *end;
};

static __always_inline struct cursor frame_start(struct xdp_md *ctx)
{
	struct cursor c = {
		.pos = (void *)(long)ctx->data,
		.end = (void *)(long)ctx->data_end,
	};

	/* Saves the test whether the first header taken is NULL; what take() returns is tested
	 * everywhere, and only the length check can fail.
	 */
	__builtin_assume(c.pos != NULL);
	return c;
}

static __always_inline void *take(struct cursor *c, __u32 size)
{
	void *header = c->pos;

	if (header + size > c->end)
		return NULL;
	c->pos = header + size;
	return header;
}

/* The Ethernet header without its tags: proto gets the type of what follows, c stands on it. */
static __always_inline struct ethhdr *take_eth(struct cursor *c, __be16 *proto)
{
	struct ethhdr *eth = take(c, sizeof(*eth));

	if (eth)
		*proto = eth->h_proto;
	return eth;
}

static __always_inline bool is_vlan(__be16 proto)
{
	return proto == bpf_htons(ETH_P_8021Q) || proto == bpf_htons(ETH_P_8021AD);
}

/* Steps over at most two tags (QinQ). A third one is left where it is: proto then says VLAN. */
static __always_inline bool skip_vlans(struct cursor *c, __be16 *proto)
{
	for (int i = 0; i < 2 && is_vlan(*proto); i++) {
		struct vlan_hdr *vlan = take(c, sizeof(*vlan));

		if (!vlan)
			return false;
		*proto = vlan->proto;
	}
	return true;
}

/* The IPv4 header; c stands behind its options. */
static __always_inline struct iphdr *take_ipv4(struct cursor *c)
{
	struct iphdr *ip = take(c, sizeof(*ip));

	if (!ip || ip->version != 4 || ip->ihl < 5)
		return NULL;
	if ((void *)ip + ip->ihl * 4 > c->end)
		return NULL;
	c->pos = (void *)ip + ip->ihl * 4;
	return ip;
}

static __always_inline struct ipv6hdr *take_ipv6(struct cursor *c)
{
	struct ipv6hdr *ip6 = take(c, sizeof(*ip6));

	return ip6 && ip6->version == 6 ? ip6 : NULL;
}

/* Steps over IPv6 extension headers: proto goes in as the first next-header and comes out as the
 * upper protocol. *offset is set if this is a fragment that does not start with the upper header.
 * Behind the fourth extension header the walk stops, with proto whatever it says is next.
 */
static __always_inline bool skip_ipv6_ext(struct cursor *c, __u8 *proto, bool *fragment,
					  bool *offset)
{
	for (int i = 0; i < 4; i++) {
		struct ipv6_frag_hdr *frag;
		struct ipv6_opt_hdr *opt;

		switch (*proto) {
		case IPPROTO_HOPOPTS:
		case IPPROTO_ROUTING:
		case IPPROTO_DSTOPTS:
			opt = take(c, sizeof(*opt));
			if (!opt)
				return false;
			if ((void *)opt + (opt->hdrlen + 1) * 8 > c->end)
				return false;
			c->pos = (void *)opt + (opt->hdrlen + 1) * 8;
			*proto = opt->nexthdr;
			break;
		case IPPROTO_FRAGMENT:
			frag = take(c, sizeof(*frag));
			if (!frag)
				return false;
			*fragment = true;
			*offset = frag->frag_off & bpf_htons(IPV6_OFFSET);
			*proto = frag->nexthdr;
			if (*offset)
				return true;
			break;
		default:
			return true;
		}
	}
	return true;
}

/* The TCP header; c stands behind its options. */
static __always_inline struct tcphdr *take_tcp(struct cursor *c)
{
	struct tcphdr *tcp = take(c, sizeof(*tcp));

	if (!tcp || tcp->doff < 5)
		return NULL;
	if ((void *)tcp + tcp->doff * 4 > c->end)
		return NULL;
	c->pos = (void *)tcp + tcp->doff * 4;
	return tcp;
}

/* Sends a frame back to where it came from, as far as the Ethernet header is concerned. */
static __always_inline void swap_macs(struct ethhdr *eth)
{
	__u8 mac[ETH_ALEN];

	__builtin_memcpy(mac, eth->h_source, ETH_ALEN);
	__builtin_memcpy(eth->h_source, eth->h_dest, ETH_ALEN);
	__builtin_memcpy(eth->h_dest, mac, ETH_ALEN);
}

#endif
