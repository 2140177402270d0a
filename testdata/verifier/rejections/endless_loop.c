// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Loop without end.
//
// Rejected: EB0106 at line 13
#include "rejection.h"

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	__u32 queue = ctx->rx_queue_index;

	while (queue > 3)
		hide(queue);
	return XDP_PASS;
}

SEC("xdp")
int mended(struct xdp_md *ctx)
{
	__u32 queue = ctx->rx_queue_index;

	for (int i = 0; i < 16 && queue > 3; i++)
		queue /= 2;
	return XDP_PASS;
}
