// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Stack offset that is not bounded or not constant.
//
// Rejected: EB0302 at line 14
#include "rejection.h"

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	volatile char seen[16] = {};
	__u32 queue = ctx->rx_queue_index;

	seen[queue] = 1;
	return seen[3] ? XDP_PASS : XDP_DROP;
}

SEC("xdp")
int mended(struct xdp_md *ctx)
{
	volatile char seen[16] = {};
	__u32 queue = ctx->rx_queue_index;

	if (queue >= sizeof(seen))
		return XDP_DROP;
	seen[queue] = 1;
	return seen[3] ? XDP_PASS : XDP_DROP;
}
