// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* router: forwards IPv4 and IPv6 by the kernel's own routing and neighbour tables.
 *
 * A packet whose route and neighbour the kernel knows gets its TTL decremented and its MAC
 * addresses rewritten, and leaves through the device that tx_ports names for the route's ifindex.
 * All that needs more than that (TTL spent, no neighbour yet, too long, options, multicast,
 * packets for the host itself) passes to the stack untouched, which knows what to answer. Routes
 * of type blackhole, unreachable and prohibit are dropped.
 *
 * Maps: tx_ports (ifindex to device; a device that is not in it is served by the stack), results
 * (packets per answer of bpf_fib_lookup, see enum result).
 */
#include "include/parse.h"
#include "include/csum.h"

/* The answers of bpf_fib_lookup() are 0 to 9; what is counted apart comes after them. */
enum result {
	RESULT_NO_PORT = 10, /* the route's device is not in tx_ports */
	RESULT_NOT_FOR_US,   /* not routed here: other protocol, options, multicast, TTL spent */
	RESULT_ERROR,	     /* bpf_fib_lookup() refused the question */
	RESULTS,
};

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, 256);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct bpf_devmap_val));
} tx_ports SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, RESULTS);
	__type(key, __u32);
	__type(value, __u64);
} results SEC(".maps");

static __always_inline void count_result(__u32 result)
{
	__u64 *packets = bpf_map_lookup_elem(&results, &result);

	if (packets)
		__sync_fetch_and_add(packets, 1);
}

static __always_inline int pass(__u32 result)
{
	count_result(result);
	return XDP_PASS;
}

static __always_inline bool ask_ipv4(struct iphdr *ip, struct bpf_fib_lookup *fib)
{
	/* 224.0.0.0 and above is multicast, reserved or broadcast. */
	if (ip->version != 4 || ip->ihl != 5 || ip->ttl <= 1 || bpf_ntohl(ip->daddr) >= 0xe0000000)
		return false;
	fib->family = AF_INET;
	fib->tos = ip->tos;
	fib->l4_protocol = ip->protocol;
	fib->tot_len = bpf_ntohs(ip->tot_len);
	fib->ipv4_src = ip->saddr;
	fib->ipv4_dst = ip->daddr;
	return true;
}

static __always_inline bool ask_ipv6(struct ipv6hdr *ip6, struct bpf_fib_lookup *fib)
{
	if (ip6->version != 6 || ip6->hop_limit <= 1 || ip6->daddr.s6_addr[0] == 0xff)
		return false;
	fib->family = AF_INET6;
	fib->flowinfo = *(__be32 *)ip6 & bpf_htonl(0x0fffffff);
	fib->l4_protocol = ip6->nexthdr;
	fib->tot_len = bpf_ntohs(ip6->payload_len) + sizeof(*ip6);
	__builtin_memcpy(fib->ipv6_src, &ip6->saddr, sizeof(fib->ipv6_src));
	__builtin_memcpy(fib->ipv6_dst, &ip6->daddr, sizeof(fib->ipv6_dst));
	return true;
}

static __always_inline void spend_hop(struct ipv6hdr *ip6)
{
	ip6->hop_limit--;
}

static __always_inline void spend_ttl(struct iphdr *ip)
{
	/* TTL is the high byte of its 16-bit word. */
	csum_replace2(&ip->check, bpf_htons(ip->ttl << 8), bpf_htons((ip->ttl - 1) << 8));
	ip->ttl--;
}

SEC("xdp")
int router(struct xdp_md *ctx)
{
	struct bpf_fib_lookup fib = {};
	struct cursor c = frame_start(ctx);
	struct ipv6hdr *ip6;
	struct ethhdr *eth;
	struct iphdr *ip;
	__be16 proto;
	long answer;

	eth = take_eth(&c, &proto);
	if (!eth)
		return pass(RESULT_NOT_FOR_US);
	if (proto == bpf_htons(ETH_P_IP)) {
		ip = take(&c, sizeof(*ip));
		if (!ip || !ask_ipv4(ip, &fib))
			return pass(RESULT_NOT_FOR_US);
	} else if (proto == bpf_htons(ETH_P_IPV6)) {
		ip6 = take(&c, sizeof(*ip6));
		if (!ip6 || !ask_ipv6(ip6, &fib))
			return pass(RESULT_NOT_FOR_US);
	} else {
		return pass(RESULT_NOT_FOR_US);
	}

	fib.ifindex = ctx->ingress_ifindex;
	answer = bpf_fib_lookup(ctx, &fib, sizeof(fib), 0);
	switch (answer) {
	case BPF_FIB_LKUP_RET_SUCCESS:
		break;
	case BPF_FIB_LKUP_RET_BLACKHOLE:
	case BPF_FIB_LKUP_RET_UNREACHABLE:
	case BPF_FIB_LKUP_RET_PROHIBIT:
		count_result(answer);
		return XDP_DROP;
	default:
		return pass(answer < 0 || answer >= RESULT_NO_PORT ? RESULT_ERROR : answer);
	}

	/* Ask before touching the packet: what passes must pass as it came. */
	if (!bpf_map_lookup_elem(&tx_ports, &fib.ifindex))
		return pass(RESULT_NO_PORT);

	count_result(BPF_FIB_LKUP_RET_SUCCESS);
	if (proto == bpf_htons(ETH_P_IP))
		spend_ttl(ip);
	else
		spend_hop(ip6);
	__builtin_memcpy(eth->h_dest, fib.dmac, ETH_ALEN);
	__builtin_memcpy(eth->h_source, fib.smac, ETH_ALEN);
	return bpf_redirect_map(&tx_ports, fib.ifindex, XDP_DROP);
}

char _license[] SEC("license") = "Dual BSD/GPL";
