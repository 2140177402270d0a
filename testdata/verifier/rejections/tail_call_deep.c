// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Tail call from where none may be made.
//
// Rejected: EB0806 at line 17
#include "rejection.h"

PROGRAMS(next, 1);

static __noinline int go_on(struct xdp_md *ctx)
{
	bpf_tail_call(ctx, &next, 0);
	return XDP_PASS;
}

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	volatile char buffer[300] = {};

	buffer[ctx->rx_queue_index & 127] = 1;
	return go_on(ctx) + buffer[3];
}

SEC("xdp")
int mended(struct xdp_md *ctx)
{
	volatile char buffer[100] = {};

	buffer[ctx->rx_queue_index & 63] = 1;
	return go_on(ctx) + buffer[3];
}
