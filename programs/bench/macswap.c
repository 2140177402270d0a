// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* macswap: sends the frame back with its addresses exchanged. Loads and stores, nothing else. */
#include "../include/base.h"

SEC("xdp")
int macswap(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u16 *mac = data, dst[3];

	if (data + ETH_HLEN > end)
		return XDP_DROP;
	dst[0] = mac[0];
	dst[1] = mac[1];
	dst[2] = mac[2];
	mac[0] = mac[3];
	mac[1] = mac[4];
	mac[2] = mac[5];
	mac[3] = dst[0];
	mac[4] = dst[1];
	mac[5] = dst[2];
	return XDP_TX;
}

char _license[] SEC("license") = "Dual BSD/GPL";
