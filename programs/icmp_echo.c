// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* icmp_echo: answers ping, IPv4 and IPv6, before the stack sees it.
 *
 * The request is turned into its reply in place and sent back (XDP_TX): addresses change sides,
 * the type changes, the checksum is repaired, and the payload is not even read. Everything else
 * passes: also fragments of a ping, whose checksum covers what is not here, requests to multicast
 * and broadcast addresses, and tagged frames.
 */
#include "include/parse.h"
#include "include/csum.h"

/* In .data: user space may change them while the program runs. */
bool answer_ipv4 = true;
bool answer_ipv6 = true;
__u8 reply_ttl = 64;

__u64 answered_ipv4;
__u64 answered_ipv6;

static __always_inline int echo_ipv4(struct ethhdr *eth, struct cursor *c)
{
	struct iphdr *ip = take_ipv4(c);
	struct icmphdr *icmp;
	__be32 addr;

	if (!answer_ipv4 || !ip || ip->protocol != IPPROTO_ICMP)
		return XDP_PASS;
	if (ip->frag_off & bpf_htons(IPV4_OFFSET | IPV4_MF))
		return XDP_PASS;
	icmp = take(c, sizeof(*icmp));
	if (!icmp || icmp->type != ICMP_ECHO || icmp->code != 0)
		return XDP_PASS;

	/* Swapping two words changes no sum. */
	addr = ip->saddr;
	ip->saddr = ip->daddr;
	ip->daddr = addr;
	csum_replace2(&ip->check, bpf_htons(ip->ttl << 8), bpf_htons(reply_ttl << 8));
	ip->ttl = reply_ttl;
	csum_replace2(&icmp->checksum, bpf_htons(ICMP_ECHO << 8), bpf_htons(ICMP_ECHOREPLY << 8));
	icmp->type = ICMP_ECHOREPLY;
	swap_macs(eth);
	__sync_fetch_and_add(&answered_ipv4, 1);
	return XDP_TX;
}

static __always_inline int echo_ipv6(struct ethhdr *eth, struct cursor *c)
{
	struct ipv6hdr *ip6 = take_ipv6(c);
	struct icmp6hdr *icmp6;
	struct in6_addr addr;

	if (!answer_ipv6 || !ip6 || ip6->nexthdr != IPPROTO_ICMPV6)
		return XDP_PASS;
	icmp6 = take(c, sizeof(*icmp6));
	if (!icmp6 || icmp6->icmp6_type != ICMPV6_ECHO_REQUEST || icmp6->icmp6_code != 0)
		return XDP_PASS;

	addr = ip6->saddr;
	ip6->saddr = ip6->daddr;
	ip6->daddr = addr;
	/* No sum covers the hop limit. */
	ip6->hop_limit = reply_ttl;
	csum_replace2(&icmp6->icmp6_cksum, bpf_htons(ICMPV6_ECHO_REQUEST << 8),
		      bpf_htons(ICMPV6_ECHO_REPLY << 8));
	icmp6->icmp6_type = ICMPV6_ECHO_REPLY;
	swap_macs(eth);
	__sync_fetch_and_add(&answered_ipv6, 1);
	return XDP_TX;
}

SEC("xdp")
int icmp_echo(struct xdp_md *ctx)
{
	struct cursor c = frame_start(ctx);
	struct ethhdr *eth;
	__be16 proto;

	eth = take_eth(&c, &proto);
	/* The lowest bit of the first byte is set in group addresses. */
	if (!eth || eth->h_dest[0] & 1)
		return XDP_PASS;
	if (proto == bpf_htons(ETH_P_IP))
		return echo_ipv4(eth, &c);
	if (proto == bpf_htons(ETH_P_IPV6))
		return echo_ipv6(eth, &c);
	return XDP_PASS;
}

char _license[] SEC("license") = "Dual BSD/GPL";
