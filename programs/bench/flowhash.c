// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* flowhash: finds the 5-tuple of an IPv4 packet and drops or passes by a hash of it. Byte by byte,
 * as from packed headers, then arithmetic.
 */
#include "../include/base.h"

struct headers {
	struct ethhdr eth;
	struct iphdr ip;
	__be16 source, dest;
} __attribute__((packed));

static __always_inline __u32 mix(__u32 h, __u32 v)
{
	h ^= v;
	h *= 0x85ebca6b;
	return h << 13 | h >> 19;
}

SEC("xdp")
int flowhash(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct headers *h = data;
	__u32 hash = 0;

	if (data + sizeof(*h) > end)
		return XDP_DROP;
	if (h->eth.h_proto != __builtin_bswap16(ETH_P_IP) || h->ip.ihl != 5)
		return XDP_PASS;
	if (h->ip.protocol != IPPROTO_TCP && h->ip.protocol != IPPROTO_UDP)
		return XDP_PASS;
	hash = mix(hash, h->ip.saddr);
	hash = mix(hash, h->ip.daddr);
	hash = mix(hash, h->source | (__u32)h->dest << 16);
	hash = mix(hash, h->ip.protocol);
	return hash & 1 ? XDP_PASS : XDP_TX;
}

char _license[] SEC("license") = "Dual BSD/GPL";
