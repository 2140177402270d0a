// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Part of a saved pointer is read or overwritten.
//
// Rejected: EB0304 at line 12
#include "rejection.h"

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	void *volatile saved = ctx;
	__u32 half = *(volatile __u32 *)&saved;

	return half ? XDP_PASS : XDP_DROP;
}

SEC("xdp")
int mended(struct xdp_md *ctx)
{
	struct xdp_md *volatile saved = ctx;
	struct xdp_md *whole = saved;

	return whole->rx_queue_index ? XDP_PASS : XDP_DROP;
}
