// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Access through a pointer that was moved and must not be.
//
// Rejected: EB0410 at line 14
#include "rejection.h"

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	__u32 *queue = &ctx->rx_queue_index;

	hide(queue);
	return *queue ? XDP_PASS : XDP_DROP;
}

SEC("xdp")
int mended(struct xdp_md *ctx)
{
	__u32 queue = ctx->rx_queue_index;

	return queue ? XDP_PASS : XDP_DROP;
}
