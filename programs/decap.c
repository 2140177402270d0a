// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* decap: takes the outer header off tunnelled packets, without a tunnel device.
 *
 *   IPIP, 6in4           IPv4 outside, protocol 4 or 41
 *   4in6, 6in6           IPv6 outside, next header 4 or 41
 *   GRE                  protocol 47 outside IPv4 or IPv6, with or without checksum, key and
 *                        sequence number; inside IPv4, IPv6 or a whole Ethernet frame (0x6558)
 *
 * The packet goes on to the stack as it was before the tunnel (XDP_PASS). A header that says it is
 * a tunnel and then is cut off is dropped. With endpoints_only, only the sources in the map
 * endpoints may send through a tunnel, the others are dropped: a tunnel without a list of senders
 * is a way around a firewall. Fragments and GRE with routing or of another version pass as they
 * came, the stack is the one to judge them.
 *
 * Maps: endpoints (permitted outer source, IPv4 as v4-mapped), tunnels (packets per enum tunnel).
 */
#include "include/flow.h"

volatile const bool endpoints_only = false;

#define ETH_P_TEB_BE bpf_htons(0x6558)

enum tunnel {
	TUNNEL_NONE,
	TUNNEL_IPV4_IN_IPV4,
	TUNNEL_IPV6_IN_IPV4,
	TUNNEL_IPV4_IN_IPV6,
	TUNNEL_IPV6_IN_IPV6,
	TUNNEL_GRE,
	TUNNEL_GRE_ETHERNET,
	TUNNEL_UNKNOWN_GRE,
	TUNNEL_CUT_OFF,
	TUNNEL_NOT_PERMITTED,
	TUNNELS,
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __be32[4]);
	__type(value, __u64);
} endpoints SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, TUNNELS);
	__type(key, __u32);
	__type(value, __u64);
} tunnels SEC(".maps");

/* What is found around the inner packet. */
struct wrapping {
	enum tunnel tunnel;
	__be16 inner_proto;
	__u16 length; /* bytes between the outer Ethernet header and the inner packet */
	__be32 source[4];
};

/* The GRE header's length follows from its flags (RFC 2890). */
static __always_inline enum tunnel take_gre(struct cursor *c, __be16 *proto)
{
	struct gre_hdr *gre = take(c, sizeof(*gre));
	__u32 optional = 0;
	__u16 flags;

	if (!gre)
		return TUNNEL_CUT_OFF;
	flags = bpf_ntohs(gre->flags);
	if (flags & (GRE_FLAG_ROUTING | GRE_VERSION))
		return TUNNEL_UNKNOWN_GRE;
	optional += flags & GRE_FLAG_CSUM ? 4 : 0;
	optional += flags & GRE_FLAG_KEY ? 4 : 0;
	optional += flags & GRE_FLAG_SEQ ? 4 : 0;
	*proto = gre->proto;
	if (!take(c, optional))
		return TUNNEL_CUT_OFF;
	if (*proto == ETH_P_TEB_BE)
		return TUNNEL_GRE_ETHERNET;
	if (*proto == bpf_htons(ETH_P_IP) || *proto == bpf_htons(ETH_P_IPV6))
		return TUNNEL_GRE;
	return TUNNEL_UNKNOWN_GRE;
}

/* The cursor stands behind the outer IP header, proto is what that header says comes next. */
static __always_inline enum tunnel take_tunnel(struct cursor *c, __u8 proto, bool outer6,
					       __be16 *inner_proto)
{
	switch (proto) {
	case IPPROTO_IPIP:
		*inner_proto = bpf_htons(ETH_P_IP);
		return outer6 ? TUNNEL_IPV4_IN_IPV6 : TUNNEL_IPV4_IN_IPV4;
	case IPPROTO_IPV6:
		*inner_proto = bpf_htons(ETH_P_IPV6);
		return outer6 ? TUNNEL_IPV6_IN_IPV6 : TUNNEL_IPV6_IN_IPV4;
	case IPPROTO_GRE:
		return take_gre(c, inner_proto);
	default:
		return TUNNEL_NONE;
	}
}

static __always_inline void look_inside(struct xdp_md *ctx, struct wrapping *w)
{
	bool fragment = false, offset = false;
	struct cursor c = frame_start(ctx);
	struct ipv6hdr *ip6;
	struct iphdr *ip;
	__be16 eth_proto;
	void *l3;

	w->tunnel = TUNNEL_NONE;
	if (!take_eth(&c, &eth_proto))
		return;
	l3 = c.pos;
	if (eth_proto == bpf_htons(ETH_P_IP)) {
		ip = take_ipv4(&c);
		if (!ip || ip->frag_off & bpf_htons(IPV4_OFFSET | IPV4_MF))
			return;
		map_ipv4(w->source, ip->saddr);
		w->tunnel = take_tunnel(&c, ip->protocol, false, &w->inner_proto);
	} else if (eth_proto == bpf_htons(ETH_P_IPV6)) {
		__u8 proto;

		ip6 = take_ipv6(&c);
		if (!ip6)
			return;
		__builtin_memcpy(w->source, &ip6->saddr, sizeof(w->source));
		proto = ip6->nexthdr;
		if (!skip_ipv6_ext(&c, &proto, &fragment, &offset) || fragment)
			return;
		w->tunnel = take_tunnel(&c, proto, true, &w->inner_proto);
	}
	w->length = c.pos - l3;
}

/* An Ethernet frame inside brings its own header; an IP packet gets the outer frame's MAC
 * addresses, which are what brought it here.
 */
static __always_inline int unwrap(struct xdp_md *ctx, const struct wrapping *w)
{
	struct cursor c = frame_start(ctx);
	struct ethhdr *eth, saved;

	if (w->tunnel == TUNNEL_GRE_ETHERNET)
		return bpf_xdp_adjust_head(ctx, sizeof(*eth) + w->length) ? XDP_DROP : XDP_PASS;

	eth = take(&c, sizeof(*eth));
	if (!eth)
		return XDP_DROP;
	saved = *eth;
	saved.h_proto = w->inner_proto;
	/* Refuses to leave less than an Ethernet header. */
	if (bpf_xdp_adjust_head(ctx, w->length))
		return XDP_DROP;
	c = frame_start(ctx);
	eth = take(&c, sizeof(*eth));
	if (!eth)
		return XDP_DROP;
	*eth = saved;
	return XDP_PASS;
}

SEC("xdp")
int decap(struct xdp_md *ctx)
{
	struct wrapping w = {};

	look_inside(ctx, &w);
	if (endpoints_only && w.tunnel != TUNNEL_NONE && w.tunnel != TUNNEL_CUT_OFF) {
		__u64 *packets = bpf_map_lookup_elem(&endpoints, &w.source);

		if (packets)
			__sync_fetch_and_add(packets, 1);
		else
			w.tunnel = TUNNEL_NOT_PERMITTED;
	}

	count(&tunnels, w.tunnel);
	switch (w.tunnel) {
	case TUNNEL_NONE:
	case TUNNEL_UNKNOWN_GRE:
		return XDP_PASS;
	case TUNNEL_CUT_OFF:
	case TUNNEL_NOT_PERMITTED:
		return XDP_DROP;
	default:
		return unwrap(ctx, &w);
	}
}

char _license[] SEC("license") = "Dual BSD/GPL";
