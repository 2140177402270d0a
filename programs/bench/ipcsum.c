// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* ipcsum: checks version, length, time to live and checksum of an IPv4 header. */
#include "../include/base.h"

SEC("xdp")
int ipcsum(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	struct iphdr *ip = data + ETH_HLEN;
	__u16 *half = data + ETH_HLEN;
	__u32 sum = 0;

	if (data + ETH_HLEN + sizeof(*ip) > end)
		return XDP_DROP;
	if (eth->h_proto != __builtin_bswap16(ETH_P_IP))
		return XDP_PASS;
	if (ip->version != 4 || ip->ihl != 5 || ip->ttl <= 1)
		return XDP_DROP;
#pragma unroll
	for (int i = 0; i < 10; i++)
		sum += half[i];
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum == 0xffff ? XDP_PASS : XDP_DROP;
}

char _license[] SEC("license") = "Dual BSD/GPL";
