// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* tailcall_parser: one program per protocol, joined by tail calls.
 *
 * tailcall_parser starts, and every program reads one header and jumps to the one for the next,
 * through the map parsers, which user space may refill while frames pass: to learn a protocol, or
 * to have another opinion on one. What the next program must know lies in per-CPU memory, since
 * only the context itself goes through a tail call.
 *
 *   end of a chain that makes sense               XDP_PASS
 *   a header cut off, or one that cannot be true  XDP_DROP
 *   a protocol without a program                  XDP_PASS, counted as unknown
 *   more than 33 jumps                            XDP_ABORTED; tunnels in tunnels get there
 *
 * Maps: parsers (enum parser to program), scratch (state of the frame), counters (headers seen per
 * enum counter and CPU).
 */
#include "include/parse.h"

enum parser {
	PARSE_VLAN,
	PARSE_ARP,
	PARSE_IPV4,
	PARSE_IPV6,
	PARSE_IPV6_EXT,
	PARSE_ICMP,
	PARSE_ICMPV6,
	PARSE_TCP,
	PARSE_UDP,
	PARSE_GRE,
	PARSERS,
};

/* The first counters are the parsers, one each. */
enum counter {
	COUNT_UNKNOWN = PARSERS,
	COUNT_MALFORMED,
	COUNT_TOO_DEEP,
	COUNTERS,
};

int parse_vlan(struct xdp_md *ctx);
int parse_arp(struct xdp_md *ctx);
int parse_ipv4(struct xdp_md *ctx);
int parse_ipv6(struct xdp_md *ctx);
int parse_ipv6_ext(struct xdp_md *ctx);
int parse_icmp(struct xdp_md *ctx);
int parse_icmpv6(struct xdp_md *ctx);
int parse_tcp(struct xdp_md *ctx);
int parse_udp(struct xdp_md *ctx);
int parse_gre(struct xdp_md *ctx);

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, PARSERS);
	__uint(key_size, sizeof(__u32));
	__array(values, int(struct xdp_md *));
} parsers SEC(".maps") = {
	.values = {
		[PARSE_VLAN] = parse_vlan,
		[PARSE_ARP] = parse_arp,
		[PARSE_IPV4] = parse_ipv4,
		[PARSE_IPV6] = parse_ipv6,
		[PARSE_IPV6_EXT] = parse_ipv6_ext,
		[PARSE_ICMP] = parse_icmp,
		[PARSE_ICMPV6] = parse_icmpv6,
		[PARSE_TCP] = parse_tcp,
		[PARSE_UDP] = parse_udp,
		[PARSE_GRE] = parse_gre,
	},
};

struct state {
	__u32 offset; /* of the header to be read */
	__u8 proto;   /* of an IPv6 extension header */
	__u8 zero[3];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct state);
} scratch SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

/* No header starts further in; the verifier needs a bound to let an offset into the frame. */
#define MAX_OFFSET 2047

static __always_inline struct state *frame_state(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&scratch, &zero);
}

/* A cursor on the header that this program is to read. */
static __always_inline bool start(struct xdp_md *ctx, struct state *state, struct cursor *c)
{
	__u32 offset = state->offset;

	*c = frame_start(ctx);
	if (offset > MAX_OFFSET)
		return false;
	c->pos += offset;
	return true;
}

static __always_inline int finish(enum counter counter, int action)
{
	count(&counters, counter);
	return action;
}

static __always_inline int malformed(void)
{
	return finish(COUNT_MALFORMED, XDP_DROP);
}

/* Does not return, unless 33 jumps were made or somebody emptied the entry. */
static __always_inline int jump(struct xdp_md *ctx, struct state *state, __u32 length,
				enum parser parser)
{
	state->offset += length;
	bpf_tail_call(ctx, &parsers, parser);
	return finish(COUNT_TOO_DEEP, XDP_ABORTED);
}

static __always_inline int by_ethertype(struct xdp_md *ctx, struct state *state, __u32 length,
					__be16 proto)
{
	switch (bpf_ntohs(proto)) {
	case ETH_P_8021Q:
	case ETH_P_8021AD:
		return jump(ctx, state, length, PARSE_VLAN);
	case ETH_P_ARP:
		return jump(ctx, state, length, PARSE_ARP);
	case ETH_P_IP:
		return jump(ctx, state, length, PARSE_IPV4);
	case ETH_P_IPV6:
		return jump(ctx, state, length, PARSE_IPV6);
	default:
		return finish(COUNT_UNKNOWN, XDP_PASS);
	}
}

static __always_inline int by_ip_proto(struct xdp_md *ctx, struct state *state, __u32 length,
				       __u8 proto)
{
	switch (proto) {
	case IPPROTO_HOPOPTS:
	case IPPROTO_ROUTING:
	case IPPROTO_FRAGMENT:
	case IPPROTO_DSTOPTS:
		state->proto = proto;
		return jump(ctx, state, length, PARSE_IPV6_EXT);
	case IPPROTO_ICMP:
		return jump(ctx, state, length, PARSE_ICMP);
	case IPPROTO_ICMPV6:
		return jump(ctx, state, length, PARSE_ICMPV6);
	case IPPROTO_TCP:
		return jump(ctx, state, length, PARSE_TCP);
	case IPPROTO_UDP:
		return jump(ctx, state, length, PARSE_UDP);
	case IPPROTO_GRE:
		return jump(ctx, state, length, PARSE_GRE);
	case IPPROTO_IPIP:
		return jump(ctx, state, length, PARSE_IPV4);
	case IPPROTO_IPV6:
		return jump(ctx, state, length, PARSE_IPV6);
	case IPPROTO_NONE:
		return XDP_PASS;
	default:
		return finish(COUNT_UNKNOWN, XDP_PASS);
	}
}

SEC("xdp")
int tailcall_parser(struct xdp_md *ctx)
{
	struct state *state = frame_state();
	struct cursor c = frame_start(ctx);
	__be16 proto;

	if (!state || !take_eth(&c, &proto))
		return malformed();
	state->offset = 0;
	return by_ethertype(ctx, state, sizeof(struct ethhdr), proto);
}

SEC("xdp")
int parse_vlan(struct xdp_md *ctx)
{
	struct state *state = frame_state();
	struct vlan_hdr *vlan;
	struct cursor c;

	count(&counters, PARSE_VLAN);
	if (!state || !start(ctx, state, &c))
		return malformed();
	vlan = take(&c, sizeof(*vlan));
	if (!vlan)
		return malformed();
	return by_ethertype(ctx, state, sizeof(*vlan), vlan->proto);
}

/* ARP for IPv4 over Ethernet, the only one there is today. */
struct arp_ipv4 {
	__be16 hw_type;
	__be16 proto;
	__u8 hw_len;
	__u8 proto_len;
	__be16 op;
	__u8 sender_mac[ETH_ALEN];
	__u8 sender_ip[4];
	__u8 target_mac[ETH_ALEN];
	__u8 target_ip[4];
};

SEC("xdp")
int parse_arp(struct xdp_md *ctx)
{
	struct state *state = frame_state();
	struct arp_ipv4 *arp;
	struct cursor c;

	count(&counters, PARSE_ARP);
	if (!state || !start(ctx, state, &c))
		return malformed();
	arp = take(&c, sizeof(*arp));
	if (!arp || arp->hw_type != bpf_htons(1) || arp->proto != bpf_htons(ETH_P_IP) ||
	    arp->hw_len != ETH_ALEN || arp->proto_len != 4)
		return malformed();
	return XDP_PASS;
}

SEC("xdp")
int parse_ipv4(struct xdp_md *ctx)
{
	struct state *state = frame_state();
	struct cursor c;
	struct iphdr *ip;

	count(&counters, PARSE_IPV4);
	if (!state || !start(ctx, state, &c))
		return malformed();
	ip = take_ipv4(&c);
	/* A host that sends to itself does so on lo. */
	if (!ip || ip->saddr == ip->daddr)
		return malformed();
	if (ip->frag_off & bpf_htons(IPV4_OFFSET))
		return XDP_PASS;
	return by_ip_proto(ctx, state, ip->ihl * 4, ip->protocol);
}

SEC("xdp")
int parse_ipv6(struct xdp_md *ctx)
{
	struct state *state = frame_state();
	struct ipv6hdr *ip6;
	struct cursor c;

	count(&counters, PARSE_IPV6);
	if (!state || !start(ctx, state, &c))
		return malformed();
	ip6 = take_ipv6(&c);
	/* Nothing comes from a group. */
	if (!ip6 || ip6->saddr.s6_addr[0] == 0xff)
		return malformed();
	return by_ip_proto(ctx, state, sizeof(*ip6), ip6->nexthdr);
}

SEC("xdp")
int parse_ipv6_ext(struct xdp_md *ctx)
{
	struct state *state = frame_state();
	struct ipv6_frag_hdr *frag;
	struct ipv6_opt_hdr *opt;
	struct cursor c;

	count(&counters, PARSE_IPV6_EXT);
	if (!state || !start(ctx, state, &c))
		return malformed();
	if (state->proto == IPPROTO_FRAGMENT) {
		frag = take(&c, sizeof(*frag));
		if (!frag)
			return malformed();
		if (frag->frag_off & bpf_htons(IPV6_OFFSET))
			return XDP_PASS;
		return by_ip_proto(ctx, state, sizeof(*frag), frag->nexthdr);
	}
	opt = take(&c, sizeof(*opt));
	if (!opt)
		return malformed();
	return by_ip_proto(ctx, state, (opt->hdrlen + 1) * 8, opt->nexthdr);
}

SEC("xdp")
int parse_icmp(struct xdp_md *ctx)
{
	struct state *state = frame_state();
	struct cursor c;

	count(&counters, PARSE_ICMP);
	if (!state || !start(ctx, state, &c) || !take(&c, sizeof(struct icmphdr)))
		return malformed();
	return XDP_PASS;
}

SEC("xdp")
int parse_icmpv6(struct xdp_md *ctx)
{
	struct state *state = frame_state();
	struct cursor c;

	count(&counters, PARSE_ICMPV6);
	/* Type, code and checksum are common to all messages. */
	if (!state || !start(ctx, state, &c) || !take(&c, 4))
		return malformed();
	return XDP_PASS;
}

SEC("xdp")
int parse_tcp(struct xdp_md *ctx)
{
	struct state *state = frame_state();
	struct tcphdr *tcp;
	struct cursor c;

	count(&counters, PARSE_TCP);
	if (!state || !start(ctx, state, &c))
		return malformed();
	tcp = take_tcp(&c);
	/* No stack sends these; scanners do, to see which stack answers how. */
	if (!tcp || (tcp->syn && (tcp->fin || tcp->rst)) || (!tcp->syn && !tcp->ack && !tcp->rst))
		return malformed();
	return XDP_PASS;
}

SEC("xdp")
int parse_udp(struct xdp_md *ctx)
{
	struct state *state = frame_state();
	struct udphdr *udp;
	struct cursor c;

	count(&counters, PARSE_UDP);
	if (!state || !start(ctx, state, &c))
		return malformed();
	udp = take(&c, sizeof(*udp));
	if (!udp || !udp->dest || bpf_ntohs(udp->len) < sizeof(*udp))
		return malformed();
	return XDP_PASS;
}

/* GRE without options; with them the packet is left alone. */
SEC("xdp")
int parse_gre(struct xdp_md *ctx)
{
	struct state *state = frame_state();
	struct gre_hdr *gre;
	struct cursor c;

	count(&counters, PARSE_GRE);
	if (!state || !start(ctx, state, &c))
		return malformed();
	gre = take(&c, sizeof(*gre));
	if (!gre)
		return malformed();
	if (gre->flags)
		return finish(COUNT_UNKNOWN, XDP_PASS);
	return by_ethertype(ctx, state, sizeof(*gre), gre->proto);
}

char _license[] SEC("license") = "Dual BSD/GPL";
