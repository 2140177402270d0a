// SPDX-License-Identifier: MIT OR Apache-2.0
//
// The functions of a call chain use too much stack together.
//
// Rejected: EB0306 at line 25
#include "rejection.h"

static __noinline int large(struct xdp_md *ctx)
{
	volatile char buffer[300] = {};

	buffer[ctx->rx_queue_index & 127] = 1;
	return buffer[3];
}

static __noinline int small(struct xdp_md *ctx)
{
	volatile char buffer[100] = {};

	buffer[ctx->rx_queue_index & 63] = 1;
	return buffer[3];
}

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	volatile char buffer[300] = {};

	buffer[ctx->rx_queue_index & 127] = 1;
	return large(ctx) + buffer[3] ? XDP_PASS : XDP_DROP;
}

SEC("xdp")
int mended(struct xdp_md *ctx)
{
	volatile char buffer[300] = {};

	buffer[ctx->rx_queue_index & 127] = 1;
	return small(ctx) + buffer[3] ? XDP_PASS : XDP_DROP;
}
